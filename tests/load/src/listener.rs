//! What does a bare session do? It connects, hears what is sent to all, notes when, and answers where an answer is asked for.

use crate::bare::{Bare, BareError, labelled, labels};
use crate::crowd::Crowd;
use crate::dialect::Dialect;
use crate::population::session_name;
use crate::times::now;
use muster_protocol::dial::BackOff;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Lives until it is aborted. In a connect storm it waits for its turn, until it has been in once.
pub(crate) async fn live(crowd: Arc<Crowd>, dialect: Dialect, number: u32) {
    let mut back_off = BackOff::new(Duration::from_millis(250), Duration::from_secs(5));
    let mut has_been_in = false;
    loop {
        let turn = if has_been_in { None } else { crowd.turns.clone().acquire_owned().await.ok() };
        let began = now();
        match enter(&crowd, dialect, number).await {
            Ok(mut session) => {
                has_been_in = true;
                crowd.arrived(number, began);
                drop(turn);
                let Err(end) = listen(&crowd, &mut session, number).await;
                crowd.met(&format!("session: {}", end.kind()));
            }
            Err(error) => crowd.met(&format!("login: {}", error.kind())),
        }
        sleep(back_off.next(rand::random())).await;
    }
}

async fn enter(crowd: &Crowd, dialect: Dialect, number: u32) -> Result<Bare, BareError> {
    let population = &crowd.population;
    let way = (population.address(number), crowd.brokers[population.broker(number)]);
    let user = session_name(population.user(number));
    let mut session = Bare::connect(dialect, way, &crowd.tls, &user, &crowd.password).await?;
    session.subscribe(dialect.everybody()).await?;
    Ok(session)
}

async fn listen(crowd: &Crowd, session: &mut Bare, number: u32) -> Result<std::convert::Infallible, BareError> {
    loop {
        let (reply_to, body) = session.message().await?;
        let request = labels(&body).next().unwrap_or_default();
        crowd.delivered(request);
        if let Some(reply_to) = reply_to {
            if !crowd.reply_delay.is_zero() {
                sleep(crowd.reply_delay).await;
            }
            let reply = labelled(&format!("{request} {number}"), crowd.reply.len());
            session.publish(&reply_to, None, &reply).await?;
        }
    }
}
