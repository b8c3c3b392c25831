//! Which policy is in force, which is newer, and what is to be done about it? A plain value: stamps in, errands out.
//!
//! One broker, the authority, makes editions; the others fetch what a neighbour has that beats theirs, piece by piece, and tell their
//! own neighbours when they enforce it. Editions are made and taken one after the other, so that what was written last holds.

use super::errand::{Adopt, Amend, Change, Chore, Edition, Errand, PutBack};
use super::event::LinkId;
use super::inquiries::Asker;
use muster_protocol::error::{Code, Refusal};
use muster_protocol::link::Head;
use muster_protocol::message::BrokerName;
use muster_protocol::policy::{
    AuthorityAnswer, EditQuery, Generation, LINEAGE_MOST, Made, PART, PolicyPart, PolicyState, Seal, Stamp, Took,
    WINDOW, WantPolicy,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Edits that may wait.
const WAITING: usize = 64;
/// After so long without a piece a neighbour is asked again, ms.
const PATIENCE: u64 = 3_000;
/// So often it is asked without an answer before its offer is passed over.
const ASKS: u32 = 4;
/// What a neighbour may take for a text in all: so long, ms, and a ms more for each of so many bytes.
const FETCH: u64 = 30_000;
const PACE: u64 = 64;
/// How long the offers of a neighbour are passed over that has failed at one, ms; doubled with each time, up to the longest.
const WAIT: u64 = 1_000;
const WAIT_MOST: u64 = 60_000;
/// How far a term or number may be ahead of the one that holds here. No cluster gets so far; whoever says so would use up the numbers.
const LEAP: u64 = 1 << 32;
/// Longest text that is fetched: what a policy may have.
const TEXT_MOST: u64 = 32 * 1024 * 1024;
/// Alarms that are kept.
const ALARMS: usize = 32;
/// Who edits the file by hand.
const FILE: &str = "(file)";

/// To whom an answer goes.
#[derive(Debug, Clone)]
pub enum Whose {
    /// A session of this broker.
    Session(Asker),
    /// A user of another broker, whose question has this number there.
    Broker(BrokerName, u64),
}

/// An edit that waits for its turn.
#[derive(Debug)]
pub enum Job {
    /// Of a user.
    Edit(Whose, Box<EditQuery>, Made),
    /// This broker becomes the authority.
    Take(Whose, Made),
    /// Of the file, which held this generation before.
    Hand(Change, Option<Generation>, Made),
}

/// What an errand is under way for.
#[derive(Debug)]
enum Doing {
    Edit { whose: Whose, dry_run: bool },
    Hand,
    Adopt { from: BrokerName, stamp: Stamp },
    PutBack,
}

/// An errand that has come back.
#[derive(Debug)]
pub enum Undone {
    /// Somebody waits for its answer; whether it was a dry run.
    Edit(Whose, bool),
    /// The file was edited by hand.
    Hand,
    /// A neighbour's edition was to be taken.
    Adopt(BrokerName, Stamp),
    /// The file was put back.
    PutBack,
}

/// A frame for a neighbour; those with a body wait behind data, the others go before it.
#[derive(Debug, PartialEq)]
pub struct Letter {
    /// For whom.
    pub to: BrokerName,
    /// What.
    pub head: Head,
    /// Its body.
    pub body: Vec<u8>,
}

/// An edition that comes in pieces.
#[derive(Debug)]
struct Fetch {
    from: BrokerName,
    stamp: Stamp,
    seal: Option<Seal>,
    text: Vec<u8>,
    /// Up to here it was asked for.
    upto: u64,
    /// When it is asked for again, monotonic ms.
    again: u64,
    /// How often it was, without an answer.
    asks: u32,
    /// When it is given up, monotonic ms.
    until: u64,
}

/// A neighbour whose offers have come to nothing.
#[derive(Debug)]
struct Failed {
    times: u32,
    /// Nothing is fetched from it before then, monotonic ms.
    until: u64,
}

/// What a broker knows of policies.
#[derive(Debug)]
pub struct Editions {
    me: BrokerName,
    current: Edition,
    /// Other brokers that took the term of the current edition.
    rivals: BTreeSet<BrokerName>,
    /// The highest term that was heard of.
    highest: u64,
    links: BTreeMap<BrokerName, (LinkId, Option<PolicyState>)>,
    fetch: Option<Fetch>,
    failed: BTreeMap<BrokerName, Failed>,
    jobs: VecDeque<Job>,
    doing: Option<(u64, Doing)>,
    last: u64,
    /// By what they are about: a newer one about the same takes the place of the older.
    alarms: BTreeMap<String, String>,
    letters: Vec<Letter>,
}

impl Editions {
    /// Begins with what was on disk.
    pub fn new(me: BrokerName, current: Edition) -> Editions {
        let highest = current.generation().map_or(0, |generation| generation.term);
        Editions {
            me,
            current,
            rivals: BTreeSet::new(),
            highest,
            links: BTreeMap::new(),
            fetch: None,
            failed: BTreeMap::new(),
            jobs: VecDeque::new(),
            doing: None,
            last: 0,
            alarms: BTreeMap::new(),
            letters: Vec::new(),
        }
    }

    /// What is in force.
    pub fn current(&self) -> &Edition {
        &self.current
    }

    /// Who makes the next edition: who made the current one, or whom an unsealed policy names.
    pub fn authority(&self) -> Option<&BrokerName> {
        match &self.current.seal {
            Some(seal) => Some(&seal.stamp.authority),
            None => self.current.policy.authority(),
        }
    }

    /// Whether this broker makes the next edition.
    pub fn is_mine(&self) -> bool {
        self.current.seal.as_ref().is_some_and(|seal| seal.stamp.authority == self.me)
    }

    /// Frames for neighbours since the last call.
    pub fn take_letters(&mut self) -> Vec<Letter> {
        std::mem::take(&mut self.letters)
    }

    /// When [`Editions::tick`] is to be called, monotonic ms.
    pub fn next_deadline(&self) -> Option<u64> {
        let again = self.fetch.as_ref().filter(|fetch| !fetch.is_complete()).map(|fetch| fetch.again.min(fetch.until));
        let own = self.current.seal.as_ref().map(|seal| &seal.stamp);
        let offers = |name: &BrokerName| {
            self.links.get(name).and_then(|(_, state)| state.as_ref()?.stamp.as_ref()).is_some_and(|it| Some(it) > own)
        };
        let waits = self.failed.iter().filter(|(name, failed)| failed.until > 0 && offers(name));
        waits.map(|(_, failed)| failed.until).chain(again).min()
    }

    /// What an admin is told.
    pub fn answer(&self, reachable: bool) -> AuthorityAnswer {
        AuthorityAnswer {
            broker: self.me.to_string(),
            generation: self.current.generation(),
            authority: self.authority().map(ToString::to_string),
            reachable,
            rivals: self.rivals.iter().map(ToString::to_string).collect(),
            neighbours: self.links.iter().map(|(name, (_, state))| (name.to_string(), generation(state))).collect(),
            alarms: self.alarms.values().cloned().collect(),
        }
    }

    /// What an admin should look at.
    pub fn alarms(&self) -> impl Iterator<Item = &str> {
        self.alarms.values().map(String::as_str)
    }

    /// The links that are up: new ones are told what is in force, of others nothing is expected any more.
    pub fn set_links(&mut self, links: BTreeMap<BrokerName, LinkId>, now: u64) {
        self.links.retain(|name, (link, _)| links.get(name) == Some(link));
        // What was asked over a link that is gone does not come.
        self.fetch.take_if(|fetch| !fetch.is_complete() && !self.links.contains_key(&fetch.from));
        for (name, link) in links {
            if !self.links.contains_key(&name) {
                self.links.insert(name.clone(), (link, None));
                self.letters.push(Letter { to: name, head: Head::Policy(self.state()), body: Vec::new() });
            }
        }
        self.look_for_newer(now);
    }

    /// A neighbour says what it enforces.
    pub fn hear(&mut self, from: &BrokerName, state: PolicyState, now: u64) {
        let Some((_, known)) = self.links.get_mut(from) else { return };
        *known = Some(state.clone());
        if let Some(stamp) = state.stamp.as_ref().filter(|stamp| !self.can_be(stamp)) {
            let text = format!(
                "{from} says that policy {} of {} holds, which no cluster comes to from what holds here; find out who has that broker",
                stamp.generation, stamp.authority
            );
            return self.alarm(format!("leap {from}"), text);
        }
        if self.note_rivals(&state) {
            self.tell_all();
        }
        self.look_for_newer(now);
    }

    /// A neighbour wants a piece of what is in force here. One that is not any more will be heard of soon. Whoever wants much at once
    /// gets one window of it: it asks again for what does not come.
    pub fn wanted(&mut self, from: &BrokerName, want: &WantPolicy) {
        if self.letters.iter().any(|letter| letter.to == *from && !letter.body.is_empty()) {
            return;
        }
        let Some(seal) = self.current.seal.as_ref().filter(|seal| seal.stamp.sha256 == want.sha256) else { return };
        let text = self.current.text.as_bytes();
        let begin = usize::try_from(want.from).unwrap_or(usize::MAX).min(text.len());
        let bytes = usize::try_from(want.bytes.min(WINDOW)).unwrap_or(usize::MAX);
        let end = begin.saturating_add(bytes).min(text.len());
        let mut at = begin;
        for piece in text[begin..end].chunks(PART) {
            let part = PolicyPart { seal: seal.clone(), from: at as u64 };
            self.letters.push(Letter {
                to: from.clone(),
                head: Head::PolicyPart(Box::new(part)),
                body: piece.to_vec(),
            });
            at += piece.len();
        }
    }

    /// A piece of what a neighbour has.
    pub fn piece(&mut self, from: &BrokerName, part: PolicyPart, body: &[u8], now: u64) {
        let Some(fetch) = &mut self.fetch else { return };
        let fits = fetch.from == *from && fetch.stamp == part.seal.stamp && fetch.text.len() as u64 == part.from;
        if !fits
            || body.is_empty()
            || fetch.is_complete()
            || fetch.text.len() as u64 + body.len() as u64 > fetch.stamp.bytes
        {
            return;
        }
        fetch.text.extend_from_slice(body);
        fetch.seal = Some(part.seal);
        (fetch.again, fetch.asks) = (now + PATIENCE, 0);
        let len = fetch.text.len() as u64;
        if len >= fetch.upto && len < fetch.stamp.bytes {
            let want = fetch.want();
            self.letters.push(want);
        }
    }

    /// What has not come in time is asked for again, a few times; then somebody else is asked.
    pub fn tick(&mut self, now: u64) {
        let given_up = self
            .fetch
            .take_if(|fetch| !fetch.is_complete() && (fetch.until <= now || fetch.asks >= ASKS && fetch.again <= now));
        if let Some(Fetch { from, stamp, .. }) = given_up {
            let text =
                format!("{from} offers policy {} of {}, and does not send it", stamp.generation, stamp.authority);
            self.alarm(format!("silent {from}"), text);
            self.fail(&from, now);
        }
        if let Some(fetch) = self.fetch.as_mut().filter(|fetch| !fetch.is_complete() && fetch.again <= now) {
            (fetch.again, fetch.asks) = (now + PATIENCE, fetch.asks + 1);
            let want = fetch.want();
            self.letters.push(want);
        }
        let over = self.failed.values_mut().filter(|failed| failed.until > 0 && failed.until <= now);
        if over.map(|failed| failed.until = 0).count() > 0 {
            self.look_for_newer(now);
        }
    }

    /// An edit waits for its turn; refused at once if too many do.
    pub fn submit(&mut self, job: Job) -> Result<(), Refusal> {
        if self.jobs.len() >= WAITING && !matches!(job, Job::Hand(..)) {
            let text = format!("{WAITING} edits of the policy wait for their turn");
            return Err(Refusal::new(Code::Busy, text).again_in(1_000));
        }
        if let (Job::Hand(..), Some(waiting)) = (&job, self.jobs.iter().position(|job| matches!(job, Job::Hand(..)))) {
            // The file holds only what was written last.
            self.jobs.remove(waiting);
        }
        self.jobs.push_back(job);
        Ok(())
    }

    /// The next errand, if none is under way. Refusals of edits that cannot be made go to who waits for them; `may` says whether a user
    /// still has the right.
    pub fn next(
        &mut self,
        may: impl Fn(&Job) -> Result<(), Refusal>,
        refused: &mut Vec<(Whose, Refusal)>,
    ) -> Option<Errand> {
        if self.doing.is_some() {
            return None;
        }
        // What is newer goes first: an edit is made on what holds.
        if let Some(fetch) = self.fetch.take_if(|fetch| fetch.is_complete())
            && let Some(seal) = fetch.seal
        {
            // An authority that is told of its own editions was set back to an earlier state: what it made since may be no part of them.
            let is_own = seal.stamp.authority == self.me;
            let set_aside = self.current.seal.as_ref().is_none_or(|own| is_own || !seal.builds_on(&own.stamp));
            let adopt = Adopt { seal, text: fetch.text, base: self.current.clone(), set_aside };
            return Some(
                self.begin(Doing::Adopt { from: fetch.from, stamp: fetch.stamp }, Chore::Adopt(Box::new(adopt))),
            );
        }
        while let Some(job) = self.jobs.pop_front() {
            let turn = may(&job).and_then(|()| self.may_be_done(&job));
            match (job, turn) {
                (Job::Edit(whose, query, made), Ok(())) => {
                    let dry_run = query.dry_run;
                    let amend = self.amend(Change::Edit(query), made);
                    return Some(self.begin(Doing::Edit { whose, dry_run }, amend));
                }
                (Job::Take(whose, made), Ok(())) => {
                    let amend = self.take_over(made);
                    return Some(self.begin(Doing::Edit { whose, dry_run: false }, amend));
                }
                (Job::Hand(change, _, made), Ok(())) => {
                    let amend = self.amend(change, made);
                    return Some(self.begin(Doing::Hand, amend));
                }
                (Job::Edit(whose, ..) | Job::Take(whose, _), Err(refusal)) => refused.push((whose, refusal)),
                (Job::Hand(..), Err(why)) => {
                    let chore = Chore::PutBack(Box::new(PutBack { current: self.current.clone(), why }));
                    return Some(self.begin(Doing::PutBack, chore));
                }
            }
        }
        None
    }

    /// An errand of the number is done; none if it is not one of these.
    pub fn done(&mut self, errand: u64) -> Option<Undone> {
        let (_, doing) = self.doing.take_if(|(id, _)| *id == errand)?;
        Some(match doing {
            Doing::Edit { whose, dry_run } => Undone::Edit(whose, dry_run),
            Doing::Hand => Undone::Hand,
            Doing::Adopt { from, stamp } => Undone::Adopt(from, stamp),
            Doing::PutBack => Undone::PutBack,
        })
    }

    /// A number for an errand.
    pub fn next_errand(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// An edition is on disk, and holds from now on.
    pub fn enforce(&mut self, edition: Edition, now: u64) {
        let before = std::mem::replace(&mut self.current, edition);
        let term = |edition: &Edition| edition.generation().map(|generation| generation.term);
        if term(&before) != term(&self.current) {
            self.rivals.clear();
        }
        self.highest = self.highest.max(term(&self.current).unwrap_or(0));
        self.note_rivals(&before.state());
        if let Some(authority) = self.authority().cloned() {
            self.rivals.remove(&authority);
        }
        let heard: Vec<PolicyState> = self.links.values().filter_map(|(_, state)| state.clone()).collect();
        for state in heard {
            self.note_rivals(&state);
        }
        self.tell_all();
        self.look_for_newer(now);
    }

    /// A neighbour's edition was good: its offers count again as those of others.
    pub fn kept(&mut self, from: &BrokerName) {
        self.failed.remove(from);
    }

    /// A neighbour's edition was refused: it is not fetched from there again before the neighbour says something new.
    pub fn refused(&mut self, from: &BrokerName, stamp: &Stamp, why: &Refusal, now: u64) {
        let Stamp { generation, authority, .. } = stamp;
        let text = format!("policy {generation} of {authority}, offered by {from}, was refused: {}", why.text);
        self.alarm(format!("refused {from}"), text);
        self.fail(from, now);
        if let Some((_, state)) = self.links.get_mut(from)
            && state.as_ref().and_then(|state| state.stamp.as_ref()) == Some(stamp)
        {
            *state = None;
        }
        self.look_for_newer(now);
    }

    /// Raises an alarm about something, which stands until the broker starts again.
    pub fn alarm(&mut self, about: String, text: String) {
        if self.alarms.len() < ALARMS || self.alarms.contains_key(&about) {
            self.alarms.insert(about, text);
        }
    }

    /// The offers of a neighbour come last from now on, and not at once.
    fn fail(&mut self, from: &BrokerName, now: u64) {
        let failed = self.failed.entry(from.clone()).or_insert(Failed { times: 0, until: 0 });
        failed.until = now + (WAIT << failed.times.min(16)).min(WAIT_MOST);
        failed.times = failed.times.saturating_add(1);
    }

    /// Whether it can have come about by edits and takes of what holds here.
    fn can_be(&self, stamp: &Stamp) -> bool {
        let Generation { term, number } = self.current.generation().unwrap_or(stamp.generation);
        stamp.generation.term.saturating_sub(term) <= LEAP && stamp.generation.number.saturating_sub(number) <= LEAP
    }

    fn begin(&mut self, doing: Doing, chore: Chore) -> Errand {
        let id = self.next_errand();
        self.doing = Some((id, doing));
        Errand { id, chore }
    }

    fn amend(&self, change: Change, made: Made) -> Chore {
        let seal = self.current.seal.as_ref();
        let next = |seal: &Seal| {
            let Generation { term, number } = seal.stamp.generation;
            Generation { term, number: number.saturating_add(1) }
        };
        Chore::Amend(Box::new(Amend {
            base: self.current.clone(),
            change,
            made,
            generation: seal.map(next),
            lineage: seal.map(|seal| seal.lineage.clone()).unwrap_or_default(),
        }))
    }

    fn take_over(&self, made: Made) -> Chore {
        let seal = self.current.seal.as_ref();
        let number = seal.map_or(0, |seal| seal.stamp.generation.number).saturating_add(1);
        let mut lineage = seal.map(|seal| seal.lineage.clone()).unwrap_or_default();
        lineage.extend(seal.map(|Seal { stamp, .. }| Took {
            generation: stamp.generation,
            authority: stamp.authority.clone(),
            sha256: stamp.sha256.clone(),
        }));
        let past = lineage.len().saturating_sub(LINEAGE_MOST);
        lineage.drain(..past);
        Chore::Amend(Box::new(Amend {
            base: self.current.clone(),
            change: Change::Take,
            made,
            generation: Some(Generation { term: self.highest.saturating_add(1), number }),
            lineage,
        }))
    }

    /// Whether an edit can be made here, on what holds now.
    fn may_be_done(&self, job: &Job) -> Result<(), Refusal> {
        let wanted = match job {
            Job::Take(..) => return Ok(()),
            // Where nothing is sealed, each broker's own file is what holds.
            Job::Hand(..) if self.current.seal.is_none() => return Ok(()),
            Job::Hand(_, base, _) => *base,
            Job::Edit(_, query, _) => query.generation,
        };
        if !self.is_mine() {
            return Err(self.no_authority());
        }
        if !self.rivals.is_empty() {
            let rivals: Vec<&str> = self.rivals.iter().map(BrokerName::as_str).collect();
            let term = self.current.generation().unwrap_or_default().term;
            let text =
                format!("{} took term {term} too: nobody edits until one broker takes the next", rivals.join(", "));
            return Err(Refusal::new(Code::Contested, text));
        }
        match (wanted, self.current.generation()) {
            (Some(wanted), Some(is)) if wanted != is => {
                let text = format!("the policy is of generation {is} by now, and the edit was made for {wanted}");
                Err(Refusal::new(Code::StaleGeneration, text))
            }
            _ => Ok(()),
        }
    }

    /// Why this broker does not edit.
    pub fn no_authority(&self) -> Refusal {
        let text = match (self.authority(), &self.current.seal) {
            (Some(authority), Some(_)) => format!("{authority} is the authority over the policy, not {}", self.me),
            (Some(authority), None) => {
                format!("the policy of {} names {authority} as the authority, which has not been heard from", self.me)
            }
            (None, _) => format!("the policy of {} names no authority: its file is edited by hand", self.me),
        };
        Refusal::new(Code::NoAuthority, text)
    }

    fn state(&self) -> PolicyState {
        PolicyState { rivals: self.rivals.clone(), ..self.current.state() }
    }

    fn tell_all(&mut self) {
        let state = self.state();
        let tell = |name: &BrokerName| Letter { to: name.clone(), head: Head::Policy(state.clone()), body: Vec::new() };
        self.letters.extend(self.links.keys().map(tell));
    }

    /// Who else took the current term, by what a broker says; whether that is news.
    fn note_rivals(&mut self, state: &PolicyState) -> bool {
        let Some(stamp) = &state.stamp else { return false };
        // A word that nobody has sealed: it must not use up the terms.
        let own = self.current.generation().unwrap_or_default().term;
        self.highest = self.highest.max(stamp.generation.term.min(own.saturating_add(LEAP)));
        let Some(own) = self.current.seal.as_ref().map(|seal| &seal.stamp) else { return false };
        if stamp.generation.term != own.generation.term {
            return false;
        }
        // Whoever is not in the list makes no edition that anybody takes.
        let list = self.current.policy.brokers();
        let is_listed = |name: &BrokerName| list.is_empty() || list.contains_key(name);
        let named = state.rivals.iter().chain([&stamp.authority]);
        let named = named.filter(|name| **name != own.authority && is_listed(name));
        let news: Vec<BrokerName> = named.filter(|name| !self.rivals.contains(*name)).cloned().collect();
        let (is_news, authority) = (!news.is_empty(), own.authority.clone());
        for name in news {
            let term = stamp.generation.term;
            let text = format!(
                "{authority} and {name} both took the authority in term {term}: nobody edits until it is taken again"
            );
            self.alarm(format!("rival {name}"), text);
            self.rivals.insert(name);
        }
        is_news
    }

    /// Fetches the best of what the neighbours have, if that beats what is here and on its way. Whoever has failed before comes last.
    fn look_for_newer(&mut self, now: u64) {
        let own = self.current.seal.as_ref().map(|seal| &seal.stamp);
        let is_new = |name: &BrokerName| !self.failed.contains_key(name);
        let checked = match &self.doing {
            Some((_, Doing::Adopt { stamp, .. })) => Some(stamp),
            _ => None,
        };
        let on_its_way = self.fetch.as_ref().map(|fetch| (fetch.is_complete() || is_new(&fetch.from), &fetch.stamp));
        let offers = self.links.iter().filter_map(|(name, (_, state))| Some((name, state.as_ref()?.stamp.as_ref()?)));
        let may_ask = |name: &BrokerName| self.failed.get(name).is_none_or(|failed| failed.until <= now);
        let beats = |stamp: &Stamp| Some(stamp) > own && Some(stamp) > checked && stamp.bytes <= TEXT_MOST;
        let offers = offers.filter(|(name, stamp)| beats(stamp) && self.can_be(stamp) && may_ask(name));
        let best = offers.map(|(name, stamp)| (is_new(name), stamp, name)).max();
        if let Some((_, stamp, from)) = best.filter(|(is_new, stamp, _)| Some((*is_new, *stamp)) > on_its_way) {
            let fetch = Fetch {
                from: from.clone(),
                stamp: stamp.clone(),
                seal: None,
                text: Vec::new(),
                upto: 0,
                again: now + PATIENCE,
                asks: 0,
                until: now + FETCH + stamp.bytes / PACE,
            };
            let want = self.fetch.insert(fetch).want();
            self.letters.push(want);
        } else if self.fetch.as_ref().is_some_and(|fetch| Some(&fetch.stamp) <= own) {
            self.fetch = None;
        }
    }
}

impl Job {
    /// A hand edit of the file, found by this broker.
    pub fn hand(change: Change, base: Option<Generation>, me: &BrokerName, unix: u64) -> Job {
        let made = Made {
            by: FILE.to_owned(),
            via: me.to_string(),
            at: unix,
            what: "edit by hand".to_owned(),
            reason: String::new(),
        };
        Job::Hand(change, base, made)
    }
}

impl Fetch {
    fn is_complete(&self) -> bool {
        self.seal.is_some() && self.text.len() as u64 >= self.stamp.bytes
    }

    fn want(&mut self) -> Letter {
        let from = self.text.len() as u64;
        self.upto = from + WINDOW;
        let want = WantPolicy { sha256: self.stamp.sha256.clone(), from, bytes: WINDOW };
        Letter { to: self.from.clone(), head: Head::WantPolicy(want), body: Vec::new() }
    }
}

fn generation(state: &Option<PolicyState>) -> Option<Generation> {
    state.as_ref()?.stamp.as_ref().map(|stamp| stamp.generation)
}

#[cfg(test)]
mod tests;
