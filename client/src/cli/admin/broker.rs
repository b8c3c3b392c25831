//! `muster admin broker`: which brokers may be linked, and where are they reached?

use super::edit::{Asked, Options};
use super::list::{List, Output, fetch, joined, or_dash};
use crate::cli::{Context, Failure};
use clap::Subcommand;
use muster_protocol::dial::{Address, DEFAULT_PORT, LINK_PORT};
use muster_protocol::message::BrokerName;
use muster_protocol::policy::{BrokerFields, Edit, Named, Part};

/// `admin broker`.
#[derive(Debug, Subcommand)]
pub(crate) enum Broker {
    /// Add a broker to the list, or set its addresses; those that are not named stay
    Set {
        /// Which broker: its certificate is for NAME.CLUSTER.muster
        #[arg(value_parser = name)]
        name: String,
        /// Where it listens for links
        #[arg(long, value_name = "HOST[:PORT]", value_parser = link)]
        link: Option<String>,
        /// Where agents and operators reach it, the best address first; repeat it for all of them
        #[arg(long, value_name = "HOST[:PORT]", value_parser = stomp)]
        stomp: Vec<String>,
        #[command(flatten)]
        options: Options,
    },
    /// Remove a broker from the list: nobody links it any more
    Remove {
        /// Which broker
        #[arg(value_parser = name)]
        name: String,
        #[command(flatten)]
        asked: Asked,
    },
    /// Show a broker of the list; `muster mesh` says which are there
    Show {
        /// Which broker
        #[arg(value_parser = name)]
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// List the brokers that may be linked; `muster mesh` says which are there
    List {
        #[command(flatten)]
        output: Output,
    },
}

impl Broker {
    pub(super) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        match self {
            Broker::Set { name, link, stomp, options } => {
                let stomp = (!stomp.is_empty()).then(|| stomp.clone());
                let fields = BrokerFields { name: name.clone(), link: link.clone(), stomp };
                options.carry_out(context, Edit::BrokerSet(fields)).await
            }
            Broker::Remove { name, asked } => {
                asked.carry_out(context, Edit::BrokerRemove(Named { name: name.clone() })).await
            }
            Broker::Show { name, output } => brokers(context, Some(name), output).await,
            Broker::List { output } => brokers(context, None, output).await,
        }
    }
}

async fn brokers(context: &mut Context, name: Option<&str>, output: &Output) -> Result<u8, Failure> {
    let answer = fetch(context, Part::Brokers, name).await?;
    let words = ["broker", "brokers", "brokers"];
    let list = List { words, name, generation: answer.generation, members: &answer.brokers };
    list.table(context, output.json, ["NAME", "LINK", "STOMP"], |broker| {
        [broker.name.clone(), or_dash(broker.link.as_ref()), joined(&broker.stomp)]
    })
}

fn name(text: &str) -> Result<String, String> {
    let cure = "a broker's name is a DNS label: 1 to 63 of a-z, 0-9 and -, no - at the ends";
    BrokerName::parse(text).map(|_| text.to_owned()).map_err(|_| cure.into())
}

fn link(text: &str) -> Result<String, String> {
    address(text, LINK_PORT)
}

fn stomp(text: &str) -> Result<String, String> {
    address(text, DEFAULT_PORT)
}

fn address(text: &str, port: u16) -> Result<String, String> {
    Address::parse_with(text, port).map(|_| text.to_owned()).map_err(|error| error.to_string())
}
