//! Which links are up? One to each neighbour; the newest wins, silence of 5 s ends it, a second broker of a name is refused.

use super::Mesh;
use super::lanes::{Freight, LinkOutbox};
use crate::broker::event::{LinkId, LinkOpened};
use crate::broker::note::{Note, Weight};
use bytes::Bytes;
use muster_protocol::destination::{Destination, Pattern};
use muster_protocol::error::{Code, Refusal};
use muster_protocol::link::{Beat, Head};
use muster_protocol::message::BrokerName;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

/// After this silence a link is dead, ms.
const DEAD: u64 = 5_000;
/// How often a ping goes out, ms.
const PING: u64 = 1_000;
/// A neighbour that was heard this recently is alive: another broker that bears its name is refused, ms.
const ALIVE: u64 = 2 * PING + 500;

/// A link that is up.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) outbox: LinkOutbox,
    pub(super) rtt: Option<u64>,
    peer: SocketAddr,
    instance: u64,
    incarnation: u64,
    nonce: u64,
    send: Option<Vec<Pattern>>,
    heard: u64,
    next_ping: u64,
}

/// All links.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    links: BTreeMap<BrokerName, Link>,
    names: HashMap<LinkId, BrokerName>,
}

impl Link {
    /// Whether our end lets a destination pass.
    pub(super) fn lets_pass(&self, destination: &str) -> bool {
        let Some(patterns) = &self.send else { return true };
        Destination::parse(destination).is_ok_and(|to| patterns.iter().any(|pattern| pattern.matches(&to)))
    }
}

impl Neighbours {
    pub(super) fn get(&self, name: &BrokerName) -> Option<&Link> {
        self.links.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&BrokerName, &Link)> {
        self.links.iter()
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.links.values().map(|link| link.next_ping.min(link.heard + DEAD)).min()
    }

    fn remove(&mut self, name: &BrokerName) -> Option<Link> {
        let link = self.links.remove(name)?;
        self.names.remove(&link.id);
        Some(link)
    }
}

impl Mesh {
    /// The neighbour at the other end of a link that is up.
    pub fn neighbour(&self, link: LinkId) -> Option<&BrokerName> {
        self.neighbours.names.get(&link)
    }

    /// The links that are up.
    pub fn links(&self) -> impl Iterator<Item = (BrokerName, LinkId)> {
        self.neighbours.iter().map(|(name, link)| (name.clone(), link.id))
    }

    /// Sends a neighbour something with a body, which waits behind data. `now` is monotonic ms. What finds no room is asked for again
    /// by whoever misses it.
    pub fn carry(&mut self, name: &BrokerName, head: Head, body: Bytes, now: u64) {
        let Some(link) = self.neighbours.get(name) else { return };
        let freight = Freight { head: Arc::new(head), body, expires: None, droppable: false, since: now };
        if link.outbox.data(freight, now).is_err() {
            self.counters.dropped += 1;
        }
    }

    /// A link has come up: it is used, or refused with a reason.
    pub fn open(&mut self, opened: LinkOpened, now: u64) {
        let LinkOpened { link: id, hello, nonce, end, peer, outbox } = opened;
        let name = hello.name.clone();
        let alarmed = self.alarms.contains_key(&alarm_of(&name));
        if let Some(refusal) = self.unwelcome(&name, hello.incarnation, hello.instance, nonce, peer, now) {
            // Its dialler comes again and again, each time from another port: while the alarm stands that is no news.
            if !(alarmed && refusal.code == Code::NameInUse) {
                self.notes.push(
                    Note::new(Weight::Warning, "link refused")
                        .with("broker", &name)
                        .with("peer", peer)
                        .with("code", refusal.code)
                        .with("reason", &refusal.text),
                );
            }
            outbox.close(Some(refusal));
            return;
        }
        if let Some(old) = self.neighbours.remove(&name) {
            old.outbox.close(Some(Refusal::new(Code::Superseded, format!("a newer connection of {name} has come"))));
        }
        self.alarms.remove(&alarm_of(&name));
        let send = end.send.as_ref().map(|texts| texts.iter().filter_map(|text| Pattern::parse(text).ok()).collect());
        let link = Link {
            id,
            outbox,
            rtt: None,
            peer,
            instance: hello.instance,
            incarnation: hello.incarnation,
            nonce,
            send,
            heard: now,
            next_ping: now,
        };
        self.neighbours.names.insert(id, name.clone());
        link.outbox.control(Arc::new(Head::Digest(self.digest())));
        self.neighbours.links.insert(name.clone(), link);
        self.notes.push(Note::new(Weight::Info, "link up").with("broker", &name).with("peer", peer));
        if self.topology.set_neighbour(&name, Some(end)) {
            self.flood_own_state();
        }
        self.compute(now);
    }

    /// Why a broker is not let in.
    fn unwelcome(
        &mut self,
        name: &BrokerName,
        incarnation: u64,
        instance: u64,
        nonce: u64,
        peer: SocketAddr,
        now: u64,
    ) -> Option<Refusal> {
        if let Some(why) = &self.left {
            return Some(Refusal::new(Code::NameInUse, format!("{} has left the mesh: {why}", self.me)));
        }
        if *name == self.me {
            let text = format!("{peer} says that it is {name}, as this broker is");
            self.alarm(alarm_of(name), text.clone(), now);
            return Some(Refusal::new(Code::NameInUse, text));
        }
        if !self.list.contains(name) {
            return Some(Refusal::new(Code::UnknownBroker, format!("{name} is not in the broker list of {}", self.me)));
        }
        let old = self.neighbours.get(name)?;
        if old.incarnation != incarnation && now.saturating_sub(old.heard) < ALIVE {
            let text = format!(
                "{name} is in use: it is linked from {} and alive, and now another one comes from {peer}",
                old.peer
            );
            self.alarm(alarm_of(name), text.clone(), now);
            return Some(Refusal::new(Code::NameInUse, text));
        }
        let is_older = old.incarnation == incarnation && (instance, nonce) < (old.instance, old.nonce);
        is_older.then(|| Refusal::new(Code::Superseded, format!("a newer connection of {name} is up")))
    }

    /// Something came over a link.
    pub fn heard(&mut self, id: LinkId, now: u64) {
        if let Some(name) = self.neighbours.names.get(&id)
            && let Some(link) = self.neighbours.links.get_mut(name)
        {
            link.heard = now;
        }
    }

    /// A link is over.
    pub fn close(&mut self, id: LinkId, reason: &str, now: u64) {
        let Some(name) = self.neighbours.names.get(&id).cloned() else { return };
        self.drop_link(&name, None, reason, now);
    }

    /// A neighbour is not in the broker list any more.
    pub(super) fn expel(&mut self, name: &BrokerName, now: u64) {
        let text = format!("{name} is not in the broker list of {} any more", self.me);
        self.drop_link(name, Some(Refusal::new(Code::UnknownBroker, text)), "not in the broker list", now);
    }

    /// Takes a link out of use; routes follow at once, so that nothing more is sent into the void.
    fn drop_link(&mut self, name: &BrokerName, refusal: Option<Refusal>, reason: &str, now: u64) {
        let Some(link) = self.neighbours.remove(name) else { return };
        link.outbox.close(refusal);
        self.notes.push(Note::new(Weight::Warning, "link down").with("broker", name).with("reason", reason));
        if self.topology.set_neighbour(name, None) {
            self.flood_own_state();
        }
        self.compute(now);
    }

    /// A second broker of our name is alive, and we are the younger one.
    pub(super) fn leave(&mut self, why: String, now: u64) {
        if self.left.is_some() {
            return;
        }
        self.notes.push(Note::new(Weight::Warning, "left the mesh").with("reason", &why));
        // It stands for as long as the broker does.
        self.alarms.insert(alarm_of(&self.me), (why.clone(), u64::MAX));
        self.left = Some(why.clone());
        let names: Vec<BrokerName> = self.neighbours.iter().map(|(name, _)| name.clone()).collect();
        for name in names {
            self.drop_link(&name, Some(Refusal::new(Code::NameInUse, why.clone())), "left the mesh", now);
        }
    }

    /// Pings, and gives up what is silent.
    pub(super) fn watch(&mut self, now: u64) {
        let dead = |(_, link): &(&BrokerName, &Link)| now.saturating_sub(link.heard) >= DEAD;
        let dead: Vec<BrokerName> = self.neighbours.iter().filter(dead).map(|(name, _)| name.clone()).collect();
        for name in dead {
            let refusal = Refusal::new(Code::HeartBeat, format!("nothing came from {name} for {DEAD} ms"));
            self.drop_link(&name, Some(refusal), "silent", now);
        }
        for link in self.neighbours.links.values_mut().filter(|link| link.next_ping <= now) {
            link.next_ping = now + PING;
            link.outbox.control(Arc::new(Head::Ping(Beat { tick: now })));
        }
    }

    pub(super) fn beat(&mut self, id: LinkId, head: &Head, now: u64) {
        let Some(name) = self.neighbours.names.get(&id) else { return };
        let Some(link) = self.neighbours.links.get_mut(name) else { return };
        match head {
            Head::Ping(beat) => link.outbox.control(Arc::new(Head::Alive(*beat))),
            Head::Alive(beat) => link.rtt = now.checked_sub(beat.tick),
            _ => {}
        }
    }
}

fn alarm_of(name: &BrokerName) -> String {
    format!("name {name}")
}
