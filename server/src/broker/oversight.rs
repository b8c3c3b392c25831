//! Who is connected, who was, and who is to go? Questions of admins about the sessions of this broker.
//!
//! Whoever has a scope learns nothing of the agents whose nodes a find would not show: neither their sessions nor how many there
//! are, whichever page is asked for. Sessions of operators and services are shown to every admin.

use super::access::{Kind, User};
use super::event::{Now, SessionId};
use super::inquiries::Asker;
use super::queries::{PAGE_BYTES, within_page};
use super::sessions::Session;
use super::{Broker, LaneId, Work};
use muster_protocol::admin::{CloseAnswer, CloseQuery, ClosedShown, SessionShown, SessionsAnswer, SessionsQuery};
use muster_protocol::error::{Code, Refusal};
use muster_protocol::message::{NodeId, shown_upto};
use muster_protocol::policy::PAGE_MOST;
use serde_json::Map;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// Sessions that are over and are remembered.
const PAST_MOST: usize = 1_000;
/// Sessions on a page, unless told.
const PAGE: u32 = 100;
/// Sessions that one turn of a list looks at, and how many of them it shows at most.
const LOOKED: usize = 1_024;
const SHOWN: usize = 256;
/// Characters of a reason.
const REASON: usize = 200;
/// How long a session that an admin has closed is to stay away, ms.
const AWAY: u64 = 5_000;

/// The last sessions that are over.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// The oldest first.
    ended: VecDeque<Ended>,
}

/// A session that is over.
#[derive(Debug)]
pub(super) struct Ended {
    session: u64,
    user: String,
    kind: Kind,
    address: SocketAddr,
    node: Option<NodeId>,
    since: u64,
    until: u64,
    reason: String,
}

/// A list of sessions under way: what was found up to now.
#[derive(Debug)]
pub(super) struct Listing {
    asker: Asker,
    wanted: Wanted,
    limit: usize,
    /// The last one that was looked at.
    after: Option<SessionId>,
    found: Vec<SessionShown>,
    bytes: usize,
}

/// Which sessions are asked for.
#[derive(Debug)]
struct Wanted {
    user: Option<String>,
    kind: Option<Kind>,
}

/// What came of one turn of a list.
enum Turn {
    /// There may be more.
    GoesOn,
    /// The page is complete; `after` of the next one, if there is more.
    Over(Option<u64>),
}

impl Past {
    /// One more; the oldest is forgotten for it.
    pub(super) fn remember(&mut self, ended: Ended) {
        if self.ended.len() >= PAST_MOST {
            self.ended.pop_front();
        }
        self.ended.push_back(ended);
    }
}

impl Ended {
    pub(super) fn new(id: SessionId, session: &Session, node: Option<NodeId>, reason: &str, now: Now) -> Ended {
        Ended {
            session: id.0,
            user: session.user.name.clone(),
            kind: session.user.kind,
            address: session.peer.address,
            node,
            since: session.since,
            until: now.unix,
            reason: shown_upto(reason, 2 * REASON),
        }
    }

    fn shown(&self) -> ClosedShown {
        ClosedShown {
            session: self.session,
            user: self.user.clone(),
            address: self.address.to_string(),
            node: self.node.map(|node| node.to_string()),
            since: self.since,
            until: self.until,
            reason: self.reason.clone(),
        }
    }
}

impl Wanted {
    fn of(query: &SessionsQuery) -> Result<Wanted, Refusal> {
        let kind = query.kind.as_deref().map(|text| {
            let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
            let unknown = || Refusal::new(Code::BadBody, format!("kind: expected one of {}", known.join(", ")));
            Kind::parse(text).ok_or_else(unknown)
        });
        Ok(Wanted { user: query.user.clone(), kind: kind.transpose()? })
    }

    fn includes(&self, user: &str, kind: Kind) -> bool {
        self.kind.is_none_or(|wanted| wanted == kind) && self.user.as_deref().is_none_or(|wanted| wanted == user)
    }
}

impl Broker {
    /// Answers `/muster/admin.sessions`, at once or in later turns; what it cost.
    pub(super) fn show_sessions(
        &mut self,
        asker: &Asker,
        user: &User,
        query: &SessionsQuery,
        now: Now,
    ) -> Result<usize, Refusal> {
        let wanted = Wanted::of(query)?;
        let limit = query.limit.unwrap_or(PAGE).clamp(1, PAGE_MOST) as usize;
        if query.closed {
            let (answer, cost) = self.past_sessions(user, &wanted, limit, query.after);
            self.reply_with(asker, &answer, now);
            return Ok(cost);
        }
        let after = query.after.map(SessionId);
        let listing = Listing { asker: asker.clone(), wanted, limit, after, found: Vec::new(), bytes: 0 };
        Ok(self.list_on(Box::new(listing), now))
    }

    /// One turn of a list, whose rest waits for the next turn of its session; what it cost.
    pub(super) fn list_on(&mut self, mut listing: Box<Listing>, now: Now) -> usize {
        let id = listing.asker.session;
        let Some(user) = self.sessions.get(id).map(|session| session.user.clone()) else { return 1 };
        let before = listing.found.len();
        let (turn, looked) = self.list(&user, &mut listing);
        let cost = 1 + looked / 4 + listing.found.len() - before + self.nodes.cost(None, user.scope.as_ref());
        match turn {
            Turn::GoesOn => self.lane(LaneId::Session(id)).work.push_front(Work::List(listing)),
            Turn::Over(next) => {
                let Listing { asker, found: sessions, .. } = *listing;
                let broker = self.mesh.me().to_string();
                self.reply_with(&asker, &SessionsAnswer { broker, sessions, closed: Vec::new(), next }, now);
            }
        }
        cost
    }

    /// As far as one turn goes, and how many sessions it looked at.
    fn list(&self, user: &User, listing: &mut Listing) -> (Turn, usize) {
        let inside = user.scope.as_ref().map(|scope| self.nodes.matching(None, Some(scope)));
        let may_see = |session: &Session| match (&inside, session.user.kind) {
            (Some(inside), Kind::Agent) => session.row.is_some_and(|row| inside.contains(row)),
            _ => true,
        };
        let (mut looked, mut new) = (0, 0);
        for (id, session) in self.sessions.after(listing.after) {
            if looked == LOOKED || new == SHOWN {
                return (Turn::GoesOn, looked);
            }
            looked += 1;
            if listing.wanted.includes(&session.user.name, session.user.kind) && may_see(session) {
                let last = listing.found.last().map(|shown| shown.session);
                let shown = self.session_shown(id, session, user);
                // The first one always fits.
                let fits = within_page(&mut listing.bytes, &shown) || last.is_none();
                if listing.found.len() == listing.limit || !fits {
                    return (Turn::Over(last), looked);
                }
                listing.found.push(shown);
                new += 1;
            }
            listing.after = Some(id);
        }
        (Turn::Over(None), looked)
    }

    fn session_shown(&self, id: SessionId, session: &Session, viewer: &User) -> SessionShown {
        let node = session.row.and_then(|row| self.nodes.get(row));
        SessionShown {
            session: id.0,
            user: session.user.name.clone(),
            kind: session.user.kind.to_string(),
            address: session.peer.address.to_string(),
            node: node.map(|node| node.id.to_string()),
            display: session.row.map_or_else(Map::new, |row| self.display(viewer, row)),
            since: session.since,
            subscriptions: (session.subscriptions.len() + session.queues.len()) as u64,
            backlog: session.outbox().backlog() as u64,
        }
    }

    /// Sessions that are over, the newest first; what it cost.
    fn past_sessions(&self, user: &User, wanted: &Wanted, limit: usize, after: Option<u64>) -> (SessionsAnswer, usize) {
        let shows = user.scope.as_ref().map(|scope| self.nodes.shown_to(scope));
        let may_see = |ended: &&Ended| match (&shows, ended.kind) {
            (Some(shows), Kind::Agent) => ended.node.is_some_and(|node| shows(&node)),
            _ => true,
        };
        // A page begins after one that the asker may see: any other number is as good as none that ever was.
        let seen = self.past.ended.iter().rev().filter(may_see);
        let rest = seen.skip_while(|ended| after.is_some_and(|after| ended.session != after));
        let rest = rest.skip(usize::from(after.is_some()));
        let mut rest = rest.filter(|ended| wanted.includes(&ended.user, ended.kind)).peekable();
        let (mut closed, mut bytes): (Vec<ClosedShown>, usize) = (Vec::new(), 0);
        while closed.len() < limit && bytes < PAGE_BYTES {
            let Some(ended) = rest.next() else { break };
            let shown = ended.shown();
            within_page(&mut bytes, &shown);
            closed.push(shown);
        }
        let next = rest.peek().and(closed.last()).map(|last| last.session);
        let broker = self.mesh.me().to_string();
        let cost = 64 + closed.len() + 2 * self.nodes.cost(None, user.scope.as_ref());
        (SessionsAnswer { broker, sessions: Vec::new(), closed, next }, cost)
    }

    /// Answers `/muster/admin.close`; what it cost.
    pub(super) fn close_for(
        &mut self,
        asker: &Asker,
        user: &User,
        query: &CloseQuery,
        now: Now,
    ) -> Result<usize, Refusal> {
        let reason = reason(query);
        if reason.is_empty() {
            return Err(Refusal::new(Code::BadBody, "reason: say why; the peer and the audit log are told"));
        }
        let (id, cost) = (SessionId(query.session), self.nodes.cost(None, user.scope.as_ref()));
        let theirs = self.sessions.get(id).filter(|session| match (&user.scope, session.user.kind) {
            (Some(scope), Kind::Agent) => {
                session.row.is_some_and(|row| self.nodes.matching(None, Some(scope)).contains(row))
            }
            _ => true,
        });
        let Some(theirs) = theirs.map(|session| session.user.name.clone()) else {
            let text =
                format!("{}: no such session is open here, or it is of a node outside your scope", query.session);
            return Err(Refusal::new(Code::NoSuchSession, text));
        };
        if id == asker.session {
            let text = format!("{}: this session is the one that asks; disconnect instead", query.session);
            return Err(Refusal::new(Code::BadBody, text));
        }
        let text = format!("{} has closed this session: {reason}", user.name);
        let refusal = Refusal::new(Code::Closed, text).again_in(AWAY);
        self.close(id, Some(refusal), &format!("closed by {}: {reason}", user.name), now);
        self.reply_with(asker, &CloseAnswer { user: theirs }, now);
        Ok(16 + cost)
    }

    /// What a close is about, for the record.
    pub(super) fn about_close(&self, query: &CloseQuery) -> String {
        let whose = self.sessions.get(SessionId(query.session)).map_or("nobody", |session| &session.user.name);
        format!("session {} of {whose}: {}", query.session, reason(query))
    }
}

/// Why, on one line.
fn reason(query: &CloseQuery) -> String {
    shown_upto(query.reason.trim(), REASON)
}
