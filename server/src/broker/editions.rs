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
    jobs: VecDeque<Job>,
    doing: Option<(u64, Doing)>,
    last: u64,
    alarms: BTreeSet<String>,
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
            jobs: VecDeque::new(),
            doing: None,
            last: 0,
            alarms: BTreeSet::new(),
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
        self.fetch.as_ref().filter(|fetch| !fetch.is_complete()).map(|fetch| fetch.again)
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
            alarms: self.alarms.iter().cloned().collect(),
        }
    }

    /// What an admin should look at.
    pub fn alarms(&self) -> impl Iterator<Item = &str> {
        self.alarms.iter().map(String::as_str)
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
        if self.note_rivals(&state) {
            self.tell_all();
        }
        self.look_for_newer(now);
    }

    /// A neighbour wants a piece of what is in force here. One that is not any more will be heard of soon.
    pub fn wanted(&mut self, from: &BrokerName, want: &WantPolicy) {
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
        if !fits || fetch.is_complete() || fetch.text.len() as u64 + body.len() as u64 > fetch.stamp.bytes {
            return;
        }
        fetch.text.extend_from_slice(body);
        fetch.seal = Some(part.seal);
        fetch.again = now + PATIENCE;
        let len = fetch.text.len() as u64;
        if len >= fetch.upto && len < fetch.stamp.bytes {
            let want = fetch.want();
            self.letters.push(want);
        }
    }

    /// What has not come in time is asked for again.
    pub fn tick(&mut self, now: u64) {
        if let Some(fetch) = self.fetch.as_mut().filter(|fetch| !fetch.is_complete() && fetch.again <= now) {
            fetch.again = now + PATIENCE;
            let want = fetch.want();
            self.letters.push(want);
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
            let set_aside = self.current.seal.as_ref().is_none_or(|current| !seal.builds_on(&current.stamp));
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

    /// A neighbour's edition was refused: it is not fetched from there again before the neighbour says something new.
    pub fn refused(&mut self, from: &BrokerName, stamp: &Stamp, why: &Refusal, now: u64) {
        let Stamp { generation, authority, .. } = stamp;
        self.alarm(format!("policy {generation} of {authority}, offered by {from}, was refused: {}", why.text));
        if let Some((_, state)) = self.links.get_mut(from)
            && state.as_ref().and_then(|state| state.stamp.as_ref()) == Some(stamp)
        {
            *state = None;
        }
        self.look_for_newer(now);
    }

    /// Raises an alarm, which stands until the broker starts again.
    pub fn alarm(&mut self, text: String) {
        if self.alarms.len() < ALARMS {
            self.alarms.insert(text);
        }
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
            Generation { term, number: number + 1 }
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
        let number = seal.map_or(0, |seal| seal.stamp.generation.number) + 1;
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
            generation: Some(Generation { term: self.highest + 1, number }),
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
        self.highest = self.highest.max(stamp.generation.term);
        let Some(own) = self.current.seal.as_ref().map(|seal| &seal.stamp) else { return false };
        if stamp.generation.term != own.generation.term {
            return false;
        }
        let named = state.rivals.iter().chain([&stamp.authority]).filter(|name| **name != own.authority);
        let news: Vec<BrokerName> = named.filter(|name| !self.rivals.contains(*name)).cloned().collect();
        let (is_news, authority) = (!news.is_empty(), own.authority.clone());
        for name in news {
            let term = stamp.generation.term;
            self.alarm(format!(
                "{authority} and {name} both took the authority in term {term}: nobody edits until it is taken again"
            ));
            self.rivals.insert(name);
        }
        is_news
    }

    /// Fetches the best of what the neighbours have, if that beats what is here and on its way.
    fn look_for_newer(&mut self, now: u64) {
        let own = self.current.seal.as_ref().map(|seal| &seal.stamp);
        let on_its_way = match (&self.fetch, &self.doing) {
            (Some(fetch), _) => Some(&fetch.stamp),
            (None, Some((_, Doing::Adopt { stamp, .. }))) => Some(stamp),
            _ => None,
        };
        let offers = self.links.iter().filter_map(|(name, (_, state))| Some((state.as_ref()?.stamp.as_ref()?, name)));
        let beats = |stamp: &Stamp| Some(stamp) > own && Some(stamp) > on_its_way && stamp.bytes <= TEXT_MOST;
        let best = offers.filter(|(stamp, _)| beats(stamp)).max();
        if let Some((stamp, from)) = best {
            let fetch = Fetch {
                from: from.clone(),
                stamp: stamp.clone(),
                seal: None,
                text: Vec::new(),
                upto: 0,
                again: now + PATIENCE,
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
