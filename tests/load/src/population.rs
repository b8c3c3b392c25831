//! Who is agent number i? Its key, user, broker, address and facts, as arithmetic on the seed: whoever counts can count on it.

use muster_protocol::facts::{FactsError, NodeDocument};
use muster_protocol::message::{NodeId, NodeKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::net::Ipv4Addr;

/// Every agent has `slice.dN = number modulo N`, so that a part of exactly known size can be addressed.
pub(crate) const SLICES: [u32; 4] = [1, 10, 100, 1_000];

/// Three predicates of the usual kind: an equality, one on an asserted fact, and an order.
pub(crate) const THREE_PREDICATES: &str = "os.family = Debian and customer = c00 and cpu.count >= 8";

/// Agents have addresses from here on, and below [`FLOOD_ADDRESSES`].
const FIRST_ADDRESS: u32 = 0x7f01_0001;
/// Wrong passwords come from 65,536 addresses from here on.
const FLOOD_ADDRESSES: u32 = 0x7fc8_0000;

/// All agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Population {
    pub(crate) agents: u32,
    pub(crate) brokers: u32,
    pub(crate) users: u32,
    pub(crate) facts: u32,
    pub(crate) per_address: u32,
    pub(crate) seed: u64,
}

/// What an agent's random values are drawn for; each has its own.
#[derive(Debug, Clone, Copy)]
enum Draw {
    Key,
    User,
    Os,
    Cpus,
    Memory,
    Role,
    Rack,
    Hardware,
    Moving,
    More,
}

impl Population {
    /// How many addresses the agents have.
    pub(crate) fn addresses(&self) -> u32 {
        self.agents.div_ceil(self.per_address)
    }

    /// How many addresses there are for agents.
    pub(crate) const fn most_addresses() -> u32 {
        FLOOD_ADDRESSES - FIRST_ADDRESS
    }

    /// The source address of an agent.
    pub(crate) fn address(&self, agent: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(FIRST_ADDRESS + agent / self.per_address)
    }

    /// The broker of an agent. Neighbours share one, so that each slice has agents at every broker.
    pub(crate) fn broker(&self, agent: u32) -> usize {
        (u64::from(agent) * u64::from(self.brokers) / u64::from(self.agents)) as usize
    }

    /// The user that an agent logs in as.
    pub(crate) fn user(&self, agent: u32) -> u32 {
        self.draw(agent, Draw::User, self.users)
    }

    /// The key of an agent.
    pub(crate) fn key(&self, agent: u32) -> NodeKey {
        let mut key = [0; 32];
        for (part, bytes) in (0..).zip(key.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&mix(self.seed, agent, (Draw::Key, part)).to_le_bytes());
        }
        NodeKey::new(key)
    }

    /// The node id of an agent.
    pub(crate) fn node(&self, agent: u32) -> NodeId {
        NodeId::of(&self.key(agent))
    }

    /// The agents of a slice.
    pub(crate) fn slice(&self, divisor: u32) -> impl Iterator<Item = u32> + use<> {
        (0..self.agents).step_by(divisor as usize)
    }

    /// How many agents [`THREE_PREDICATES`] matches.
    pub(crate) fn three_predicates(&self) -> usize {
        (0..self.agents)
            .filter(|agent| self.os(*agent).0 == "Debian" && self.user(*agent) == 0 && self.cpus(*agent) >= 8)
            .count()
    }

    /// What an agent says about itself. At each `version` the facts that move have moved.
    pub(crate) fn document(&self, agent: u32, version: u32) -> Result<NodeDocument, FactsError> {
        let mut facts = json!({});
        for (path, value) in self.values(agent, version).into_iter().take(self.facts as usize) {
            put(&mut facts, &path, value);
        }
        let role = ROLES[self.draw(agent, Draw::Role, ROLES.len() as u32) as usize];
        NodeDocument::from_value(json!({ "facts": facts, "classes": [role, "base"], "modules": { "node": "load" } }))
    }

    /// Path and value, those first that scenarios build on.
    fn values(&self, agent: u32, version: u32) -> Vec<(String, Value)> {
        let draw = |what, below| self.draw(agent, what, below);
        let moving = |part, below| (mix(self.seed, agent, (Draw::Moving, part + 10 * version)) % below) as u32;
        let (os, release) = self.os(agent);
        let memory = 4_096_u32 << draw(Draw::Memory, 6);
        let address = self.address(agent).octets();
        let mut values: Vec<(String, Value)> =
            vec![("serial".into(), format!("{:04x}-{agent:08}", self.seed & 0xffff).into())];
        values.extend(SLICES.map(|divisor| (format!("slice.d{divisor}"), (agent % divisor).into())));
        let usual: [(&str, Value); 15] = [
            ("os.family", os.into()),
            ("cpu.count", self.cpus(agent).into()),
            ("uptime", (86_400 + version * 60 + moving(0, 60)).into()),
            ("memory.free", moving(1, u64::from(memory)).into()),
            ("load.one", (f64::from(moving(2, 800)) / 100.0).into()),
            ("memory.total", memory.into()),
            ("os.release.full", release.into()),
            ("os.release.major", release.split('.').next().unwrap_or(release).into()),
            ("kernel.release", format!("6.{}.0-{}-amd64", draw(Draw::Os, 5), draw(Draw::Hardware, 30)).into()),
            ("architecture", if draw(Draw::Hardware, 10) == 0 { "aarch64" } else { "x86_64" }.into()),
            ("cpu.model", format!("Model {} at 2.{} GHz", draw(Draw::Hardware, 12), draw(Draw::Hardware, 9)).into()),
            ("network.address", format!("10.{}.{}.{}", address[1], address[2], address[3]).into()),
            (
                "network.mac",
                format!(
                    "02:00:{:02x}:{:02x}:{:02x}:{:02x}",
                    agent >> 24,
                    agent >> 16 & 255,
                    agent >> 8 & 255,
                    agent & 255
                )
                .into(),
            ),
            ("location.rack", format!("r{:03}", draw(Draw::Rack, 400)).into()),
            ("location.row", draw(Draw::Rack, 20).into()),
        ];
        values.extend(usual.map(|(path, value)| (path.to_owned(), value)));
        for number in values.len() as u32..self.facts {
            let drawn = mix(self.seed, agent, (Draw::More, number)) % 50;
            let value = if number % 2 == 0 { format!("value-{drawn}").into() } else { drawn.into() };
            values.push((format!("site.group{}.item{number}", number % 8), value));
        }
        values
    }

    fn os(&self, agent: u32) -> (&'static str, &'static str) {
        const RELEASES: [(&str, &str); 6] = [
            ("Debian", "12.11"),
            ("Debian", "13.1"),
            ("Debian", "11.9"),
            ("RedHat", "9.4"),
            ("RedHat", "8.10"),
            ("Suse", "15.6"),
        ];
        RELEASES[self.draw(agent, Draw::Os, RELEASES.len() as u32) as usize]
    }

    fn cpus(&self, agent: u32) -> u32 {
        1 << self.draw(agent, Draw::Cpus, 7)
    }

    fn draw(&self, agent: u32, what: Draw, below: u32) -> u32 {
        (mix(self.seed, agent, (what, 0)) % u64::from(below)) as u32
    }
}

/// The user of this number, as the policy names it.
pub(crate) fn user_name(user: u32) -> String {
    format!("load-{user:03}")
}

/// The user of this number of bare sessions: one that is no agent, and has no node.
pub(crate) fn session_name(user: u32) -> String {
    format!("bare-{user:03}")
}

/// The customer that the policy asserts for this user's nodes.
pub(crate) fn customer(user: u32) -> String {
    format!("c{user:02}")
}

/// Where the wrong password of this number comes from.
pub(crate) fn flood_address(number: u64) -> Ipv4Addr {
    Ipv4Addr::from_bits(FLOOD_ADDRESSES + (number % 65_536) as u32)
}

/// The filter of a slice.
pub(crate) fn slice_filter(divisor: u32) -> String {
    format!("slice.d{divisor} = 0")
}

const ROLES: [&str; 8] = ["web", "database", "cache", "proxy", "mail", "monitoring", "storage", "build"];

fn put(into: &mut Value, path: &str, value: Value) {
    let mut place = into;
    for name in path.split('.') {
        place = &mut place[name];
    }
    *place = value;
}

/// Splitmix64. Not from a crate, since the agents of a seed must be the same for ever.
fn mix(seed: u64, agent: u32, (what, part): (Draw, u32)) -> u64 {
    [u64::from(agent), what as u64, u64::from(part)].iter().fold(seed, |state, next| {
        let state = (state ^ next).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^ (state >> 31)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_protocol::facts::leaves;
    use std::collections::HashSet;

    fn population() -> Population {
        Population { agents: 2_500, brokers: 3, users: 20, facts: 20, per_address: 1, seed: 7 }
    }

    fn fact(population: &Population, agent: u32, path: &str) -> Value {
        let document = population.document(agent, 0).expect("a document").to_value();
        path.split('.').fold(document["facts"].clone(), |value, name| value[name].clone())
    }

    #[test]
    fn slices_have_exactly_the_agents_that_their_filters_match() {
        let population = population();
        for divisor in SLICES {
            let path = format!("slice.d{divisor}");
            let matching: Vec<u32> =
                (0..population.agents).filter(|agent| fact(&population, *agent, &path) == 0).collect();
            assert_eq!(matching, population.slice(divisor).collect::<Vec<_>>());
            assert_eq!(matching.len(), population.agents.div_ceil(divisor) as usize);
        }
    }

    #[test]
    fn the_three_predicates_match_some_and_the_count_is_that_of_the_documents() {
        let population = population();
        let matches = |agent: &u32| {
            fact(&population, *agent, "os.family") == "Debian"
                && population.user(*agent) == 0
                && fact(&population, *agent, "cpu.count").as_u64() >= Some(8)
        };
        let count = (0..population.agents).filter(matches).count();
        assert_eq!(count, population.three_predicates());
        assert!((1..250).contains(&count), "{count}");
    }

    #[test]
    fn documents_have_the_values_that_were_asked_for_and_the_seed_decides() {
        for facts in [8, 19, 20, 21, 200] {
            let population = Population { facts, ..population() };
            let document = population.document(17, 0).expect("a document");
            let value = document.to_value();
            let values = leaves(&value["facts"])
                .into_iter()
                .filter(|(_, leaf)| !matches!(leaf, muster_protocol::facts::Leaf::Present));
            assert_eq!(values.count(), facts as usize);
            assert_eq!(document.hash(), population.document(17, 0).expect("the same").hash());
            assert_ne!(document.hash(), population.document(18, 0).expect("another agent").hash());
            assert_ne!(document.hash(), population.document(17, 1).expect("another version").hash());
            assert_ne!(
                document.hash(),
                Population { seed: 8, ..population }.document(17, 0).expect("another seed").hash()
            );
        }
    }

    #[test]
    fn agents_are_all_different_and_spread_over_brokers_and_users() {
        let population = population();
        let all = 0..population.agents;
        assert_eq!(all.clone().map(|agent| population.node(agent)).collect::<HashSet<_>>().len(), 2_500);
        assert_eq!(all.clone().map(|agent| population.address(agent)).collect::<HashSet<_>>().len(), 2_500);
        for broker in 0..3 {
            let here = all.clone().filter(|agent| population.broker(*agent) == broker).count();
            assert!((833..=834).contains(&here), "{here}");
        }
        let users: HashSet<u32> = all.map(|agent| population.user(agent)).collect();
        assert_eq!(users.len(), 20);
        let shared = Population { per_address: 100, ..population };
        assert_eq!((shared.addresses(), shared.address(99)), (25, Ipv4Addr::new(127, 1, 0, 1)));
        assert_eq!(shared.address(100), Ipv4Addr::new(127, 1, 0, 2));
    }
}
