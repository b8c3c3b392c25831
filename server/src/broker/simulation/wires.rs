//! How do frames travel from broker to broker? Connections with delays, lanes that keep their order, and all that breaks them.

use super::edge::Frame;
use super::site::Flag;
use super::world::{Happening, Seen, World};
use crate::broker::event::{Event, LinkId, LinkOpened, Ticket};
use crate::broker::mesh::lanes::{Item, LinkReader, lanes};
use bytes::Bytes;
use muster_protocol::link::{Head, Hello, NEWEST, Neighbour, OLDEST};
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Bytes of a data lane.
const LANE: usize = 1 << 20;

/// A configured link between two sites; side 0 dials.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) sites: [usize; 2],
    pub(super) costs: [u32; 2],
    /// What each side may send; everything if not given.
    pub(super) filters: [Option<Vec<String>>; 2],
    /// Nothing is cut between the two.
    pub(super) up: bool,
    /// ms on the way.
    pub(super) delay: Range<u64>,
    /// Side 1 dials too, so that two connections may come to be at once.
    pub(super) both_dial: bool,
    /// The writer is given one frame at a time: lanes fill, records are coalesced.
    pub(super) is_slow: bool,
    redial: [bool; 2],
}

impl Wire {
    pub(super) fn new(a: usize, b: usize, cost: u32, delay: Range<u64>) -> Wire {
        Wire {
            sites: [a, b],
            costs: [cost, cost],
            filters: [None, None],
            up: true,
            delay,
            both_dial: false,
            is_slow: false,
            redial: [false, false],
        }
    }
}

/// One TCP connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) wire: usize,
    pub(super) ends: [End; 2],
    /// Whatever this side sends disappears, and it is not told: a half-open connection.
    pub(super) is_deaf: [bool; 2],
    /// Cut: what is on the way is lost.
    pub(super) is_cut: bool,
    /// Nothing arrives before: the network stalls, and then delivers all.
    pub(super) stalled: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Greeting,
    Open,
    Over,
}

/// One side of a connection.
#[derive(Debug)]
pub(super) struct End {
    pub(super) site: usize,
    life: u64,
    pub(super) link: LinkId,
    pub(super) stage: Stage,
    opened: Option<Box<LinkOpened>>,
    reader: LinkReader,
    flag: Arc<Flag>,
    is_pumping: bool,
    /// When the last frame of a lane arrives here.
    control: u64,
    data: u64,
}

impl World {
    /// A side of a wire tries to connect; the other side accepts unless there is no way to it.
    pub(super) fn redial(&mut self, wire: usize, side: usize) {
        self.wires[wire].redial[side] = false;
        let [own, other] = [self.wires[wire].sites[side], self.wires[wire].sites[1 - side]];
        let has = |(_, c): (&u64, &Connection)| c.wire == wire && c.ends[side].stage != Stage::Over;
        if !self.sites[own].is_alive() || self.connections.iter().any(has) {
            return;
        }
        if !self.wires[wire].up || !self.sites[other].is_alive() {
            return self.plan_redial(wire, side, 200..1_500);
        }
        let crosses = self.wires[wire].both_dial && self.dice.chance(30);
        let mut hello = |by: usize, dialled: bool| {
            let [site, peer] = [self.wires[wire].sites[by], self.wires[wire].sites[1 - by]];
            self.hello(site, dialled.then_some(peer))
        };
        // If both dial at once, each says its first HELLO on its own connection, before it accepts the other's.
        let ours = hello(side, true);
        let crossing = crosses.then(|| hello(1 - side, true));
        let theirs = hello(1 - side, false);
        let accepted = hello(side, false);
        self.connect(wire, by_side(side, ours, theirs));
        if let Some(crossing) = crossing {
            self.connect(wire, by_side(side, accepted, crossing));
        }
    }

    pub(super) fn plan_redial(&mut self, wire: usize, side: usize, after: Range<u64>) {
        let dials = side == 0 || self.wires[wire].both_dial;
        if dials && !std::mem::replace(&mut self.wires[wire].redial[side], true) {
            let after = self.dice.within(after);
            self.plan(after, Happening::Redial { wire, side });
        }
    }

    /// TLS and HELLO are done; each side hears of it in its own time.
    fn connect(&mut self, wire: usize, hellos: [Hello; 2]) {
        self.last_connection += 1;
        let number = self.last_connection;
        let sites = self.wires[wire].sites;
        let nonce = hellos[0].nonce + hellos[1].nonce;
        self.seen(Seen::Text(format!("link {}-{} connects (nonce {nonce})", hellos[0].name, hellos[1].name)));
        let mut at = |_| self.now + self.dice.within(1..20);
        let when = [at(0), at(1)];
        let [second, first] = hellos;
        let mut hellos = [Some(first), Some(second)];
        let ends = [0, 1].map(|side| {
            let hello = hellos[side].take().expect("once");
            self.end(wire, side, hello, nonce, when[side])
        });
        let connection = Connection { wire, ends, is_deaf: [false; 2], is_cut: false, stalled: 0 };
        for (side, at) in when.into_iter().enumerate() {
            self.sites[sites[side]].ends.push((number, side));
            self.plan(at - self.now, Happening::Opened { connection: number, side });
        }
        self.connections.insert(number, connection);
    }

    /// As `links` makes it: the connection that the lesser name dialled has an odd sum.
    fn hello(&mut self, site: usize, dialled: Option<usize>) -> Hello {
        let now = self.now;
        let is_lesser = dialled.is_some_and(|peer| self.sites[site].name < self.sites[peer].name);
        let site = &mut self.sites[site];
        site.nonce += 2;
        Hello {
            cluster: "sim".into(),
            name: site.name.clone(),
            instance: site.instance(),
            incarnation: site.incarnation,
            nonce: site.nonce + u64::from(is_lesser),
            oldest: OLDEST,
            newest: NEWEST,
            clock: site.unix(now),
            max_body: 1 << 20,
        }
    }

    fn end(&mut self, wire: usize, side: usize, hello: Hello, nonce: u64, at: u64) -> End {
        let Wire { sites, costs, filters, .. } = &self.wires[wire];
        let end = Neighbour { cost: costs[side], send: filters[side].clone() };
        let (outbox, reader) = lanes(LANE);
        let number = sites[side];
        let site = &mut self.sites[number];
        site.last_link += 1;
        let link = LinkId(site.last_link);
        let peer = "127.0.0.1:61617".parse().expect("an address");
        End {
            site: number,
            life: site.life,
            link,
            stage: Stage::Greeting,
            opened: Some(Box::new(LinkOpened { link, hello, nonce, end, peer, outbox })),
            reader,
            flag: Flag::new(),
            is_pumping: false,
            control: at,
            data: at,
        }
    }

    pub(super) fn opened(&mut self, connection: u64, side: usize) {
        let Some(end) = self.live_end(connection, side) else { return };
        let Some(opened) = end.opened.take() else { return };
        end.stage = Stage::Open;
        let site = end.site;
        self.handle(site, Event::LinkOpened(opened));
    }

    /// The end, unless it is over or its broker's life is.
    fn live_end(&mut self, connection: u64, side: usize) -> Option<&mut End> {
        let end = &mut self.connections.get_mut(&connection)?.ends[side];
        let is_live = end.stage != Stage::Over && self.sites[end.site].life == end.life;
        (is_live && self.sites[end.site].is_alive()).then_some(end)
    }

    /// Plans the writer's turn where something was written.
    pub(super) fn look_at_links(&mut self, site: usize) {
        for (connection, side) in self.sites[site].ends.clone() {
            let Some(end) = self.live_end(connection, side) else { continue };
            if end.stage == Stage::Open && !end.is_pumping && end.flag.take() {
                end.is_pumping = true;
                let after = if self.dice.chance(30) { self.dice.within(0..8) } else { 0 };
                self.plan(after, Happening::Pump { connection, side });
            }
        }
    }

    /// The writer of a side takes what waits: control before data.
    pub(super) fn pump(&mut self, connection: u64, side: usize) {
        let Some(end) = self.live_end(connection, side) else { return };
        end.is_pumping = false;
        let (site, waker) = (end.site, end.flag.waker());
        let mut context = Context::from_waker(&waker);
        loop {
            let Some(end) = self.live_end(connection, side) else { return };
            let Poll::Ready(item) = end.reader.poll_next(&mut context) else { return };
            match item {
                Item::Control(head) => {
                    let frame = Frame::new(&head, Bytes::new(), self.has_codec);
                    self.transmit(connection, side, head, frame, true);
                }
                Item::Data(freight) => {
                    let tick = self.sites[site].time(self.now).tick;
                    if let Some(frame) = Frame::of(&freight, tick, self.has_codec) {
                        self.transmit(connection, side, freight.head, frame, false);
                    }
                }
                Item::Close(refusal) => {
                    let why = refusal.map_or_else(|| "closed".to_owned(), |r| r.to_string());
                    return self.hang_up(connection, side, &why);
                }
            }
            let wire = self.connections[&connection].wire;
            if self.wires[wire].is_slow {
                let after = self.dice.within(1..4);
                if let Some(end) = self.live_end(connection, side) {
                    end.is_pumping = true;
                    self.plan(after, Happening::Pump { connection, side });
                }
                return;
            }
        }
    }

    /// A frame goes off. Within its lane it keeps its order; data never overtakes control, control may overtake data.
    fn transmit(&mut self, connection: u64, side: usize, head: Arc<Head>, frame: Frame, is_control: bool) {
        let Some(c) = self.connections.get(&connection) else { return };
        let (wire, to) = (c.wire, 1 - side);
        let (from_site, to_site) = (c.ends[side].site, c.ends[to].site);
        let (is_lost, stalled) = (c.is_deaf[side] || c.is_cut, c.stalled);
        self.check_frame(from_site, to_site, &head);
        self.seen(Seen::Frame { from: from_site, to: to_site, head: head.clone(), is_lost });
        if is_lost {
            return;
        }
        let delay = self.wires[wire].delay.clone();
        let at = (self.now + self.dice.within(delay)).max(stalled);
        let Some(end) = self.connections.get_mut(&connection).map(|c| &mut c.ends[to]) else { return };
        let at = if is_control { at.max(end.control) } else { at.max(end.control).max(end.data) };
        *(if is_control { &mut end.control } else { &mut end.data }) = at;
        self.plan(at - self.now, Happening::Arrive { connection, side: to, frame });
    }

    pub(super) fn arrive(&mut self, connection: u64, side: usize, frame: Frame) {
        if self.connections.get(&connection).is_none_or(|c| c.is_cut) {
            return;
        }
        let Some(end) = self.live_end(connection, side) else { return };
        let (site, link) = (end.site, end.link);
        let me = self.sites[site].name.clone();
        let frames = vec![frame.received(&me)];
        self.handle(site, Event::LinkFrames { link, frames, ticket: Ticket(None) });
    }

    /// A broker has ended its side: the other hears of it, if anything still reaches it.
    fn hang_up(&mut self, connection: u64, side: usize, why: &str) {
        let Some(c) = self.connections.get(&connection) else { return };
        let (wire, is_lost, other) = (c.wire, c.is_deaf[side] || c.is_cut, &c.ends[1 - side]);
        let (from, to) = (c.ends[side].site, other.site);
        let last = other.control.max(other.data).max(self.now);
        self.seen(Seen::Text(format!("{} ends its link to {}: {why}", self.sites[from].name, self.sites[to].name)));
        self.plan(0, Happening::Ended { connection, side });
        if !is_lost {
            let delay = self.wires[wire].delay.clone();
            let after = last - self.now + self.dice.within(delay);
            self.plan(after, Happening::Ended { connection, side: 1 - side });
        }
    }

    /// A side notices that its connection is over.
    pub(super) fn ended(&mut self, connection: u64, side: usize) {
        let Some(c) = self.connections.get_mut(&connection) else { return };
        let (wire, was) = (c.wire, std::mem::replace(&mut c.ends[side].stage, Stage::Over));
        let End { site, link, life, .. } = c.ends[side];
        if c.ends.iter().all(|end| end.stage == Stage::Over) {
            self.connections.remove(&connection);
        }
        if was == Stage::Over {
            return;
        }
        self.sites[site].ends.retain(|end| *end != (connection, side));
        if self.sites[site].life == life && self.sites[site].is_alive() {
            self.handle(site, Event::LinkClosed { link, reason: "connection closed".into() });
            self.plan_redial(wire, side, 50..600);
        }
    }

    /// Cuts a wire: what is on the way is lost, and the sides notice within `notice` ms, each in its own time.
    pub(super) fn cut(&mut self, wire: usize, notice: Range<u64>) {
        self.wires[wire].up = false;
        let over: Vec<u64> = self.connections.iter().filter(|(_, c)| c.wire == wire).map(|(n, _)| *n).collect();
        for connection in over {
            if let Some(c) = self.connections.get_mut(&connection) {
                c.is_cut = true;
            }
            for side in [0, 1] {
                let after = self.dice.within(notice.clone());
                self.plan(after, Happening::Ended { connection, side });
            }
        }
    }

    /// What the given sides of a wire's connections send disappears from now on, and nobody is told.
    pub(super) fn silence(&mut self, wire: usize, sides: [bool; 2]) {
        for c in self.connections.values_mut().filter(|c| c.wire == wire) {
            c.is_deaf = [c.is_deaf[0] || sides[0], c.is_deaf[1] || sides[1]];
        }
    }

    /// The network stalls for so many ms, and then delivers all.
    pub(super) fn stall(&mut self, wire: usize, ms: u64) {
        let until = self.now + ms;
        for c in self.connections.values_mut().filter(|c| c.wire == wire) {
            c.stalled = until;
        }
    }

    /// The connections of a broker that has died: the far ends are told by the system, or by nobody.
    pub(super) fn orphan(&mut self, site: usize, is_told: bool) {
        for (connection, side) in std::mem::take(&mut self.sites[site].ends) {
            self.ended(connection, side);
            let Some(c) = self.connections.get_mut(&connection) else { continue };
            c.is_deaf = [true, true];
            if is_told {
                let after = self.dice.within(0..300);
                self.plan(after, Happening::Ended { connection, side: 1 - side });
            }
        }
    }
}

fn by_side<T>(side: usize, own: T, other: T) -> [T; 2] {
    if side == 0 { [own, other] } else { [other, own] }
}
