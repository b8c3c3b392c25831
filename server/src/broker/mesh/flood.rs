//! How does state spread? Each record is flooded once over each link; on link-up both sides fill each other's gaps.

use super::interest::Absorbed;
use super::topology::Taken;
use super::{Mesh, STRANGER};
use crate::broker::event::LinkId;
use crate::broker::note::{Note, Weight};
use muster_protocol::link::{Digest, Have, Head, LinkState, Record, Summary, Want};
use muster_protocol::message::BrokerName;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Mesh {
    /// What our own sessions subscribe to now.
    pub fn set_interest(&mut self, patterns: BTreeSet<String>) {
        if let Some(delta) = self.interests.set_own(patterns) {
            self.flood(Head::Interest(delta), None);
        }
    }

    /// What our own nodes are now. `now` is monotonic ms.
    pub fn set_summary(&mut self, whole: Summary, now: u64) {
        if let Some(delta) = self.summaries.set_own(whole, now) {
            self.flood(Head::Summary(delta), None);
        }
    }

    /// A frame about the mesh itself.
    pub fn control(&mut self, link: LinkId, head: &Head, now: u64) {
        let Some(from) = self.neighbour(link).cloned() else { return };
        match head {
            Head::Ping(_) | Head::Alive(_) => self.beat(link, head, now),
            Head::Digest(digest) => self.fill_gaps(&from, digest),
            Head::Want(want) => self.send_record(&from, &want.origin, want.what),
            Head::LinkState(record) => self.take_state(&from, record, now),
            Head::Interest(record) => {
                if self.is_welcome(&from, &record.origin, now) {
                    let taken = self.interests.take(record);
                    self.absorbed(&from, &record.origin, Record::Interest, taken, head);
                }
            }
            Head::Summary(record) => {
                if self.is_welcome(&from, &record.origin, now) {
                    let taken = self.summaries.take(record);
                    self.absorbed(&from, &record.origin, Record::Summary, taken, head);
                }
            }
            Head::Refused(refused) => {
                self.notes.push(
                    Note::new(Weight::Warning, "link refused by the other side")
                        .with("broker", &from)
                        .with("code", &refused.code)
                        .with("reason", &refused.text),
                );
            }
            Head::Hello(_)
            | Head::Policy(_)
            | Head::WantPolicy(_)
            | Head::PolicyPart(_)
            | Head::Forward(_)
            | Head::Direct(_)
            | Head::Unknown => {}
        }
    }

    /// Our own record anew, to all neighbours.
    pub(super) fn flood_own_state(&mut self) {
        let record = self.topology.own().clone();
        self.flood(Head::LinkState(record), None);
    }

    fn flood(&self, head: Head, but: Option<&BrokerName>) {
        let head = Arc::new(head);
        for (_, link) in self.neighbours.iter().filter(|(name, _)| Some(*name) != but) {
            link.outbox.control(head.clone());
        }
    }

    /// Whether a record of this origin is taken; ours come back, and those of strangers are refused.
    fn is_welcome(&mut self, from: &BrokerName, origin: &BrokerName, now: u64) -> bool {
        if *origin == self.me {
            return false;
        }
        if self.list.contains(origin) {
            return true;
        }
        let text = format!("{from} passes on the state of {origin}, which is not in the broker list");
        if self.alarm(format!("{STRANGER}{origin}"), text, now) {
            self.notes.push(
                Note::new(Weight::Warning, "state of a broker that is not in the list")
                    .with("broker", origin)
                    .with("peer", from),
            );
        }
        false
    }

    fn take_state(&mut self, from: &BrokerName, record: &LinkState, now: u64) {
        let origin = record.origin.clone();
        if origin != self.me && !self.is_welcome(from, &origin, now) {
            return;
        }
        match self.topology.take(record.clone()) {
            Taken::New { restarted } => {
                if restarted {
                    self.restarted.insert(origin);
                }
                self.flood(Head::LinkState(record.clone()), Some(from));
                self.compute_soon(now);
            }
            Taken::Known => {}
            Taken::Older => self.send_record(from, &origin, Record::LinkState),
            Taken::Outbid => {
                let instance = self.topology.own().instance;
                self.notes.push(
                    Note::new(Weight::Warning, "somebody with our name was ahead of us; going above it")
                        .with("instance", instance),
                );
                self.interests.set_instance(instance);
                self.summaries.set_instance(instance);
                self.flood_own_state();
                for head in [
                    self.interests.whole(&self.me).map(Head::Interest),
                    self.summaries.whole(&self.me).map(Head::Summary),
                ]
                .into_iter()
                .flatten()
                {
                    self.flood(head, None);
                }
                self.compute(now);
            }
            Taken::Duplicate => {
                let text = format!("another broker named {} is in the mesh, and it is the older one", self.me);
                self.leave(text, now);
            }
        }
    }

    fn absorbed(&mut self, from: &BrokerName, origin: &BrokerName, what: Record, taken: Absorbed, head: &Head) {
        match taken {
            Absorbed::New => self.flood(head.clone(), Some(from)),
            Absorbed::Known => {}
            Absorbed::Gap => self.tell(from, Head::Want(Want { origin: origin.clone(), what })),
            Absorbed::Bad => {
                // Of a whole there is no better one to be had.
                if is_delta(head) {
                    self.tell(from, Head::Want(Want { origin: origin.clone(), what }));
                }
                self.notes.push(
                    Note::new(Weight::Warning, "a record that means nothing").with("broker", origin).with("peer", from),
                );
            }
        }
    }

    /// Says something to a neighbour, before any data.
    pub fn tell(&self, neighbour: &BrokerName, head: Head) {
        if let Some(link) = self.neighbours.get(neighbour) {
            link.outbox.control(Arc::new(head));
        }
    }

    fn send_record(&self, to: &BrokerName, origin: &BrokerName, what: Record) {
        let head = match what {
            Record::LinkState => self.topology.get(origin).cloned().map(Head::LinkState),
            Record::Interest => self.interests.whole(origin).map(Head::Interest),
            Record::Summary => self.summaries.whole(origin).map(Head::Summary),
        };
        if let Some(head) = head {
            self.tell(to, head);
        }
    }

    /// What we have, for a neighbour to compare.
    pub(super) fn digest(&self) -> Digest {
        // A summary may be here before the link state of its origin is: what is known of any kind counts.
        let have = |origin: &BrokerName| {
            let record = self.topology.get(origin);
            let have = Have {
                link_state: record.map_or((0, 0), |record| (record.instance, record.sequence)),
                incarnation: record.map_or(0, |record| record.incarnation),
                interest: self.interests.have(origin),
                summary: self.summaries.have(origin),
            };
            (have != Have::default()).then(|| (origin.clone(), have))
        };
        Digest { have: self.list.iter().chain([&self.me]).filter_map(have).collect() }
    }

    /// Sends a neighbour whatever we have newer than it.
    fn fill_gaps(&mut self, to: &BrokerName, theirs: &Digest) {
        for (origin, ours) in self.digest().have {
            let theirs = theirs.have.get(&origin).copied().unwrap_or_default();
            // Equal versions of two lives: one of them is a second broker with that name, and both sides must learn of it.
            if ours.link_state == theirs.link_state && ours.incarnation != theirs.incarnation {
                self.send_record(to, &origin, Record::LinkState);
            }
            for (what, ours, theirs) in [
                (Record::LinkState, ours.link_state, theirs.link_state),
                (Record::Interest, ours.interest, theirs.interest),
                (Record::Summary, ours.summary, theirs.summary),
            ] {
                if ours > theirs {
                    self.send_record(to, &origin, what);
                }
            }
        }
    }
}

fn is_delta(head: &Head) -> bool {
    match head {
        Head::Interest(record) => record.base.is_some(),
        Head::Summary(record) => record.base.is_some(),
        _ => false,
    }
}
