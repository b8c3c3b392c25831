//! Where do the audit logs end? The end of this broker's goes to all others, theirs go on record here, so that what is cut shows.

use super::Broker;
use super::event::Now;
use super::mesh::Cargo;
use super::note::{Note, Weight};
use super::record::Record;
use muster_protocol::link::{AuditHead, Load};
use muster_protocol::message::BrokerName;
use std::collections::{BTreeMap, BTreeSet};

/// The ends of logs that are known.
#[derive(Debug, Default)]
pub(super) struct Witness {
    /// Of this broker's own.
    own: Option<AuditHead>,
    /// Who was told that.
    told: BTreeSet<BrokerName>,
    /// Of each other broker's.
    heard: BTreeMap<BrokerName, Heard>,
}

/// What was last heard of a log.
#[derive(Debug)]
struct Heard {
    /// Boot counter and number of the message: what was on the way for longer is older.
    order: (u64, u64),
    head: AuditHead,
}

impl Broker {
    /// The log of this broker ends there: everybody is told, whoever is out of reach as soon as there is a way.
    pub(super) fn tell_head(&mut self, head: AuditHead, now: Now) {
        self.witness.own = Some(head);
        self.witness.told.clear();
        self.spread_head(now);
    }

    /// Tells those that can be reached and were not told.
    pub(super) fn spread_head(&mut self, now: Now) {
        let Witness { own: Some(head), told, .. } = &mut self.witness else { return };
        let members = self.mesh.routes().members();
        // One that comes back may have started anew since, and forgotten.
        told.retain(|name| members.contains(name));
        let to: Vec<BrokerName> =
            members.iter().filter(|name| *name != self.mesh.me() && !told.contains(*name)).cloned().collect();
        told.extend(to.iter().cloned());
        let (load, cargo) = (Load::AuditHead(head.clone()), Cargo { droppable: true, ..Cargo::default() });
        self.mesh.forward(to, load, cargo, now.tick);
    }

    /// The log of another broker ends there, as it says; `order` is the boot counter and the number of the message.
    pub(super) fn hear_head(&mut self, origin: &BrokerName, order: (u64, u64), head: AuditHead, now: Now) {
        let before = self.witness.heard.get(origin);
        if !head.is_sound() || before.is_some_and(|before| before.order >= order) {
            return;
        }
        let is_known = before.is_some_and(|before| (before.head.n, &before.head.hash) == (head.n, &head.hash));
        let fault = before.and_then(|before| fault(&before.head, &head));
        self.witness.heard.insert(origin.clone(), Heard { order, head: head.clone() });
        if is_known {
            return;
        }
        if let Some(fault) = &fault {
            let text = format!("the audit log of {origin} was cut off, or begun anew: {fault}");
            self.mesh.alarm(format!("audit {origin}"), text, now.tick);
            let note = Note::new(Weight::Warning, "an audit log was cut off, or begun anew");
            self.note(note.with("broker", origin).with("reason", fault));
        }
        self.record(|_| Record::PeerHead { peer: origin.clone(), head, fault });
    }
}

/// Why the later of two ends cannot be one of the same log.
fn fault(before: &AuditHead, head: &AuditHead) -> Option<String> {
    if head.n < before.n {
        return Some(format!("it had {} lines, and has {} now", before.n, head.n));
    }
    (head.n == before.n && head.hash != before.hash).then(|| format!("line {} is another than before", head.n))
}
