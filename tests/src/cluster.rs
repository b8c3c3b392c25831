//! How does a test get a mesh? Real brokers that link, links that are cut and healed, and one wait until all of them agree.

use crate::made::{Family, NAMES};
use crate::stomp::Stomp;
use crate::{Broker, Node, Setup, until, until_within};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::ops::Index;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use toml::{Table, Value as Setting};

/// Longer than the mesh needs to notice a dead broker and to agree again, on a machine that is busy with other tests.
pub const CALM: Duration = Duration::from_secs(40);

/// A mesh that is not started yet.
#[derive(Debug)]
pub struct Plan {
    setups: Vec<Setup>,
    edges: Vec<Edge>,
    /// Brokers that are in the list, and are not started.
    absent: Vec<String>,
}

/// A configured link.
#[derive(Debug, Clone)]
struct Edge {
    ends: [String; 2],
    /// Settings of each end's `[[link]]`.
    settings: [Table; 2],
}

/// A running mesh.
#[derive(Debug)]
pub struct Cluster {
    brokers: BTreeMap<String, Broker>,
    links: BTreeMap<String, SocketAddr>,
    /// Both ends, in order; whether it is up.
    edges: BTreeMap<[String; 2], bool>,
    paused: BTreeSet<String>,
    /// Of each broker, an operator who asks for the mesh, and the process that they are connected to.
    watchers: RefCell<BTreeMap<String, (u32, Stomp)>>,
}

impl Plan {
    /// These brokers and no link.
    pub fn of(names: &[&str]) -> Plan {
        let setups = names.iter().map(|name| Setup::of(Family::Ours, name)).collect();
        Plan { setups, edges: Vec::new(), absent: Vec::new() }
    }

    /// noc1, dc1 and dc2, each linked with both others.
    pub fn triangle() -> Plan {
        Plan::of(&NAMES[..3]).link("noc1", "dc1").link("noc1", "dc2").link("dc1", "dc2")
    }

    /// noc1 – dc1 – dc2 – dc3, so many of them.
    pub fn line(count: usize) -> Plan {
        let names = &NAMES[..count];
        names.windows(2).fold(Plan::of(names), |plan, pair| plan.link(pair[0], pair[1]))
    }

    /// As [`Plan::line`], with a link between the last and the first.
    pub fn ring(count: usize) -> Plan {
        Plan::line(count).link(NAMES[count - 1], NAMES[0])
    }

    /// Links two brokers; the first dials.
    #[must_use]
    pub fn link(mut self, from: &str, to: &str) -> Plan {
        let ends = [from.to_owned(), to.to_owned()];
        self.edges.push(Edge { ends, settings: [Table::new(), Table::new()] });
        self
    }

    /// Another broker of the list, which is not started: somebody else may take its part.
    #[must_use]
    pub fn absent(mut self, name: &str) -> Plan {
        self.absent.push(name.to_owned());
        self
    }

    /// The broker of this name from another cluster's files.
    #[must_use]
    pub fn from(mut self, family: Family, name: &str) -> Plan {
        *self.setup(name) = Setup::of(family, name);
        self
    }

    /// Changes a setting of the `[[link]]` of `at` that leads to `to`, such as `cost` or `send`.
    #[must_use]
    pub fn link_setting(mut self, at: &str, to: &str, name: &str, value: impl Into<Setting>) -> Plan {
        let edge = self.edges.iter_mut().find(|edge| edge.side(at).is_some() && edge.side(to).is_some());
        let edge = edge.unwrap_or_else(|| panic!("no link between {at} and {to}"));
        let side = edge.side(at).expect("just looked");
        edge.settings[side].insert(name.to_owned(), value.into());
        self
    }

    /// Changes a setting of musterd.toml of one broker.
    #[must_use]
    pub fn setting(mut self, broker: &str, name: &str, value: impl Into<Setting>) -> Plan {
        self.setup(broker).set(name, value);
        self
    }

    /// Another policy at one broker.
    #[must_use]
    pub fn policy(mut self, broker: &str, text: &str) -> Plan {
        self.setup(broker).set_policy(text);
        self
    }

    fn setup(&mut self, broker: &str) -> &mut Setup {
        self.setups.iter_mut().find(|setup| setup.name() == broker).unwrap_or_else(|| panic!("no broker {broker}"))
    }

    /// Starts all brokers, and waits until they agree on the mesh.
    pub fn start(self) -> Cluster {
        let cluster = self.start_unsettled();
        cluster.until_settled();
        cluster
    }

    /// Starts all brokers, and waits for nothing more than their listening.
    pub fn start_unsettled(self) -> Cluster {
        let Plan { mut setups, edges, absent } = self;
        let policies: Vec<String> = setups.iter().map(|setup| setup.policy_text().to_owned()).collect();
        // Whoever takes a port between our look and the broker's bind spoils that try only.
        for _ in 0..10 {
            let names = setups.iter().map(Setup::name).chain(absent.iter().map(String::as_str));
            let links: BTreeMap<String, SocketAddr> = names.map(|name| (name.to_owned(), free_address())).collect();
            for (setup, policy) in setups.iter_mut().zip(&policies) {
                setup.set("listen.stomp", vec![free_address().to_string()]);
                setup.set("listen.links", vec![links[setup.name()].to_string()]);
                setup.set("link", link_tables(setup.name(), &edges, &links));
                setup.set_policy(&format!("{policy}{}", broker_list(&links)));
            }
            match start_all(setups) {
                Ok(brokers) => return Cluster::new(brokers, links, &edges),
                Err(back) => setups = back,
            }
        }
        panic!("no free ports after ten tries");
    }
}

impl Edge {
    fn side(&self, name: &str) -> Option<usize> {
        self.ends.iter().position(|end| end == name)
    }
}

/// Starts all, or none if an address is in use: those that had started are ended and set up anew.
fn start_all(setups: Vec<Setup>) -> Result<BTreeMap<String, Broker>, Vec<Setup>> {
    let mut brokers = BTreeMap::new();
    let mut waiting = setups.into_iter();
    while let Some(setup) = waiting.next() {
        match setup.start_unless_in_use() {
            Ok(broker) => drop(brokers.insert(broker.name().to_owned(), broker)),
            Err(setup) => {
                let started = brokers.into_values().map(Broker::into_setup);
                return Err(started.chain([setup]).chain(waiting).collect());
            }
        }
    }
    Ok(brokers)
}

/// The `[[link]]` tables of one broker.
fn link_tables(name: &str, edges: &[Edge], links: &BTreeMap<String, SocketAddr>) -> Vec<Table> {
    let mut tables = Vec::new();
    for edge in edges {
        let Some(side) = edge.side(name) else { continue };
        let to = &edge.ends[1 - side];
        let mut table = Table::new();
        table.insert("to".into(), to.as_str().into());
        table.insert("address".into(), links[to].to_string().into());
        table.insert("dial".into(), (side == 0).into());
        table.extend(edge.settings[side].clone());
        tables.push(table);
    }
    tables
}

/// The `[brokers.NAME]` tables of a policy.
pub fn broker_list(links: &BTreeMap<String, SocketAddr>) -> String {
    links.iter().map(|(name, address)| format!("\n[brokers.{name}]\nlink = \"{address}\"\n")).collect()
}

/// A loopback address that nobody listens on, below the ports that the system hands out by itself: what is dialled from here
/// never takes it.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes side by side begin at different places.
    let begin = u16::try_from(std::process::id() * 97 % 12_000).expect("below 12,000");
    for _ in 0..12_000 {
        let port = 20_000 + (begin + NEXT.fetch_add(1, Ordering::Relaxed) % 12_000) % 12_000;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port between 20000 and 31999");
}

impl Cluster {
    /// Three brokers, each linked with both others; they agree.
    pub fn triangle() -> Cluster {
        Plan::triangle().start()
    }

    /// Brokers in a ring; they agree.
    pub fn ring(count: usize) -> Cluster {
        Plan::ring(count).start()
    }

    /// Brokers in a line; they agree.
    pub fn line(count: usize) -> Cluster {
        Plan::line(count).start()
    }

    fn new(brokers: BTreeMap<String, Broker>, links: BTreeMap<String, SocketAddr>, edges: &[Edge]) -> Cluster {
        let edges = edges.iter().map(|edge| (ordered(&edge.ends[0], &edge.ends[1]), true)).collect();
        Cluster { brokers, links, edges, paused: BTreeSet::new(), watchers: RefCell::default() }
    }

    /// The names of all brokers.
    pub fn names(&self) -> Vec<String> {
        self.brokers.keys().cloned().collect()
    }

    /// Where a broker listens for links.
    pub fn link_address(&self, name: &str) -> SocketAddr {
        self.links[name]
    }

    /// The `[brokers]` of the policy.
    pub fn broker_list(&self) -> String {
        broker_list(&self.links)
    }

    /// Another policy at one broker, loaded by `musterd ctl reload`.
    pub fn reload(&self, name: &str, policy: &str) {
        self[name].reload(&format!("{policy}{}", self.broker_list()));
    }

    /// An operator of the NOC at a broker, with a reply queue.
    pub fn operator(&self, name: &str) -> Stomp {
        Stomp::operator(&self[name], "noc")
    }

    /// Nodes `numbers` at a broker, with facts `n` and `at`, which the user of the agents extends.
    pub fn nodes(&self, name: &str, user: &str, numbers: impl IntoIterator<Item = u8>) -> Vec<Node> {
        let register = |n| Node::register(&self[name], user, n, json!({ "n": n, "at": name }));
        numbers.into_iter().map(register).collect()
    }

    /// Takes a link down by `musterd ctl link down` at its first end.
    pub fn cut(&mut self, a: &str, b: &str) {
        self.set_link(a, b, false);
    }

    /// Takes a link up again.
    pub fn heal(&mut self, a: &str, b: &str) {
        self.set_link(a, b, true);
    }

    fn set_link(&mut self, a: &str, b: &str, up: bool) {
        let edge = self.edges.get_mut(&ordered(a, b)).unwrap_or_else(|| panic!("no link between {a} and {b}"));
        *edge = up;
        let said = self[a].ctl(&format!("link {} {b}", if up { "up" } else { "down" }));
        assert_eq!(said.code, 0, "{said:?}");
    }

    /// Ends a broker as `kill -9` does.
    pub fn kill(&mut self, name: &str) {
        self.broker(name).kill();
    }

    /// Ends a broker by SIGTERM, and waits until it is over; its exit code.
    pub fn term(&mut self, name: &str) -> i32 {
        self[name].signal(Signal::TERM);
        self.broker(name).wait().code().unwrap_or(-1)
    }

    /// Stops a broker in the middle of whatever it does; its connections stay.
    pub fn pause(&mut self, name: &str) {
        self[name].signal(Signal::STOP);
        let stat = format!("/proc/{}/stat", self[name].id());
        // A signal takes its time: what comes before the stop is still dealt with.
        until(&format!("{name} has stopped"), || std::fs::read_to_string(&stat).ok()?.contains(") T ").then_some(()));
        self.paused.insert(name.to_owned());
    }

    /// Lets it go on.
    pub fn resume(&mut self, name: &str) {
        self[name].signal(Signal::CONT);
        self.paused.remove(name);
    }

    /// Starts a broker that has ended again, with the same files.
    pub fn start(&mut self, name: &str) {
        self.broker(name).start_again();
    }

    fn broker(&mut self, name: &str) -> &mut Broker {
        self.brokers.get_mut(name).unwrap_or_else(|| panic!("no broker {name}"))
    }

    /// What a broker answers to `/muster/mesh`; `None` if it does not.
    pub fn mesh(&self, name: &str) -> Option<Value> {
        let mut watchers = self.watchers.borrow_mut();
        let process = self[name].id();
        if watchers.get(name).is_none_or(|(at, _)| *at != process) {
            watchers.insert(name.to_owned(), (process, self.operator(name)));
        }
        let (_, watcher) = watchers.get_mut(name)?;
        watcher.ask("/muster/mesh", None, &json!({})).ok()
    }

    /// What `musterd ctl status` of a broker says of its link to another; `None` if it has none.
    pub fn link_status(&self, at: &str, to: &str) -> Option<Value> {
        let status = self[at].status();
        status["links"].as_array()?.iter().find(|link| link["peer"] == to).cloned()
    }

    /// A counter of the link of `at` to `to`, such as `data_out.bytes`; 0 without a link.
    pub fn link_count(&self, at: &str, to: &str, counter: &str) -> u64 {
        let Some(link) = self.link_status(at, to) else { return 0 };
        let count = counter.split('.').fold(&link["counts"], |value, part| &value[part]);
        count.as_u64().unwrap_or_else(|| panic!("no counter {counter} in {link}"))
    }

    /// Waits until all brokers that can reach each other agree on the topology, which is that of the links that are up.
    pub fn until_settled(&self) {
        for part in self.parts() {
            let what = format!("{part:?} agree on the mesh");
            let linked = |ends: &&[String; 2]| ends.iter().all(|end| part.contains(end)) && self.edges[*ends];
            let links: BTreeSet<[String; 2]> = self.edges.keys().filter(linked).cloned().collect();
            until_within(&what, CALM, || {
                let answers: Vec<Value> = part.iter().filter_map(|name| self.mesh(name)).collect();
                agree(&answers, &part, &links).then_some(())
            });
        }
    }

    /// Waits until every broker that can reach them has heard of so many registered nodes at these brokers.
    pub fn until_nodes(&self, counts: &[(&str, u64)]) {
        for part in self.parts() {
            for name in &part {
                let wanted = counts.iter().filter(|(at, _)| part.contains(*at));
                let wanted: Vec<&(&str, u64)> = wanted.collect();
                until(&format!("{name} has heard of {wanted:?}"), || {
                    // Of the control socket: the count is not told to operators that have a scope.
                    let mesh = self[name].status()["state"]["mesh"].take();
                    wanted.iter().all(|(at, count)| broker_of(&mesh, at)["nodes"] == *count).then_some(())
                });
            }
        }
    }

    /// The parts of the mesh between which no link is up: of brokers that run.
    fn parts(&self) -> Vec<BTreeSet<String>> {
        let mut left: BTreeSet<String> = self.brokers.keys().filter(|name| self.lives(name)).cloned().collect();
        let mut parts = Vec::new();
        while let Some(first) = left.pop_first() {
            let mut part = BTreeSet::from([first]);
            while let Some(next) = left.iter().find(|name| part.iter().any(|other| self.linked(name, other))).cloned() {
                left.remove(&next);
                part.insert(next);
            }
            parts.push(part);
        }
        parts
    }

    fn lives(&self, name: &str) -> bool {
        !self.paused.contains(name) && self.brokers[name].answers()
    }

    fn linked(&self, a: &str, b: &str) -> bool {
        self.edges.get(&ordered(a, b)) == Some(&true)
    }

    /// All logs, for a look at the whole.
    pub fn logs(&self) -> BTreeMap<&str, String> {
        self.brokers.iter().map(|(name, broker)| (name.as_str(), broker.log())).collect()
    }
}

impl Index<&str> for Cluster {
    type Output = Broker;

    fn index(&self, name: &str) -> &Broker {
        self.brokers.get(name).unwrap_or_else(|| panic!("no broker {name}"))
    }
}

fn ordered(a: &str, b: &str) -> [String; 2] {
    if a < b { [a.to_owned(), b.to_owned()] } else { [b.to_owned(), a.to_owned()] }
}

/// Whether these answers to `/muster/mesh` are of all of `part`, of one epoch, reach exactly `part`, and know exactly these links.
fn agree(answers: &[Value], part: &BTreeSet<String>, links: &BTreeSet<[String; 2]>) -> bool {
    let epochs: BTreeSet<&str> = answers.iter().filter_map(|mesh| mesh["epoch"].as_str()).collect();
    let is_so = |mesh: &Value| reached(mesh) == *part && linked(mesh, part) == *links && follows(mesh, links);
    answers.len() == part.len() && epochs.len() == 1 && answers.iter().all(is_so)
}

/// The links that both ends list, between brokers of `part`.
fn linked(mesh: &Value, part: &BTreeSet<String>) -> BTreeSet<[String; 2]> {
    let mut found = BTreeSet::new();
    for broker in mesh["brokers"].as_array().into_iter().flatten() {
        for link in broker["links"].as_array().into_iter().flatten().filter(|link| link["two_way"] == true) {
            let (from, to) = (broker["name"].as_str().unwrap_or_default(), link["to"].as_str().unwrap_or_default());
            if part.contains(from) && part.contains(to) {
                found.insert(ordered(from, to));
            }
        }
    }
    found
}

/// Whether the ways lead over these links, and no link makes a shorter one: links are known a moment before ways are computed.
fn follows(mesh: &Value, links: &BTreeSet<[String; 2]>) -> bool {
    let brokers = mesh["brokers"].as_array().into_iter().flatten();
    let here = mesh["broker"].as_str().unwrap_or_default();
    let is_linked = |from: &str, to: &Value| links.contains(&ordered(from, to.as_str().unwrap_or_default()));
    let over_links = brokers.clone().all(|broker| {
        let mut at = here;
        broker["path"].as_array().into_iter().flatten().all(|next| {
            let from = std::mem::replace(&mut at, next.as_str().unwrap_or_default());
            is_linked(from, next)
        })
    });
    let is_shortest = |broker: &Value| {
        let ends = broker["links"].as_array().into_iter().flatten().filter(|link| link["two_way"] == true);
        ends.filter_map(|link| {
            let far = broker_of(mesh, link["to"].as_str()?)["cost"].as_u64()?;
            Some(broker["cost"].as_u64()? <= far + link["cost"].as_u64()?)
        })
        .all(|is_so| is_so)
    };
    over_links && brokers.clone().all(is_shortest)
}

/// The brokers that one of them can reach, itself included.
pub fn reached(mesh: &Value) -> BTreeSet<String> {
    let brokers = mesh["brokers"].as_array().into_iter().flatten();
    let reached =
        brokers.filter(|broker| ["here", "reachable"].contains(&broker["reach"].as_str().unwrap_or_default()));
    reached.filter_map(|broker| Some(broker["name"].as_str()?.to_owned())).collect()
}

/// What an answer to `/muster/mesh` says of one broker; null if nothing.
pub fn broker_of(mesh: &Value, name: &str) -> Value {
    let brokers = mesh["brokers"].as_array().into_iter().flatten();
    brokers.clone().find(|broker| broker["name"] == name).cloned().unwrap_or(Value::Null)
}
