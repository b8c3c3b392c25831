//! Whom does a message concern? Decided once, by its ingress, from interest and summaries; who cannot be asked is named.

use super::{FRESH, Mesh};
use muster_protocol::destination::Destination;
use muster_protocol::filter::{Filter, Ternary};
use muster_protocol::message::BrokerName;
use muster_protocol::request::{Missing, Why};
use std::collections::BTreeSet;

/// Which brokers a message is for, and of which nothing can be had.
#[derive(Debug, Default)]
pub struct Audience {
    /// These.
    pub to: Vec<BrokerName>,
    /// Without these.
    pub without: Vec<Missing>,
}

/// What a message asks for, as far as summaries can tell.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    /// It is for nodes, not for all that subscribe.
    pub nodes: bool,
    /// Target and scope.
    pub target: Option<&'a Filter>,
    /// Nodes must announce this module.
    pub module: Option<&'a str>,
    /// Nodes that are gone or registering count too.
    pub also_gone: bool,
    /// It is no loss where it is not known whether anybody wants it.
    pub if_wanted: bool,
    /// Whoever asks has a scope and sees who was asked. What all nodes of a broker have, the others' included, rules no broker out
    /// then, and how many they are is not said.
    pub scoped: bool,
}

impl Mesh {
    /// Whom a message concerns: brokers that want its destination and whose nodes may match. What a link on the way does not let
    /// pass, and what there is no way to, is named.
    pub fn audience(&self, destination: Option<&Destination>, asked: Asked<'_>, now: u64) -> Audience {
        let mut audience = Audience::default();
        let text = destination.map(Destination::as_str);
        for broker in &self.list {
            let record = self.topology.get(broker);
            let instance = record.map_or(0, |record| record.instance);
            let heard = record.is_some();
            // What was last heard of a broker out of reach says nothing of who is connected to it by now.
            let reaches = self.reaches(broker);
            let may_rule_out = reaches && !asked.scoped;
            let is_known =
                may_rule_out && self.found.get(broker).is_none_or(|since| now.saturating_sub(*since) >= FRESH);
            if (is_known || asked.if_wanted)
                && destination.is_some_and(|to| !self.interests.wants(broker, instance, to))
            {
                continue;
            }
            if is_known && !self.concerns(broker, instance, &asked) {
                continue;
            }
            if asked.if_wanted && self.interests.have(broker).0 != instance {
                continue;
            }
            let missing = |why, text| self.missing(broker, why, text, asked.scoped);
            if !reaches {
                let text =
                    if heard { "there is no way to it now" } else { "it was not heard of since this broker started" };
                audience.without.push(missing(Why::Unreachable, text));
            } else if text.is_some_and(|to| !self.routes.lets_pass(broker, to)) {
                let text = "a link on the way does not let this destination pass";
                audience.without.push(missing(Why::Filtered, text));
            } else {
                audience.to.push(broker.clone());
            }
        }
        audience
    }

    fn concerns(&self, broker: &BrokerName, instance: u64, asked: &Asked<'_>) -> bool {
        let Asked { nodes, target, module, also_gone, .. } = asked;
        if !*nodes {
            return true;
        }
        if *also_gone && self.summaries.is_restless(broker, instance) {
            return true;
        }
        self.summaries.decide(broker, instance, *target, *module) != Ternary::No
    }

    /// What is said of a broker that does not answer; with the number of its nodes, unless whoever asked has a scope.
    pub fn silent(&self, broker: &BrokerName, text: &str, scoped: bool) -> Missing {
        self.missing(broker, Why::Unreachable, text, scoped)
    }

    fn missing(&self, broker: &BrokerName, why: Why, text: &str, scoped: bool) -> Missing {
        let nodes = self.summaries.nodes(broker).filter(|_| !scoped);
        Missing { broker: broker.to_string(), why, text: text.to_owned(), nodes }
    }

    /// Whether the links that lead to these brokers take another request.
    pub fn has_room(&self, to: &[BrokerName]) -> bool {
        let hops: BTreeSet<&BrokerName> = to.iter().filter_map(|broker| self.routes.next_hop(broker)).collect();
        hops.into_iter().filter_map(|hop| self.neighbours.get(hop)).all(|link| link.outbox.has_room())
    }
}
