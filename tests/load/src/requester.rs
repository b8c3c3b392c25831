//! Who asks? An operator those that match, or a bare session everybody: with the same account of it.

use crate::bare::{Bare, labelled, labels};
use crate::cluster::{Cluster, OPERATOR};
use crate::dialect::Dialect;
use crate::ending::Ending;
use crate::operator::{Gathered, Operator, password};
use crate::population::Population;
use crate::times::now;
use crate::wire;
use anyhow::{Context, Result};
use bytes::Bytes;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::time::timeout;

/// How long replies are awaited.
const ANSWER: Duration = Duration::from_secs(75);

/// One who sends to many.
pub(crate) enum Requester {
    Operator(Box<Operator>),
    Bare(Box<Caller>),
}

impl Requester {
    /// A message that nobody answers, to the agents of this filter, or to all sessions; its id and when it was sent.
    pub(crate) async fn message(&mut self, target: &str, body: &Bytes) -> Result<(String, u64)> {
        match self {
            Requester::Operator(operator) => operator.message(target, body).await,
            Requester::Bare(caller) => caller.call(None, body.len()).await,
        }
    }

    /// As [`Requester::message`], with answers. What there is by then if the run ends.
    pub(crate) async fn request(&mut self, target: &str, body: &Bytes, ending: &Ending) -> Result<Gathered> {
        match self {
            Requester::Operator(operator) => operator.request(target, body, ending).await,
            Requester::Bare(caller) => caller.request(body.len(), ending).await,
        }
    }
}

/// A bare session that calls all others.
pub(crate) struct Caller {
    session: Bare,
    dialect: Dialect,
    population: Population,
    calls: u64,
}

impl Caller {
    /// Logs in at the broker, where replies come back from now on.
    pub(crate) async fn connect(cluster: &Cluster, dialect: Dialect, population: Population) -> Result<Caller> {
        let mut session = connect(cluster, dialect).await?;
        session.subscribe(dialect.reply_queue()).await.context("the one who asks")?;
        Ok(Caller { session, dialect, population, calls: 0 })
    }

    async fn call(&mut self, reply_to: Option<&str>, bytes: usize) -> Result<(String, u64)> {
        self.calls += 1;
        let id = format!("load-{}", self.calls);
        let body = labelled(&id, bytes);
        let sent = now();
        self.session.publish(self.dialect.everybody(), reply_to, &body).await?;
        Ok((id, sent))
    }

    async fn request(&mut self, bytes: usize, ending: &Ending) -> Result<Gathered> {
        let (id, sent) = self.call(Some(self.dialect.reply_queue()), bytes).await?;
        let mut replies: Vec<(u32, u64)> = Vec::with_capacity(self.population.agents as usize);
        let gather = async {
            while replies.len() < self.population.agents as usize {
                let (_, body) = self.session.message().await?;
                let mut labels = labels(&body);
                if labels.next() == Some(&id) {
                    let number = labels.next().and_then(|number| number.parse().ok());
                    replies.push((number.context("a reply without a number")?, now()));
                }
            }
            anyhow::Ok(now())
        };
        // Late, or the run ends: it is seen from what is there.
        let done = match ending.unless(timeout(ANSWER, gather)).await {
            Ok(Ok(done)) => Some(done?),
            Ok(Err(_)) | Err(_) => None,
        };
        let replies = replies.into_iter().map(|(number, moment)| (self.population.node(number), moment)).collect();
        Ok(Gathered { id, sent, replies, done, ..Gathered::default() })
    }
}

/// A bare session of the operator.
pub(crate) async fn connect(cluster: &Cluster, dialect: Dialect) -> Result<Bare> {
    let tls = wire::client_config(&cluster.ca())?;
    let way = (Ipv4Addr::LOCALHOST, cluster.addresses()[0]);
    Bare::connect(dialect, way, &tls, OPERATOR, &password(cluster)?).await.context("the operator's session")
}
