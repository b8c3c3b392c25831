//! Which nodes are here, and which were? Rows, documents, presence; the index beside them finds.
//!
//! Presence is the authenticated session: a row lives exactly as long as one. A row number is used again, so whatever was frozen
//! carries the generation of that moment, and a node that was born later is never taken for its predecessor.

use super::index::{Described, Index};
use super::rows::Row;
use crate::broker::access::{Policy, User};
use crate::broker::event::{NodeHello, Now, Registration, SessionId};
use bytes::Bytes;
use muster_protocol::facts::{Facts, FactsError, NodeDocument, Path};
use muster_protocol::filter::Filter;
use muster_protocol::message::NodeId;
use roaring::RoaringBitmap;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

/// A moment in the life of the registry: each node is born in one of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(u64);

/// A node that is connected.
#[derive(Debug)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its session.
    pub session: SessionId,
    /// Its session number: a higher one takes over.
    pub number: u64,
    /// The user that its agent logged in as.
    pub user: Arc<User>,
    /// Its collective.
    pub collective: Arc<str>,
    /// Connected since, Unix ms.
    pub since: u64,
    /// When its row became its own.
    pub born: Generation,
    clock_skew: i64,
    document: Option<Document>,
}

/// A node that was connected.
#[derive(Debug)]
pub struct Departed {
    /// Its id.
    pub id: NodeId,
    /// Its collective.
    pub collective: Arc<str>,
    /// It had been connected since, Unix ms.
    pub since: u64,
    /// Gone since, Unix ms.
    pub at: u64,
    /// Why.
    pub reason: String,
    user: Arc<User>,
    clock_skew: i64,
    /// Of its place in the order.
    number: u64,
    document: Document,
}

/// When a gone node is forgotten (monotonic ms), its row among the gone, and a number that no other place has.
#[derive(Debug, Clone, Copy)]
struct Place {
    forget_at: u64,
    row: u32,
    number: u64,
}

/// What a node has registered, kept as text: a tree of values would cost several times as much.
#[derive(Debug)]
struct Document {
    json: Bytes,
    hash: String,
    display: Vec<(Path, Value)>,
}

/// How long and how many of those that are gone are remembered.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Milliseconds.
    pub gone_for: u64,
    /// Nodes.
    pub gone_most: usize,
}

/// The registry of one broker.
#[derive(Debug)]
pub struct Nodes {
    broker: String,
    memory: Memory,
    rows: Vec<Option<Node>>,
    free: Vec<u32>,
    /// In order: what is shown of several nodes follows it.
    by_id: BTreeMap<NodeId, u32>,
    index: Index,
    registering: usize,
    births: u64,
    /// Raised with each change of what a summary says.
    changes: u64,
    gone: HashMap<u32, Departed>,
    /// The oldest first. A place whose number is not its node's any more is stale.
    gone_order: VecDeque<Place>,
    gone_rows: HashMap<NodeId, u32>,
    gone_index: Index,
    gone_free: Vec<u32>,
}

/// A node with what it registered and what the policy makes of it.
#[derive(Debug)]
pub struct Whole {
    /// As reported.
    pub document: NodeDocument,
    /// Asserted and observed over reported.
    pub effective: Facts,
}

impl Nodes {
    /// An empty registry of the broker of that name.
    pub fn new(broker: &str, memory: Memory) -> Nodes {
        Nodes {
            broker: broker.to_owned(),
            memory,
            rows: Vec::new(),
            free: Vec::new(),
            by_id: BTreeMap::new(),
            index: Index::default(),
            registering: 0,
            births: 0,
            changes: 0,
            gone: HashMap::new(),
            gone_order: VecDeque::new(),
            gone_rows: HashMap::new(),
            gone_index: Index::default(),
            gone_free: Vec::new(),
        }
    }

    /// A node has logged in; it is `registering` until its first document is accepted. The caller has closed an older session of it.
    pub fn connect(&mut self, hello: NodeHello, session: SessionId, user: &Arc<User>, now: Now) -> u32 {
        let row = self.free.pop().unwrap_or(self.rows.len() as u32);
        self.births += 1;
        let node = Node {
            id: hello.id,
            session,
            number: hello.number,
            user: user.clone(),
            collective: user.collective.as_str().into(),
            since: now.unix,
            born: Generation(self.births),
            clock_skew: hello.clock_skew,
            document: None,
        };
        if row as usize == self.rows.len() {
            self.rows.push(Some(node));
        } else {
            self.rows[row as usize] = Some(node);
        }
        self.by_id.insert(hello.id, row);
        self.changes += 1;
        self.registering += 1;
        row
    }

    /// Takes a whole document; whether it is the node's first, and its effective facts. An error: they pass a limit, and the old ones stay.
    pub fn register(
        &mut self,
        row: u32,
        registration: &Registration,
        policy: &Policy,
    ) -> Result<Option<(bool, Facts)>, FactsError> {
        let Some(node) = self.rows.get(row as usize).and_then(Option::as_ref) else { return Ok(None) };
        let view = |document: &NodeDocument| {
            effective(policy, &self.broker, &node.user, &document.facts, node.since, node.clock_skew)
        };
        let facts = view(&registration.document)?;
        let after = described(&facts, &registration.document);
        let old = node.document.as_ref();
        // What is indexed was made of the document before under this same policy: only what differs need be looked at.
        let before = registration.before.as_ref().filter(|(_, hash)| old.is_some_and(|old| old.hash == *hash));
        match before {
            Some((before, _)) => self.index.update(Row(row), described(&view(before)?, before), after),
            None => self.index.insert(Row(row), after),
        }
        self.changes += 1;
        let id = node.id;
        let document = Document {
            json: registration.json.clone(),
            hash: registration.hash.clone(),
            display: display(policy, facts.as_value()),
        };
        let first = self.rows[row as usize].as_mut().is_some_and(|node| node.document.replace(document).is_none());
        if first {
            self.registering -= 1;
            self.forget_gone(id);
        }
        Ok(Some((first, facts)))
    }

    /// The node's session has ended; its effective facts if it had registered.
    pub fn disconnect(&mut self, row: u32, reason: &str, policy: &Policy, now: Now) -> Option<(Node, Option<Whole>)> {
        let mut node = self.rows.get_mut(row as usize)?.take()?;
        self.changes += 1;
        self.free.push(row);
        self.by_id.remove(&node.id);
        self.index.remove(Row(row));
        let Some(document) = node.document.take() else {
            self.registering -= 1;
            return Some((node, None));
        };
        let whole = whole(policy, &self.broker, &node.user, &document.json, node.since, node.clock_skew)?;
        self.forget_gone(node.id);
        if self.memory.gone_most == 0 {
            return Some((node, Some(whole)));
        }
        // One bound for all: that a node is forgotten early shows that many others went, to whoever may not know of them too. Each
        // scope would need a memory of its own to hide that.
        while self.gone.len() >= self.memory.gone_most {
            let Some(oldest) = self.gone_order.pop_front() else { break };
            self.drop_place(oldest);
        }
        let row = self.gone_free.pop().unwrap_or(self.gone.len() as u32);
        self.gone_index.insert(Row(row), described(&whole.effective, &whole.document));
        let forget_at = now.tick.saturating_add(self.memory.gone_for);
        self.births += 1;
        let number = self.births;
        self.gone_order.push_back(Place { forget_at, row, number });
        self.gone_rows.insert(node.id, row);
        let departed = Departed {
            id: node.id,
            collective: node.collective.clone(),
            since: node.since,
            at: now.unix,
            reason: reason.to_owned(),
            user: node.user.clone(),
            clock_skew: node.clock_skew,
            number,
            document,
        };
        self.gone.insert(row, departed);
        Some((node, Some(whole)))
    }

    /// Forgets those that have been gone for long enough.
    pub fn expire(&mut self, now: u64) {
        while let Some(&place) = self.gone_order.front().filter(|place| place.forget_at <= now) {
            self.gone_order.pop_front();
            self.drop_place(place);
            self.changes += 1;
        }
    }

    /// When the next gone node is forgotten, monotonic ms.
    pub fn next_deadline(&self) -> Option<u64> {
        self.gone_order.front().map(|place| place.forget_at)
    }

    /// Computes effective and display facts anew where the policy `new` makes others of them than `old` did.
    /// What passes a limit now is found by nobody until it changes.
    pub fn apply(&mut self, old: &Policy, new: &Policy) {
        self.changes += 1;
        let all = old.asserted().ne(new.asserted()) || old.display() != new.display();
        for (row, node) in self.rows.iter_mut().enumerate() {
            let Some(node) = node else { continue };
            let changed = follow(&mut node.user, new);
            let Some(document) = node.document.as_mut().filter(|_| all || changed) else { continue };
            let whole = whole(new, &self.broker, &node.user, &document.json, node.since, node.clock_skew);
            reindex(&mut self.index, row as u32, document, whole, new);
        }
        for (row, gone) in &mut self.gone {
            if follow(&mut gone.user, new) || all {
                let whole = whole(new, &self.broker, &gone.user, &gone.document.json, gone.since, gone.clock_skew);
                reindex(&mut self.gone_index, *row, &mut gone.document, whole, new);
            }
        }
    }

    /// Registered rows that match `target` (all of them without one), restricted by `scope`.
    pub fn matching(&self, target: Option<&Filter>, scope: Option<&Filter>) -> RoaringBitmap {
        matching(&self.index, target, scope)
    }

    /// What [`Nodes::matching`] costs, in deliveries: looking at some hundred values takes as long as one.
    pub fn cost(&self, target: Option<&Filter>, scope: Option<&Filter>) -> usize {
        1 + [target, scope].into_iter().flatten().map(|filter| self.index.values(filter)).sum::<usize>() / 64
    }

    /// The gone nodes that matched when they were last seen, the latest first, at most `most`.
    pub fn gone_matching(&self, target: Option<&Filter>, scope: Option<&Filter>, most: usize) -> Vec<&Departed> {
        let rows = matching(&self.gone_index, target, scope);
        self.gone_order
            .iter()
            .rev()
            .filter(|place| rows.contains(place.row))
            .filter_map(|place| self.gone.get(&place.row).filter(|gone| gone.number == place.number))
            .take(most)
            .collect()
    }

    /// The first `most` of these rows whose node ids come after `after`, in the order of the ids. In the order of the rows, or by
    /// their numbers, it would show where rows of other nodes lie between.
    pub fn page(&self, rows: &RoaringBitmap, after: Option<NodeId>, most: usize) -> Vec<u32> {
        // Ids are hashes: of m among n, the first k are found among the first k·n/m of all.
        if rows.len().saturating_mul(rows.len()) > (most as u64).saturating_mul(self.by_id.len() as u64) {
            let ids = self.by_id.range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded));
            return ids.map(|(_, row)| *row).filter(|row| rows.contains(*row)).take(most).collect();
        }
        let ids = rows.iter().filter_map(|row| Some((self.get(row)?.id, row)));
        let mut ids: Vec<(NodeId, u32)> = ids.filter(|(id, _)| after.is_none_or(|after| *id > after)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, row)| row).take(most).collect()
    }

    /// Which nodes a scope shows, as a find would: those that are connected, and those that are gone by what was last known.
    pub fn shown_to<'a>(&'a self, scope: &Filter) -> impl Fn(&NodeId) -> bool + use<'a> {
        let (here, gone) = (matching(&self.index, None, Some(scope)), matching(&self.gone_index, None, Some(scope)));
        move |id| match self.by_id.get(id) {
            Some(row) => here.contains(*row),
            None => self.gone_rows.get(id).is_some_and(|row| gone.contains(*row)),
        }
    }

    /// Rows of nodes that announce this module.
    pub fn with_module(&self, module: &str) -> RoaringBitmap {
        self.index.with_module(module)
    }

    /// The index, for reports.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The node in a row.
    pub fn get(&self, row: u32) -> Option<&Node> {
        self.rows.get(row as usize)?.as_ref()
    }

    /// The row of a node that is connected.
    pub fn row(&self, id: &NodeId) -> Option<u32> {
        self.by_id.get(id).copied()
    }

    /// A node that is gone.
    pub fn departed(&self, id: &NodeId) -> Option<&Departed> {
        self.gone.get(self.gone_rows.get(id)?)
    }

    /// A node's document, parsed.
    pub fn whole(&self, row: u32, policy: &Policy) -> Option<Whole> {
        let node = self.get(row)?;
        whole(policy, &self.broker, &node.user, &node.document.as_ref()?.json, node.since, node.clock_skew)
    }

    /// A gone node's document, parsed.
    pub fn whole_departed(&self, gone: &Departed, policy: &Policy) -> Option<Whole> {
        whole(policy, &self.broker, &gone.user, &gone.document.json, gone.since, gone.clock_skew)
    }

    /// Raised with each change of what a summary says.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// What was born up to now.
    pub fn generation(&self) -> Generation {
        Generation(self.births)
    }

    /// Registered nodes.
    pub fn len(&self) -> usize {
        self.by_id.len() - self.registering
    }

    /// Whether no node is registered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Nodes that are connected and have not registered.
    pub fn registering(&self) -> usize {
        self.registering
    }

    /// A node that is gone here has connected to another broker: it is gone no more.
    pub fn is_elsewhere(&mut self, id: NodeId) {
        if self.gone_rows.contains_key(&id) {
            self.changes += 1;
            self.forget_gone(id);
        }
    }

    /// Nodes that are remembered as gone.
    pub fn gone(&self) -> usize {
        self.gone.len()
    }

    fn forget_gone(&mut self, id: NodeId) {
        if let Some(row) = self.gone_rows.get(&id).copied() {
            self.drop_gone(row);
            // Its place in the order is skipped later; a fleet that comes back at once must not pay for each of it.
            if self.gone_order.len() > 2 * self.gone.len() + 64 {
                let gone = &self.gone;
                self.gone_order.retain(|place| gone.get(&place.row).is_some_and(|gone| gone.number == place.number));
            }
        }
    }

    fn drop_place(&mut self, place: Place) {
        if self.gone.get(&place.row).is_some_and(|gone| gone.number == place.number) {
            self.drop_gone(place.row);
        }
    }

    fn drop_gone(&mut self, row: u32) {
        if let Some(gone) = self.gone.remove(&row) {
            self.gone_rows.remove(&gone.id);
            self.gone_index.remove(Row(row));
            self.gone_free.push(row);
        }
    }
}

impl Node {
    /// Hash of its document.
    pub fn hash(&self) -> Option<&str> {
        self.document.as_ref().map(|d| d.hash.as_str())
    }

    /// The policy's display facts that it has.
    pub fn display(&self) -> &[(Path, Value)] {
        self.document.as_ref().map_or(&[], |d| &d.display)
    }
}

impl Departed {
    /// The policy's display facts that it had.
    pub fn display(&self) -> &[(Path, Value)] {
        &self.document.display
    }
}

/// Bytes of one node's display facts that somebody is shown. An agent reports them as it likes, and hundreds of nodes stand in one
/// frame of a link.
const DISPLAY_MOST: usize = 2_048;
/// Bytes of one of them.
const VALUE_MOST: usize = 256;

/// Display facts as a JSON object, without those that `hides` says: at, below or above a hidden fact, so that no object brings one along.
/// What is hidden takes no room from the rest: how long it is must not show.
pub fn shown(display: &[(Path, Value)], hides: impl Fn(&Path) -> bool) -> Map<String, Value> {
    let mut left = DISPLAY_MOST;
    let mut shown = Map::new();
    for (path, value) in display.iter().filter(|(path, _)| !hides(path)) {
        let name = path.to_string();
        let Some(rest) = left.checked_sub(name.len() + bytes(value)) else { break };
        left = rest;
        shown.insert(name, value.clone());
    }
    shown
}

/// The display facts of a document, each as short as it is shown, in the order of the policy.
pub fn display(policy: &Policy, effective: &Value) -> Vec<(Path, Value)> {
    let fact = |path: &Path| Some((path.clone(), short(path.find_in(effective)?)?));
    policy.display().iter().filter_map(fact).collect()
}

fn matching(index: &Index, target: Option<&Filter>, scope: Option<&Filter>) -> RoaringBitmap {
    match (target, scope) {
        (None, None) => index.rows().clone(),
        (Some(filter), None) | (None, Some(filter)) => index.matching(filter),
        (Some(target), Some(scope)) => index.matching(&target.and(scope)),
    }
}

/// The user as the policy has it now; a removed one stays as it was. Whether something else is asserted of its nodes.
fn follow(user: &mut Arc<User>, policy: &Policy) -> bool {
    let Some(new) = policy.user(&user.name) else { return false };
    let changed = new.facts != user.facts;
    *user = new.clone();
    changed
}

fn reindex(index: &mut Index, row: u32, document: &mut Document, whole: Option<Whole>, policy: &Policy) {
    match whole {
        Some(whole) => {
            index.insert(Row(row), described(&whole.effective, &whole.document));
            document.display = display(policy, whole.effective.as_value());
        }
        None => index.remove(Row(row)),
    }
}

fn effective(
    policy: &Policy,
    broker: &str,
    user: &User,
    reported: &Facts,
    since: u64,
    clock_skew: i64,
) -> Result<Facts, FactsError> {
    let observed = json!({ "name": broker, "connected_since": since / 1000, "clock_skew": clock_skew });
    Facts::from_value(policy.effective(user, reported.as_value(), &observed))
}

fn whole(policy: &Policy, broker: &str, user: &User, json: &[u8], since: u64, clock_skew: i64) -> Option<Whole> {
    let document = NodeDocument::parse(json).ok()?;
    let effective = effective(policy, broker, user, &document.facts, since, clock_skew).ok()?;
    Some(Whole { document, effective })
}

fn described<'a>(effective: &'a Facts, document: &'a NodeDocument) -> Described<'a> {
    Described { facts: effective, classes: &document.classes, modules: &document.modules }
}

/// A long text is cut; of a long list or object nothing is shown.
fn short(value: &Value) -> Option<Value> {
    match value {
        Value::String(text) if text.len() > VALUE_MOST => {
            let end = (0..=VALUE_MOST).rev().find(|end| text.is_char_boundary(*end))?;
            Some(Value::String(format!("{}…", text.get(..end)?)))
        }
        Value::Array(_) | Value::Object(_) if value.to_string().len() > VALUE_MOST => None,
        _ => Some(value.clone()),
    }
}

/// About how many bytes a value takes in a frame.
fn bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(_) | Value::Object(_) => value.to_string().len(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
    }
}
