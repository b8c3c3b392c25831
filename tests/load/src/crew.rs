//! How are the generators led? All get an order, all answer; when the run ends early, they answer with what they have.

use crate::ending::{Ended, Ending};
use crate::orders::{Answer, Counts, Order};
use anyhow::{Context, Result, bail};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// How long a generator may take to answer with what it has.
const AT_ONCE: Duration = Duration::from_secs(20);

/// The generators.
#[derive(Debug, Default)]
pub(crate) struct Crew(Vec<Member>);

/// A generator. It ends when its standard input does.
#[derive(Debug)]
struct Member {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Crew {
    /// Starts a generator, which must have understood who its agents are.
    pub(crate) async fn join(&mut self, begin: Order, ending: &Ending) -> Result<()> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--as-generator")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let (orders, answers) = (child.stdin.take(), child.stdout.take());
        let (orders, answers) = orders.zip(answers).context("a generator without pipes")?;
        let mut member = Member { child, orders, answers: BufReader::new(answers).lines() };
        member.tell(&begin).await?;
        let answer = ending.unless(member.answer()).await??;
        self.0.push(member);
        if let Answer::Failed(why) = answer {
            bail!("a generator cannot begin: {why}")
        }
        Ok(())
    }

    /// Their processes.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.0.iter().filter_map(|member| member.child.id()).collect()
    }

    /// Gives each its order, and waits for all answers; whether they are all there is to say, the caller must see.
    pub(crate) async fn ask(&mut self, order: impl Fn(usize) -> Order, ending: &Ending) -> Result<Vec<Answer>> {
        for (place, member) in self.0.iter_mut().enumerate() {
            member.tell(&order(place)).await?;
        }
        let mut answers = Vec::new();
        while answers.len() < self.0.len() {
            let place = answers.len();
            match ending.unless(self.0[place].answer()).await {
                Ok(answer) => answers.push(answer?),
                Err(Ended(_)) => break,
            }
        }
        for member in &mut self.0[answers.len()..] {
            member.tell(&Order::Enough).await?;
        }
        for member in &mut self.0[answers.len()..] {
            let answer = timeout(AT_ONCE, member.answer()).await.context("a generator does not answer")?;
            answers.push(answer?);
        }
        Ok(answers)
    }

    /// As [`Crew::ask`], where all orders and answers are alike.
    pub(crate) async fn tell(&mut self, order: &Order, ending: &Ending) -> Result<()> {
        self.ask(|_| order.clone(), ending).await.map(drop)
    }

    /// What they have counted, all together.
    pub(crate) async fn counts(&mut self, ending: &Ending) -> Result<Counts> {
        let answers = self.ask(|_| Order::Count, ending).await?;
        let counts = answers
            .into_iter()
            .filter_map(|answer| if let Answer::Counts(counts) = answer { Some(counts) } else { None });
        Ok(counts.fold(Counts::default(), Counts::plus))
    }

    /// Ends them.
    pub(crate) async fn dismiss(&mut self) {
        for mut member in self.0.drain(..) {
            drop(member.orders);
            if timeout(Duration::from_secs(2), member.child.wait()).await.is_err() {
                let _ = member.child.kill().await;
            }
        }
    }
}

impl Member {
    async fn tell(&mut self, order: &Order) -> Result<()> {
        let mut line = serde_json::to_string(order)?;
        line.push('\n');
        self.orders.write_all(line.as_bytes()).await.context("a generator has ended")
    }

    /// May be dropped between polls.
    async fn answer(&mut self) -> Result<Answer> {
        let line = self.answers.next_line().await?.context("a generator has ended")?;
        Ok(serde_json::from_str(&line)?)
    }
}
