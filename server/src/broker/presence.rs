//! Who comes, stays and goes? Sessions and their subscriptions, from the login to the last table that forgets them.

use super::access::{Policy, User};
use super::answers::Announced;
use super::event::{NodeHello, Now, Opened, SessionId, Subscribed};
use super::note::{Note, Weight};
use super::outbox::Item;
use super::oversight::Ended;
use super::record::{Record, Verdict, Who};
use super::sessions::{Session, Subscription};
use super::{Broker, LaneId, Random};
use muster_protocol::error::{Code, Refusal};
use std::sync::Arc;

impl Broker {
    pub(super) fn open(&mut self, opened: Opened, now: Now) {
        let Opened { session, user: name, password_hash, token_made, node, peer, outbox } = opened;
        let node_id = node.map(|node| node.id.to_string());
        let who = Who { user: name.clone(), address: peer.address, session: Some(session.0), node: node_id };
        // Password or token were checked against some recent policy; only the one in force decides.
        let user = self.access.user(&name).filter(|user| {
            user.password.as_str() == password_hash
                && user.barred(&peer, now.unix / 1000).is_none()
                && !token_made.is_some_and(|made| user.revokes(made))
        });
        let Some(user) = user.cloned() else {
            let refusal = Refusal::new(Code::AuthFailed, "the policy changed during the login; log in again");
            self.counters.turned_away += 1;
            self.record(|_| Record::Login { who, verdict: Verdict::denied(&refusal) });
            outbox.close(Some(refusal), true);
            return;
        };
        let older = match self.admit(&user, node.as_ref()) {
            Ok(older) => older,
            Err(refusal) => {
                let note =
                    Note::new(Weight::Warning, "session refused").with("user", &user.name).with("peer", peer.address);
                self.note(note.with("code", refusal.code).with("reason", &refusal.text));
                self.counters.turned_away += 1;
                self.record(|_| Record::Login { who, verdict: Verdict::denied(&refusal) });
                outbox.close(Some(refusal), true);
                return;
            }
        };
        let mut row = None;
        if let Some(hello) = node {
            if let Some(older) = older {
                let text = format!("node {} has connected again from {}", hello.id, peer.ip());
                self.counters.moved += 1;
                self.close(older, Some(Refusal::new(Code::Moved, text)), "moved", now);
            }
            self.moves.connected(hello.id, hello.number);
            row = Some(self.nodes.connect(hello, session, &user, now));
        }
        let collective = row.is_some().then(|| user.collective.clone());
        let connected = Item::Connected { user: user.name.clone(), collective };
        self.note(
            Note::new(Weight::Info, "session opened")
                .with("session", session.0)
                .with("user", &user.name)
                .with("peer", peer.address),
        );
        self.record(|_| Record::Login { who, verdict: Verdict::ALLOWED });
        self.usage.opened(&user.name);
        self.counters.opened += 1;
        let mut opened = Session::new(user, peer, now.unix, outbox);
        opened.row = row;
        opened.token_made = token_made;
        self.sessions.insert(session, opened);
        self.push(session, connected, now);
        self.note_expiry(session, now);
    }

    /// Whether one more session of a user may begin: the session that it replaces, if its node has one.
    fn admit(&self, user: &User, node: Option<&NodeHello>) -> Result<Option<SessionId>, Refusal> {
        let current = node.and_then(|hello| Some((hello, self.nodes.get(self.nodes.row(&hello.id)?)?)));
        if let Some((hello, current)) = current.filter(|(hello, current)| current.number >= hello.number) {
            let (id, number) = (hello.id, current.number);
            let text = format!("node {id} is connected with session number {number}, which is not lower");
            return Err(Refusal::new(Code::Moved, text));
        }
        // Without the session that this one replaces: half-open, it would keep its own node out.
        let older = current.map(|(_, current)| current.session);
        self.limit_sessions(user, older).map(|()| older)
    }

    pub(super) fn subscribe(
        &mut self,
        id: SessionId,
        to: Subscribed,
        subscription: Arc<str>,
        random: Random<'_>,
    ) -> Result<(), Refusal> {
        let most = self.settings.subscriptions;
        let Some(session) = self.sessions.get_mut(id) else { return Ok(()) };
        if session.subscriptions.len() + session.queues.len() >= most {
            return Err(Refusal::new(Code::Limit, format!("a session may have at most {most} subscriptions")));
        }
        let taken = session.subscriptions.iter().any(|s| s.id == subscription)
            || session.queues.all().any(|q| self.queues.get(q).is_some_and(|q| q.subscription == subscription));
        if taken {
            return Err(Refusal::new(Code::BadHeader, "id: this connection already has a subscription with that id"));
        }
        match to {
            Subscribed::ReplyQueue(name) => {
                if session.queues.get(&name).is_some() {
                    return Err(Refusal::new(
                        Code::BadDestination,
                        format!("{name}: this connection already has that reply queue"),
                    ));
                }
                let bits = (u128::from(random()) << 64) | u128::from(random());
                let queue = self.queues.create(self.mesh.me().as_str(), bits, id, subscription);
                let queue = queue
                    .ok_or_else(|| Refusal::new(Code::Internal, "the broker's name does not make a queue name"))?;
                session.queues.add(name, queue);
            }
            Subscribed::Topic(pattern) => {
                if !self.access.covers(&session.user, &pattern) {
                    let user = &session.user.name;
                    let text = format!(
                        "{user} may not read {}: the policy does not grant read on all that it matches",
                        pattern
                    );
                    return Err(Refusal::new(Code::Denied, text));
                }
                self.subscriptions.add(id, &pattern);
                session.subscriptions.push(Subscription { id: subscription, pattern });
            }
        }
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, id: SessionId, subscription: &str) -> Result<(), Refusal> {
        let Some(session) = self.sessions.get_mut(id) else { return Ok(()) };
        if let Some(at) = session.subscriptions.iter().position(|s| &*s.id == subscription) {
            let Subscription { pattern, .. } = session.subscriptions.remove(at);
            if !session.subscriptions.iter().any(|s| s.pattern == pattern) {
                self.subscriptions.remove(id, &pattern);
            }
            return Ok(());
        }
        let is_it = |q: &&_| self.queues.get(q).is_some_and(|q| &*q.subscription == subscription);
        let Some(queue) = session.queues.all().find(is_it).cloned() else {
            return Err(Refusal::new(Code::BadHeader, "id: this connection has no subscription with that id"));
        };
        session.queues.remove(&queue);
        self.queues.remove(&queue);
        Ok(())
    }

    pub(super) fn close_slow(&mut self, id: SessionId, now: Now) {
        self.counters.slow_consumers += 1;
        let waiting = self.sessions.get(id).map_or(0, |s| s.outbox().backlog());
        let text = format!("{waiting} bytes wait and the outbox is full");
        self.close(id, Some(Refusal::new(Code::SlowConsumer, text)), "slow consumer", now);
    }

    /// Ends a session from this side; what it already has in its outbox is still sent, unless it does not read.
    pub(super) fn close(&mut self, id: SessionId, refusal: Option<Refusal>, reason: &str, now: Now) {
        // Who may no longer read does not get what waits, and who does not read never will.
        let at_once = |r: &Refusal| matches!(r.code, Code::SlowConsumer | Code::Revoked | Code::Moved | Code::Closed);
        let at_once = refusal.as_ref().is_some_and(at_once);
        self.part(id, refusal, at_once, reason, now);
    }

    fn part(&mut self, id: SessionId, refusal: Option<Refusal>, at_once: bool, reason: &str, now: Now) {
        if let Some(session) = self.sessions.get(id) {
            session.outbox().close(refusal, at_once);
        }
        self.forget(id, reason, now);
    }

    /// Takes a session out of every table; what its node owed is lost.
    pub(super) fn forget(&mut self, id: SessionId, reason: &str, now: Now) {
        let who = if self.keeps_records { self.who(id) } else { None };
        let Some(session) = self.sessions.remove(id) else { return };
        session.outbox().close(None, false);
        let node = session.row.and_then(|row| self.nodes.get(row)).map(|node| node.id);
        self.past.remember(Ended::new(id, &session, node, reason, now));
        self.lanes.remove(&LaneId::Session(id));
        self.inquiries.forget(id);
        if let Some(at) = session.expires {
            self.expiries.remove(&(at, id));
        }
        self.usage.closed(&session.user.name);
        for subscription in &session.subscriptions {
            self.subscriptions.remove(id, &subscription.pattern);
        }
        for serial in self.asks.asked_by(id) {
            let left = || Refusal::new(Code::Gone, "the caller has left; what came of the rest is not known");
            self.record_if(|broker| broker.outcome(serial, &left()));
            self.forget_ask(serial, now);
        }
        for queue in session.queues.all() {
            self.queues.remove(queue);
        }
        let user = session.user.name.to_string();
        self.note(
            Note::new(Weight::Info, "session closed").with("session", id.0).with("user", user).with("reason", reason),
        );
        if let Some(who) = who {
            self.record(|_| Record::SessionClosed { who, reason: reason.to_owned() });
        }
        if let Some(row) = session.row {
            if let Some(node) = self.nodes.get(row) {
                self.moves.disconnected(node.id);
            }
            self.lose(row, reason, now);
            let policy = self.access.clone();
            if let Some((node, Some(whole))) = self.nodes.disconnect(row, reason, &policy, now) {
                let (facts, classes) = (&whole.effective, &whole.document.classes);
                let gone =
                    Announced { event: "gone", node: node.id, facts, classes, reason: Some(reason), before: None };
                self.announce(&node.collective, gone, now);
            }
        }
    }

    /// A new policy: what it no longer allows ends now. Whoever made it is still told that it was.
    pub(super) fn apply(&mut self, policy: Arc<Policy>, editor: Option<SessionId>, now: Now) {
        let old = std::mem::replace(&mut self.access, policy);
        self.policy_since = now.unix;
        let mut over = Vec::new();
        let ids: Vec<SessionId> = self.sessions.iter().map(|(id, _)| id).collect();
        for id in ids {
            let Some(session) = self.sessions.get_mut(id) else { continue };
            let same = |new: &&Arc<User>| {
                let old = &session.user;
                new.password == old.password
                    && new.kind == old.kind
                    && new.collective == old.collective
                    && new.barred(&session.peer, now.unix / 1000).is_none()
                    && !session.token_made.is_some_and(|made| new.revokes(made))
            };
            match self.access.user(&session.user.name).filter(same) {
                None => {
                    // Group sets of two policies do not mix: until it is closed, the session has none.
                    session.user = Arc::new(session.user.without_groups());
                    let text = "the user was removed, disabled, expired or changed, or needs a certificate, or its tokens were revoked; log in again if it still exists";
                    over.push((id, text.to_owned()));
                }
                Some(user) => {
                    session.user = user.clone();
                    let lost = session.subscriptions.iter().find(|s| !self.access.covers(user, &s.pattern));
                    if let Some(lost) = lost {
                        over.push((id, format!("read on {} is no longer granted", lost.pattern)));
                    }
                }
            }
        }
        let ids: Vec<SessionId> = self.sessions.iter().map(|(id, _)| id).collect();
        for id in ids {
            self.note_expiry(id, now);
        }
        for (id, text) in over {
            let refusal = Some(Refusal::new(Code::Revoked, text));
            self.part(id, refusal, editor != Some(id), "revoked", now);
        }
        let policy = self.access.clone();
        self.mesh.set_list(policy.brokers().keys().cloned(), now.tick);
        self.nodes.apply(&old, &policy);
        self.assert_again(now);
        self.withhold(now);
    }

    pub(super) fn drain(&mut self, now: Now) {
        self.mesh.drain(now.tick);
        for (_, session) in self.sessions.iter() {
            session
                .outbox()
                .close(Some(Refusal::new(Code::Draining, "the broker is stopping; connect to another one")), false);
        }
    }

    /// Notes when a session ends because its user or its certificate expires; what was noted before is forgotten.
    pub(super) fn note_expiry(&mut self, id: SessionId, now: Now) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let left = |expires: u64| expires.saturating_mul(1000).saturating_sub(now.unix);
        let at = session.user.barred_from(&session.peer).map(|expires| now.tick.saturating_add(left(expires)));
        let before = std::mem::replace(&mut session.expires, at);
        if let Some(before) = before {
            self.expiries.remove(&(before, id));
        }
        if let Some(at) = at {
            self.expiries.insert((at, id));
        }
    }
}
