//! What does somebody do who tries passwords? One wrong login after another, each from another address.

use crate::agent::kind;
use crate::crowd::Crowd;
use crate::population::flood_address;
use crate::wire;
use muster_protocol::error::Code;
use muster_protocol::message::NodeKey;
use muster_protocol::session::{self, Login, NodeLogin, SessionError};
use secrecy::SecretString;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// What a wrong password must never meet.
pub(crate) const GOT_IN: &str = "GOT IN";
const WITHIN: Duration = Duration::from_secs(10);
/// After a connection that was not even taken; otherwise a full broker would be met by a busy loop, and not by a flood.
const PAUSE: Duration = Duration::from_millis(50);

/// Tries until it is aborted: every third time somebody who does not exist, else one of `users`; every second time as a node.
pub(crate) async fn flood(crowd: Arc<Crowd>, users: Vec<String>, place: u64, together: u64) {
    let mut number = place;
    loop {
        let broker = crowd.brokers[(number % crowd.brokers.len() as u64) as usize];
        let user = match number % 3 {
            0 => format!("nobody-{}", number % 1_000),
            _ => users.get(number as usize % users.len().max(1)).cloned().unwrap_or_default(),
        };
        let node =
            number.is_multiple_of(2).then(|| NodeLogin { key: NodeKey::new(rand::random()), session: 1, time: 0 });
        let password = SecretString::from(format!("wrong-{:032x}", rand::random::<u128>()));
        let login = Login { user, password, node, heart_beat: Duration::ZERO, limit: WITHIN };
        match wire::connect(flood_address(number), broker, &crowd.tls, WITHIN).await {
            Ok(stream) => match session::login(stream, &login).await {
                Ok(_) => crowd.flooded(GOT_IN),
                Err(SessionError::Refused { code: Some(code @ (Code::AuthFailed | Code::Busy)), .. }) => {
                    crowd.flooded(code.as_str());
                }
                Err(error) => crowd.flooded(&kind("login", &error)),
            },
            Err((what, _)) => {
                crowd.flooded(what);
                sleep(PAUSE).await;
            }
        }
        number += together;
    }
}
