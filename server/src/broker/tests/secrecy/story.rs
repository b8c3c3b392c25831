//! What happens in both worlds, and what differs? A policy, nodes and their documents, the steps of both, all from one seed.
//!
//! What is secret is said here once more, by a table and by the evaluator of filters alone: the broker's own idea of it is what is
//! tested.

use super::super::across::NAMES;
use super::super::{node_id, send};
use crate::broker::simulation::dice::Dice;
use muster_protocol::filter::Filter;
use muster_protocol::frame::Frame;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

/// Stands in every text of a fact that is hidden from the viewer.
pub(super) const SECRET: &str = "s3cr3t";
/// Stands in facts of nodes outside of the viewer's scope, and in no filter.
pub(super) const OUTSIDE: &str = "0uts1de#";

/// The viewer, and whoever else asks.
pub(super) const VIEWER: &str = "eve";
pub(super) const OTHER: &str = "bob";
pub(super) const NOISE: &str = "noc";

/// Paths of values that nodes may have.
const LEAVES: [&str; 18] = [
    "host",
    "hostname",
    "net.ip",
    "net.if.name",
    "networking.ip",
    "os.family",
    "os.release",
    "os.key",
    "load",
    "flag",
    "tags",
    "deep.a.pin",
    "deep.a.level",
    "chassis.serial",
    "kernel",
    "customer",
    "site",
    "tier.key",
];
/// Paths of objects and lists, which a node may have without anything in them.
const HOLDERS: [&str; 6] = ["os", "deep", "deep.a", "chassis", "net", "networking"];
/// Paths of the elements of the list `disk`.
const PARTS: [&str; 3] = ["disk.name", "disk.size", "disk.serial"];
/// Facts that the policy sets.
const ASSERTED: [&str; 3] = ["customer", "site", "tier"];
/// What a policy may hide, and which of the paths above that is.
const HIDING: [(&str, &[&str]); 17] = [
    ("host*", &["host", "hostname"]),
    ("net.**", &["net", "net.ip", "net.if.name"]),
    ("net", &["net", "net.ip", "net.if.name"]),
    ("networking.*", &["networking.ip"]),
    ("os.key", &["os.key"]),
    ("**.key", &["os.key", "tier.key"]),
    ("*.serial", &["chassis.serial", "disk.serial"]),
    ("disk.serial", &["disk.serial"]),
    ("disk", &["disk", "disk.name", "disk.size", "disk.serial"]),
    ("deep.*.pin", &["deep.a.pin"]),
    ("deep.**", &["deep", "deep.a", "deep.a.pin", "deep.a.level"]),
    ("load", &["load"]),
    ("tags", &["tags"]),
    ("kernel", &["kernel"]),
    ("site", &["site"]),
    ("tier.key", &["tier.key"]),
    ("broker.clock_skew", &["broker.clock_skew"]),
];
/// What is hidden by a policy that says nothing of it.
const BY_DEFAULT: [&str; 3] = ["hostname", "networking", "networking.ip"];
const SCOPES: [&str; 10] = [
    "customer = red",
    "customer in (red, blue)",
    "site = x",
    "not customer = green",
    "broker.name != noc1",
    "broker.name = dc1 or customer = red",
    "tier.level >= 2",
    "has tier.key and customer != green",
    "class = web",
    "os.family = Debian or customer = red",
];
/// How many of them need no `trust-reported`.
const TRUSTED_SCOPES: usize = 8;
const FILTERS: [&str; 26] = [
    "customer = red",
    "customer = green",
    "customer in (blue, green)",
    "site = x",
    "tier.level > 1",
    "os.family = Debian",
    "os.family = 0uts1de",
    "os.family ~ /0uts1de/",
    "os.family != Debian",
    "not has os.family",
    "has load",
    "load > 5",
    "disk.name = sda",
    "disk.size > 10",
    "not disk.size > 10",
    "class = web",
    "class != web",
    "flag = true",
    "host ~ /s3cr3/",
    "has net",
    "os.key ~ /3/",
    "tags ~ /a/ or kernel = Linux",
    "broker.name = dc1",
    "broker.clock_skew > 0",
    "not customer = red",
    "not has nothing",
];
const MODULES: [&str; 3] = ["node", "service", "package"];

/// One seed's worth of it.
#[derive(Debug, Clone)]
pub(super) struct Story {
    /// The policy of each world.
    pub(super) policy: [String; 2],
    /// How many brokers.
    pub(super) brokers: usize,
    /// Links let only the topics of one module pass.
    pub(super) narrow: bool,
    /// The broker of the viewer.
    pub(super) at: usize,
    pub(super) members: Vec<Member>,
    pub(super) steps: Vec<Step>,
}

/// A node, in one world or in both.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) number: u8,
    pub(super) user: String,
    pub(super) broker: usize,
    /// In which worlds it is there at all.
    pub(super) is_in: [bool; 2],
    /// The agent's clock minus ours, seconds.
    pub(super) skew: [i64; 2],
    /// What it registers, one after the other.
    pub(super) documents: Vec<[Value; 2]>,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// A node logs in.
    Connect(usize),
    /// It registers one of its documents.
    Register(usize, usize),
    /// Its session ends.
    Close(usize, &'static str),
    /// Time passes, ms.
    Pass(u64),
    /// The link between the first broker and another one ends, or is there again.
    Cut(usize),
    Link(usize),
    /// Somebody whom the viewer does not know asks the nodes at a broker's, in one of the worlds.
    Noise {
        broker: usize,
        world: usize,
        target: &'static str,
    },
    /// The viewer sends a frame.
    Send(Frame),
    /// The viewer asks for the next page of what it has found, by a frame without its cursor.
    Next(Frame, Value),
}

impl Story {
    pub(super) fn of(seed: u64) -> Story {
        let mut dice = Dice::new(seed);
        let brokers = dice.pick(&[1, 3, 3]);
        let views = Views::of(&mut dice);
        let users = users(&mut dice, &views);
        let policy = [0, 1].map(|world| policy(&views, &users, world, brokers));
        let members = members(&mut dice, &views, &users, brokers);
        let at = dice.below(brokers);
        let steps = steps(&mut dice, &members, brokers);
        Story { policy, brokers, narrow: dice.chance(15), at, members, steps }
    }
}

/// What somebody needs who looks for the leak: nodes that nothing happens to are left out.
impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.policy[0])?;
        if self.policy[0] != self.policy[1] {
            writeln!(f, "or\n{}", self.policy[1])?;
        }
        let touched = |step: &Step| match step {
            Step::Connect(member) | Step::Register(member, _) | Step::Close(member, _) => Some(*member),
            _ => None,
        };
        for at in self.steps.iter().filter_map(touched).collect::<BTreeSet<usize>>() {
            let Member { user, broker, is_in, skew, documents, .. } = &self.members[at];
            writeln!(f, "node {at} of {user} at {}, in the worlds {is_in:?}, skew {skew:?}", NAMES[*broker])?;
            for [one, other] in documents {
                writeln!(f, "    {one}\n or {other}")?;
            }
        }
        writeln!(f, "the viewer is at {}", NAMES[self.at])?;
        self.steps.iter().try_for_each(|step| writeln!(f, "  {step:?}"))
    }
}

/// Who sees what, by the policy.
struct Views {
    hiding: Option<Vec<&'static str>>,
    display: Vec<&'static str>,
    trusts: bool,
    groups: Vec<Group>,
    /// The groups of the viewer, and of the other one.
    viewer: Vec<usize>,
    other: Vec<usize>,
    test_is_targeted: bool,
    /// Texts are long.
    is_loud: bool,
    /// What is hidden from the viewer, of the paths above.
    secrets: BTreeSet<&'static str>,
}

struct Group {
    scope: Option<&'static str>,
    shows: Vec<&'static str>,
    all: bool,
    max_targets: Option<u64>,
}

/// An agent user: its asserted facts in each world.
struct Agent {
    name: String,
    collective: &'static str,
    facts: [Value; 2],
}

impl Views {
    fn of(dice: &mut Dice) -> Views {
        let hiding = (!dice.chance(10)).then(|| {
            let mut list: Vec<&str> = Vec::new();
            for _ in 0..1 + dice.below(6) {
                let (pattern, _) = HIDING[dice.below(HIDING.len())];
                if !list.contains(&pattern) {
                    list.push(pattern);
                }
            }
            list
        });
        let trusts = dice.chance(25);
        let scopes = if trusts { SCOPES.len() } else { TRUSTED_SCOPES };
        let groups: Vec<Group> = (0..3)
            .map(|_| Group {
                scope: dice.chance(50).then(|| SCOPES[dice.below(scopes)]),
                shows: hiding.iter().flatten().copied().filter(|_| dice.chance(20)).collect(),
                all: dice.chance(60),
                max_targets: dice.chance(15).then(|| dice.within(1..4)),
            })
            .collect();
        let some = |dice: &mut Dice| -> Vec<usize> { (0..groups.len()).filter(|_| dice.chance(50)).collect() };
        let (viewer, other) = (some(dice), some(dice));
        let shown: BTreeSet<&str> = viewer.iter().flat_map(|place| groups[*place].shows.iter().copied()).collect();
        let hides = |pattern: &str| {
            let hiding = HIDING.iter().find(|(name, _)| *name == pattern);
            hiding.map_or(&[][..], |(_, paths)| paths).iter().copied()
        };
        let secrets = match &hiding {
            Some(list) => {
                list.iter().filter(|pattern| !shown.contains(**pattern)).flat_map(|pattern| hides(pattern)).collect()
            }
            None => BY_DEFAULT.into_iter().collect(),
        };
        let is_loud = dice.chance(15);
        let shown = if is_loud { 90 } else { 30 };
        let display = LEAVES.iter().chain(&HOLDERS).chain(&PARTS).copied().filter(|_| dice.chance(shown)).collect();
        Views { hiding, display, trusts, groups, viewer, other, test_is_targeted: dice.chance(70), is_loud, secrets }
    }

    fn is_scoped(&self) -> bool {
        self.viewer.iter().any(|place| self.groups[*place].scope.is_some())
    }

    /// Whether the viewer may know of a node.
    fn sees(&self, agent: &Agent, world: usize, broker: usize, skew: i64, document: &Value) -> bool {
        let mut facts = document["facts"].as_object().cloned().unwrap_or_default();
        facts.retain(|name, _| !ASSERTED.contains(&name.as_str()) && name != "broker");
        facts.extend(agent.facts[world].as_object().cloned().unwrap_or_default());
        facts.insert("broker".into(), json!({ "name": NAMES[broker], "clock_skew": skew }));
        let classes: BTreeSet<String> = serde_json::from_value(document["classes"].clone()).expect("classes");
        let facts = Value::Object(facts);
        let holds = |scope: &str| Filter::parse(scope).expect("a scope").matches(&facts, &classes);
        self.viewer.iter().filter_map(|place| self.groups[*place].scope).all(holds)
    }
}

fn policy(views: &Views, users: &[Agent], world: usize, brokers: usize) -> String {
    let mut text = String::new();
    let list = |items: &[&str]| format!("{items:?}");
    let mut line = |line: String| writeln!(text, "{line}").expect("a text");
    line(format!("asserted = {}\ndisplay = {}", list(&ASSERTED), list(&views.display)));
    line(format!("trust-reported = {}", views.trusts));
    if let Some(hiding) = &views.hiding {
        line(format!("hidden = {}", list(hiding)));
    }
    line("[[collective]]\nname = \"prod\"".to_owned());
    line(format!("[[collective]]\nname = \"test\"\ntargeted = {}", views.test_is_targeted));
    for name in &NAMES[..brokers] {
        line(format!("[brokers.{name}]"));
    }
    for (place, group) in views.groups.iter().enumerate() {
        line(format!("[groups.g{place}]\nall = {}\nshows = {}", group.all, list(&group.shows)));
        if let Some(scope) = group.scope {
            line(format!("scope = \"{scope}\""));
        }
        if let Some(most) = group.max_targets {
            line(format!("max-targets = {most}"));
        }
    }
    line("[groups.operators]\n[groups.noc]\nall = true\nshows = [\"**\"]\n[groups.agents]".to_owned());
    for (name, groups) in [(VIEWER, &views.viewer), (OTHER, &views.other)] {
        let groups: String = groups.iter().map(|place| format!(", \"g{place}\"")).collect();
        line(format!("[users.{name}]\nkind = \"operator\"\npassword = \"PHC\"\ngroups = [\"operators\"{groups}]"));
    }
    line(format!("[users.{NOISE}]\nkind = \"operator\"\npassword = \"PHC\"\ngroups = [\"operators\", \"noc\"]"));
    for agent in users {
        let Agent { name, collective, facts } = agent;
        line(format!("[users.{name}]\nkind = \"agent\"\npassword = \"PHC\"\ngroups = [\"agents\"]"));
        line(format!("collective = \"{collective}\"\nfacts = {}", toml(&facts[world])));
    }
    let granting: String = views.viewer.iter().map(|place| format!(", \"g{place}\"")).collect();
    for (destination, rights) in [
        ("/topic/prod.*.*", format!("read = [\"agents\"]\nwrite = [\"noc\", \"operators\"{granting}]")),
        ("/topic/test.*.*", format!("read = [\"agents\"]\nwrite = [\"noc\"{granting}]")),
        ("/topic/typo.>", "write = [\"operators\"]".to_owned()),
        ("/topic/*.registration", "read = [\"operators\"]".to_owned()),
        ("/muster/>", "write = [\"operators\"]".to_owned()),
        ("/muster/facts", "write = [\"agents\"]".to_owned()),
    ] {
        line(format!("[[acl]]\ndestination = \"{destination}\"\n{rights}"));
    }
    text
}

fn toml(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members: Vec<String> =
                members.iter().map(|(name, value)| format!("{name} = {}", toml(value))).collect();
            format!("{{ {} }}", members.join(", "))
        }
        other => other.to_string(),
    }
}

/// Agent users. What is asserted of their nodes differs where it is hidden from the viewer.
fn users(dice: &mut Dice, views: &Views) -> Vec<Agent> {
    let user = |number: usize| {
        let mut seen = BTreeMap::from([("tier.level", json!(number % 4))]);
        if dice.chance(90) {
            seen.insert("customer", json!(dice.pick(&["red", "blue", "green"])));
        }
        for (path, value) in [("site", "x"), ("tier.key", "k")] {
            if !views.secrets.contains(path) && dice.chance(80) {
                seen.insert(path, json!(value));
            }
        }
        let facts = [(), ()].map(|()| {
            let mut all = seen.clone();
            for path in ["site", "tier.key"].into_iter().filter(|path| views.secrets.contains(path)) {
                if dice.chance(70) {
                    all.insert(path, if dice.chance(30) { json!("x") } else { json!(format!("{SECRET}{number}")) });
                }
            }
            Value::Object(nested(&all))
        });
        Agent { name: format!("agent{number}"), collective: dice.pick(&["prod", "prod", "prod", "test"]), facts }
    };
    (0..5).map(user).collect()
}

/// Nodes that the viewer sees in both worlds, different only where it must not matter, and others, which it never sees.
fn members(dice: &mut Dice, views: &Views, users: &[Agent], brokers: usize) -> Vec<Member> {
    let mut members = Vec::new();
    for number in 1..=dice.within(4..13) as u8 {
        let agent = &users[dice.below(users.len())];
        let broker = dice.below(brokers);
        let mut skew = [dice.below(3) as i64; 2];
        if views.secrets.contains("broker.clock_skew") {
            skew[1] = dice.below(3) as i64;
        }
        let wants_outside = views.is_scoped() && dice.chance(50);
        let mark = if wants_outside { OUTSIDE } else { "" };
        let documents = documents(dice, views, mark);
        let sees =
            |world: usize, document: &[Value; 2]| views.sees(agent, world, broker, skew[world], &document[world]);
        let never = documents.iter().all(|document| !sees(0, document) && !sees(1, document));
        let alike = documents.iter().all(|document| sees(0, document) == sees(1, document));
        if never && views.is_scoped() {
            let is_in = dice.pick(&[[true, false], [false, true], [true, true]]);
            let outside = |dice: &mut Dice| {
                let seen = Seen::of(dice, views, OUTSIDE);
                document(dice, views, &seen)
            };
            let documents: Vec<[Value; 2]> = documents.into_iter().map(|[first, _]| [first, outside(dice)]).collect();
            // What was made anew for the other world must be outside of the scope too.
            let is_outside = documents.iter().all(|document| !sees(1, document));
            let is_in = if is_outside { is_in } else { [true, false] };
            let name = agent.name.clone();
            members.push(Member { number, user: name, broker, is_in, skew, documents });
        } else if alike && !wants_outside {
            let name = agent.name.clone();
            members.push(Member { number, user: name, broker, is_in: [true; 2], skew, documents });
        }
    }
    members
}

/// What a node registers, one document after the other: what the viewer may see of one is the same in both worlds. Sometimes only
/// what it may not see changes, in one of them or in both.
fn documents(dice: &mut Dice, views: &Views, mark: &str) -> Vec<[Value; 2]> {
    let mut seen = Seen::of(dice, views, mark);
    let mut documents = vec![[(); 2].map(|()| document(dice, views, &seen))];
    for _ in 0..dice.below(4) {
        let is_other = dice.chance(50);
        if is_other {
            seen = Seen::of(dice, views, mark);
        }
        let last = documents[documents.len() - 1].clone();
        documents.push(last.map(|last| if is_other || dice.chance(50) { document(dice, views, &seen) } else { last }));
    }
    documents
}

/// What the viewer may see of a document.
struct Seen {
    facts: BTreeMap<&'static str, Value>,
    disks: Option<Vec<Map<String, Value>>>,
    classes: Vec<&'static str>,
    modules: Map<String, Value>,
}

impl Seen {
    fn of(dice: &mut Dice, views: &Views, mark: &str) -> Seen {
        let is_secret = |path: &str| views.secrets.contains(path);
        let mut facts = BTreeMap::new();
        for holder in HOLDERS.into_iter().filter(|holder| !is_secret(holder)) {
            if dice.chance(15) {
                facts.insert(holder, json!({}));
            }
        }
        for leaf in LEAVES.into_iter().filter(|leaf| !is_secret(leaf)) {
            if dice.chance(60) {
                facts.insert(leaf, plain(dice, views, leaf, mark));
            }
        }
        let disk = |dice: &mut Dice| {
            let parts: Vec<&str> = PARTS.into_iter().filter(|part| !is_secret(part) && dice.chance(70)).collect();
            parts.into_iter().map(|part| (part[5..].to_owned(), plain(dice, views, part, mark))).collect()
        };
        let disks = (!is_secret("disk") && dice.chance(50)).then(|| (0..dice.below(3)).map(|_| disk(dice)).collect());
        let classes = ["web", "db"].into_iter().filter(|_| dice.chance(50)).collect();
        let modules = MODULES.iter().filter(|_| dice.chance(70));
        Seen { facts, disks, classes, modules: modules.map(|module| ((*module).to_owned(), json!("x"))).collect() }
    }
}

/// One document with something secret in it.
fn document(dice: &mut Dice, views: &Views, seen: &Seen) -> Value {
    let mut all = seen.facts.clone();
    for path in views.secrets.iter().filter(|path| LEAVES.contains(path) || HOLDERS.contains(path)) {
        if dice.chance(60) {
            all.insert(path, secret(dice, views));
        }
    }
    let mut facts = nested(&all);
    if let Some(list) = with_secret_disks(dice, views, seen.disks.as_deref()) {
        facts.insert("disk".into(), list);
    }
    json!({ "facts": facts, "classes": seen.classes, "modules": seen.modules })
}

fn plain(dice: &mut Dice, views: &Views, path: &str, mark: &str) -> Value {
    match path {
        "load" | "disk.size" | "deep.a.level" => json!(dice.below(20)),
        "flag" => json!(dice.chance(50)),
        "tags" => json!((0..dice.below(3)).map(|_| dice.pick(&["a", "b"])).collect::<Vec<_>>()),
        "os.family" => json!(format!("{}{mark}", dice.pick(&["Debian", "RedHat"]))),
        "disk.name" => json!(dice.pick(&["sda", "sdb"])),
        "customer" => json!("red"),
        _ if views.is_loud || dice.chance(10) => json!(format!("{mark}{}", "long ".repeat(dice.below(80)))),
        _ => json!(format!("{mark}{}", dice.below(3))),
    }
}

/// A value that nobody may see: mostly a text that can be looked for.
fn secret(dice: &mut Dice, views: &Views) -> Value {
    let text = |dice: &mut Dice| format!("{SECRET}{}", dice.below(1000));
    match dice.below(10) {
        0 => json!(dice.below(50)),
        1 => json!({ (text(dice)): text(dice), "key": 1 }),
        2 => json!([text(dice), text(dice)]),
        3 => json!(text(dice) + &"long ".repeat(dice.below(100))),
        _ if views.is_loud => json!(text(dice) + &"long ".repeat(dice.below(100))),
        4 => json!({}),
        _ => json!(text(dice)),
    }
}

/// Serial numbers beside what is seen of the disks, and disks of which nothing is seen.
fn with_secret_disks(dice: &mut Dice, views: &Views, seen: Option<&[Map<String, Value>]>) -> Option<Value> {
    if views.secrets.contains("disk") {
        return dice.chance(50).then(|| secret(dice, views));
    }
    let mut disks: Vec<Map<String, Value>> = seen.unwrap_or_default().to_vec();
    let mut is_there = seen.is_some();
    if views.secrets.contains("disk.serial") {
        for disk in &mut disks {
            if dice.chance(50) {
                disk.insert("serial".into(), secret(dice, views));
            }
        }
        while dice.chance(30) {
            is_there = true;
            disks.insert(
                dice.below(disks.len() + 1),
                [("serial".to_owned(), secret(dice, views))].into_iter().collect(),
            );
        }
    }
    is_there.then(|| json!(disks))
}

/// Values at dotted paths as one object. Holders come before what is in them, by the order of the map.
fn nested(leaves: &BTreeMap<&str, Value>) -> Map<String, Value> {
    let mut root = Map::new();
    for (path, value) in leaves {
        put(&mut root, path, value);
    }
    root
}

fn put(object: &mut Map<String, Value>, path: &str, value: &Value) {
    match path.split_once('.') {
        None => {
            object.insert(path.to_owned(), value.clone());
        }
        Some((name, rest)) => {
            // Below a value that is no object there is no place.
            if let Value::Object(members) = object.entry(name.to_owned()).or_insert_with(|| json!({})) {
                put(members, rest, value);
            }
        }
    }
}

fn steps(dice: &mut Dice, members: &[Member], brokers: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut numbers: Vec<usize> = (0..members.len()).collect();
    numbers.retain(|_| dice.chance(80));
    for number in numbers {
        steps.extend([Step::Connect(number), Step::Register(number, 0)]);
    }
    if dice.chance(80) {
        steps.push(Step::Pass(3_000));
    }
    for count in 0..dice.within(15..50) {
        let member = (!members.is_empty()).then(|| dice.below(members.len()));
        match (dice.below(20), member) {
            (0, Some(member)) => steps.push(Step::Connect(member)),
            (1..=3, Some(member)) => {
                let document = dice.below(members[member].documents.len());
                steps.extend([Step::Connect(member), Step::Register(member, document)]);
            }
            (4, Some(member)) => steps.push(Step::Register(member, dice.below(members[member].documents.len()))),
            (5 | 6, Some(member)) => steps.push(Step::Close(member, dice.pick(&["clean", "connection closed"]))),
            (7 | 8, _) => steps.push(Step::Pass(dice.pick(&[10, 100, 400, 1_100, 3_100, 7_000, 70_000]))),
            (9, _) if brokers > 1 => steps.push(Step::Cut(1 + dice.below(brokers - 1))),
            (10, _) if brokers > 1 => steps.push(Step::Link(1 + dice.below(brokers - 1))),
            (11, _) => steps.push(Step::Noise {
                broker: dice.below(brokers),
                world: dice.below(2),
                target: dice.pick(&["all", "customer = green", "os.family ~ /0uts1de/"]),
            }),
            _ => steps.push(view(dice, count)),
        }
    }
    steps
}

/// Something that the viewer may do.
fn view(dice: &mut Dice, count: u64) -> Step {
    let target = |dice: &mut Dice| if dice.chance(30) { "all" } else { dice.pick(&FILTERS) };
    let paths: Vec<&str> =
        LEAVES.iter().chain(&HOLDERS).chain(&PARTS).copied().chain(["disk", "tier", "broker"]).collect();
    let path = |dice: &mut Dice| paths[dice.below(paths.len())];
    let node = |dice: &mut Dice| node_id(dice.within(1..16) as u8);
    let nodes = |dice: &mut Dice| {
        let nodes: Vec<String> = (0..1 + dice.below(6)).map(|_| node(dice).to_string()).collect();
        nodes.join(",")
    };
    let query = |what: &str| {
        send(&format!("/muster/{what}"))
            .header("muster-request", &format!("q{count}"))
            .header("reply-to", "/temp-queue/me")
    };
    match dice.below(20) {
        0..=4 => {
            let facts: Vec<&str> = (0..dice.below(3)).map(|_| path(dice)).collect();
            let mut body = json!({ "facts": facts });
            if dice.chance(60) {
                body["limit"] = json!(1 + dice.below(4));
            }
            if dice.chance(20) {
                body["module"] = json!(dice.pick(&MODULES));
            }
            let mut frame = query("find").header("muster-target", target(dice));
            if dice.chance(10) {
                frame = frame.header("muster-nodes", &nodes(dice));
            }
            match dice.below(10) {
                0 => {
                    let after = if dice.chance(50) { dice.below(9).to_string() } else { node(dice).to_string() };
                    body["cursor"] = json!(format!("{}/{after}/{}", dice.pick(&NAMES), dice.below(9)));
                    Step::Send(frame.with_body(body.to_string()))
                }
                1..=4 => Step::Next(frame, body),
                _ => Step::Send(frame.with_body(body.to_string())),
            }
        }
        5 | 6 => {
            let body = json!({ "fact": path(dice), "limit": 1 + dice.below(5) });
            Step::Send(query("report").header("muster-target", target(dice)).with_body(body.to_string()))
        }
        7 | 8 => {
            let mut body = json!({ "node": node(dice) });
            if dice.chance(40) {
                body["explain"] = json!(dice.pick(&FILTERS));
            }
            Step::Send(query("node").with_body(body.to_string()))
        }
        9 => Step::Send(query("mesh")),
        10 | 11 => {
            let users = [VIEWER, OTHER, OTHER, NOISE, "agent1"];
            let mut body =
                json!({ "user": dice.pick(&users), "right": "write", "destination": "/topic/prod.node.ping" });
            if dice.chance(80) {
                body["filter"] = json!(dice.pick(&FILTERS));
            }
            Step::Send(query("admin.explain").with_body(body.to_string()))
        }
        12 => {
            // What these say of the policy is the same in both worlds: asserted facts are no business of theirs.
            let what = dice.pick(&["admin.lint", "admin.sessions", "admin.authority", "admin.sessions", "nothing"]);
            let body = if what == "admin.sessions" { json!({ "closed": dice.chance(50) }) } else { json!({}) };
            Step::Send(query(what).with_body(body.to_string()))
        }
        13 => Step::Send(query("cancel").with_body(json!({ "request": format!("r{}", dice.below(4)) }).to_string())),
        14 => {
            let frame =
                send(dice.pick(&["/topic/prod.node.ping", "/topic/test.node.ping", "/topic/prod.registration"]));
            let frame = if dice.chance(80) { frame.header("muster-target", target(dice)) } else { frame };
            Step::Send(frame.header("receipt", &format!("m{count}")).with_body("x"))
        }
        _ => {
            let nodes = nodes(dice);
            Step::Send(request(dice, target, &nodes))
        }
    }
}

fn request(dice: &mut Dice, target: impl Fn(&mut Dice) -> &'static str, nodes: &str) -> Frame {
    let topics = [
        "/topic/prod.node.ping",
        "/topic/prod.node.ping",
        "/topic/prod.service.status",
        "/topic/test.node.ping",
        "/topic/typo.node.ping",
    ];
    let mut frame = send(dice.pick(&topics)).header("muster-request", &format!("r{}", dice.below(4)));
    frame = frame.header("reply-to", "/temp-queue/me").header("muster-target", target(dice));
    if dice.chance(20) {
        frame = frame.header("muster-dry-run", "true");
    }
    if dice.chance(20) {
        frame = frame.header("muster-max-targets", &dice.below(5).to_string());
    }
    if dice.chance(10) {
        frame = frame.header("muster-expect-targets", &dice.below(5).to_string());
    }
    if dice.chance(30) {
        frame = frame.header("muster-allow-partial", "true");
    }
    if dice.chance(20) {
        frame = frame.header("muster-nodes", nodes);
    }
    frame = frame.header("muster-reply-within", &dice.pick(&[500, 2_000, 60_000]).to_string());
    frame.with_body("{}")
}
