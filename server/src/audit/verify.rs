//! Is the audit log what the broker wrote? Walks the chain over all files, and names the place where it was edited or cut; what
//! other brokers have on record of it is compared by `against`.

use super::against::{self, Witnessed, Witnesses};
use super::chain::{self, GENESIS, Link, MAX_LINE, Tail};
use super::search::{When, when};
use super::trail::{Mark, read_head, rotated};
use crate::config::{Config, ConfigError};
use jiff::Timestamp;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// How often a log that grows while it is read is read anew before what was found counts.
const TRIES: usize = 5;

/// `musterd audit verify`
#[derive(Debug, Clone, clap::Args)]
pub struct VerifyOptions {
    /// The broker's configuration: it says where the audit log is
    #[arg(long, value_name = "FILE", default_value = "/etc/muster/musterd.toml")]
    pub config: PathBuf,
    /// Files of one audit log, wherever they were copied to, instead; then what may be missing before the first and after
    /// the last of them is not looked at
    #[arg(value_name = "FILES")]
    pub files: Vec<PathBuf>,
    /// Audit logs of other brokers, or folders of them (all that ends in .jsonl): what they have on record of this one must
    /// stand in it, so that it also shows when its end was cut off or all of it was written anew
    #[arg(long, value_name = "FILE-OR-FOLDER", num_args = 1..)]
    pub against: Vec<PathBuf>,
    /// Of that, only what is from since then: a time ago (30m, 1h, 7d) or a moment (2027-01-31T18:00:00Z), such as that at
    /// which the log was moved away and begun anew
    #[arg(long, value_name = "TIME", value_parser = when, requires = "against")]
    pub since: Option<When>,
}

/// Why nothing was verified, or what is wrong.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The configuration is not good.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file cannot be read.
    #[error("{file}: cannot read the audit log: {cause}; are you its user?", file = file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// There is nothing.
    #[error("{file}: there is no audit log; has the broker run, with audit.enabled?", file = file.display())]
    None {
        /// Where it should be.
        file: PathBuf,
    },
    /// The chain is broken.
    #[error(transparent)]
    Broken(#[from] Fault),
    /// A log that is to bear witness is none itself.
    #[error("{0}; so it proves nothing about another log: verify it at its own broker")]
    Witness(Fault),
    /// Nobody bears witness.
    #[error("{0}")]
    NoWitness(String),
}

/// The place where a chain is broken, and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: line {line}: {what}", file = file.display())]
pub struct Fault {
    /// Which file.
    pub file: PathBuf,
    /// Which line of it, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

/// A chain that is whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Whole {
    /// Files.
    pub files: usize,
    /// Lines, of these.
    pub lines: u64,
    /// Number and time of the first and last line.
    pub first: Option<(u64, String)>,
    /// As `first`.
    pub last: Option<(u64, String)>,
    /// Records that the broker says it lost.
    pub lost: u64,
    /// Lines that it found torn after it was killed, and set aside.
    pub torn: u64,
    /// What others have on record of it, if that was asked for.
    pub witnessed: Option<Witnessed>,
    /// Where the chain ends.
    tail: Tail,
    /// The hash of the line that the head names.
    at_head: Option<String>,
    /// Whose log it says that it is.
    pub(super) brokers: BTreeSet<String>,
    /// The lines that others have on record.
    pub(super) known: HashMap<u64, Place>,
    /// Where the next line would be.
    pub(super) end: (PathBuf, usize),
}

/// A line that others have on record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: PathBuf,
    pub(super) line: usize,
    pub(super) hash: String,
}

impl fmt::Display for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "good: {} lines in {} files", self.lines, self.files)?;
        if let (Some((first, from)), Some((last, to))) = (&self.first, &self.last) {
            write!(f, ", number {first} to {last}, {from} to {to}")?;
        }
        if self.lost > 0 {
            write!(f, "; {} records were lost, as the log says itself", self.lost)?;
        }
        if self.torn > 0 {
            write!(f, "; {} torn lines were set aside after a crash", self.torn)?;
        }
        if let Some(witnessed) = &self.witnessed {
            write!(f, "; {witnessed}")?;
        }
        Ok(())
    }
}

/// Verifies what the options name.
pub fn verify(options: &VerifyOptions) -> Result<Whole, VerifyError> {
    // Before the log: what others have on record by now stands in it by then.
    let witnesses = match options.against.is_empty() {
        true => None,
        false => Some(Witnesses::read(&options.against, options.since.map(moment))?),
    };
    if !options.files.is_empty() {
        let whole = verify_files(&options.files, witnesses.as_ref())?;
        return witnessed(whole, witnesses.as_ref(), true);
    }
    let Config { audit, broker, .. } = Config::load(&options.config)?;
    let mut whole = verify_while_it_grows(&audit.file, witnesses.as_ref())?;
    whole.brokers.insert(broker.name);
    witnessed(whole, witnesses.as_ref(), false)
}

fn moment(when: When) -> Timestamp {
    match when {
        When::At(at) => at,
        When::Ago(ago) => Timestamp::now().checked_sub(ago).unwrap_or(Timestamp::MIN),
    }
}

/// Holds a chain that is whole against what others have on record of it.
pub(super) fn witnessed(mut whole: Whole, witnesses: Option<&Witnesses>, is_part: bool) -> Result<Whole, VerifyError> {
    whole.witnessed = witnesses.map(|witnesses| against::judge(&whole, witnesses, is_part)).transpose()?;
    Ok(whole)
}

fn verify_while_it_grows(file: &Path, witnesses: Option<&Witnesses>) -> Result<Whole, VerifyError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let before = state_of(file);
        let found = verify_log(file, witnesses);
        // The broker may be writing: what was half there when it was looked at proves nothing.
        if found.is_ok() || tries == TRIES || before == state_of(file) {
            return found;
        }
    }
}

/// The audit log whose current file this is, from its first line to its noted end.
pub(super) fn verify_log(file: &Path, witnesses: Option<&Witnesses>) -> Result<Whole, VerifyError> {
    let unread = |cause| VerifyError::Read { file: file.to_owned(), cause };
    // Before the files: the end moves on while they are read.
    let head = read_head(file).map_err(unread)?;
    let files = files_of(file).map_err(unread)?;
    let Some(last) = files.last().cloned() else {
        if let Some(head) = head {
            let what = format!("the log is gone: it had {} lines", head.n);
            return Err(Fault { file: file.to_owned(), line: 1, what }.into());
        }
        return Err(VerifyError::None { file: file.to_owned() });
    };
    let (mut walk, mut removed) = (Walk::new(head.as_ref().map(|head| head.n), witnesses), 0);
    for path in &files {
        walk.file(path, &mut removed)?;
    }
    let Walk { whole, .. } = walk;
    let last_lines = whole.end.1.saturating_sub(1);
    let at_end = |what: String| Fault { file: last.clone(), line: last_lines + 1, what };
    if let Some((first, _)) = &whole.first
        && *first > removed + 1
    {
        let file = files.first().cloned().unwrap_or_default();
        let what =
            format!("lines {} to {} before it are missing, and no rotation removed them", removed + 1, first - 1);
        return Err(Fault { file, line: 1, what }.into());
    }
    match head {
        None if whole.lines == 0 => {}
        None => {
            let what = "audit.head is missing: whether lines were cut off here cannot be said";
            return Err(at_end(what.into()).into());
        }
        Some(head) if head.n > whole.tail.n => {
            let what = format!("the end was cut off: lines {} to {} are missing", whole.tail.n + 1, head.n);
            return Err(at_end(what).into());
        }
        Some(head) if whole.at_head.as_ref().is_some_and(|hash| *hash != head.hash) => {
            let what = format!("line number {} is not the one that audit.head names: the log was written anew", head.n);
            return Err(Fault { file: last, line: last_lines.max(1), what }.into());
        }
        Some(_) => {}
    }
    Ok(whole)
}

pub(super) fn verify_files(files: &[PathBuf], witnesses: Option<&Witnesses>) -> Result<Whole, VerifyError> {
    let mut by_number = BTreeMap::new();
    for path in files {
        let unread = |cause| VerifyError::Read { file: path.clone(), cause };
        let first = Lines::open(path).and_then(|mut lines| lines.next_line()).map_err(unread)?;
        let Some((line, _)) = first else { continue };
        let link = chain::read(&line);
        let link = link.map_err(|what| Fault { file: path.clone(), line: 1, what: what.into() })?;
        by_number.insert(link.n, path.clone());
    }
    let mut walk = Walk::new(None, witnesses);
    for path in by_number.values() {
        walk.file(path, &mut 0)?;
    }
    Ok(walk.whole)
}

/// All files of a log that are there, oldest first.
pub(super) fn files_of(file: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = rotated(file)?.into_iter().map(|(_, path)| path).collect();
    if fs::metadata(file).is_ok_and(|found| found.is_file()) {
        files.push(file.to_owned());
    }
    Ok(files)
}

/// Names and sizes: whether something was written.
fn state_of(file: &Path) -> Vec<(PathBuf, u64)> {
    let files = files_of(file).unwrap_or_default();
    files.into_iter().map(|path| (path.clone(), fs::metadata(path).map_or(0, |found| found.len()))).collect()
}

struct Walk<'a> {
    whole: Whole,
    head: Option<u64>,
    witnesses: Option<&'a Witnesses>,
}

/// Of the log's own lines, what counts here.
#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    lost: u64,
    #[serde(default)]
    upto: u64,
    #[serde(default)]
    reason: String,
}

impl<'a> Walk<'a> {
    fn new(head: Option<u64>, witnesses: Option<&'a Witnesses>) -> Walk<'a> {
        Walk { whole: Whole::default(), head, witnesses }
    }

    /// Walks one file. `removed` is the last line that a rotation removed.
    fn file(&mut self, path: &Path, removed: &mut u64) -> Result<(), VerifyError> {
        let unread = |cause| VerifyError::Read { file: path.to_owned(), cause };
        let mut lines = Lines::open(path).map_err(unread)?;
        let mut number = 0;
        while let Some((line, is_whole)) = lines.next_line().map_err(unread)? {
            number += 1;
            let fault = |what: String| Fault { file: path.to_owned(), line: number, what };
            if !is_whole {
                let what = "it is not whole; if the broker was killed as it wrote it, its next start sets it aside";
                return Err(fault(what.into()).into());
            }
            let link = chain::read(&line).map_err(|what| fault(what.into()))?;
            self.follow(&link).map_err(fault)?;
            self.hear(&link, &line, removed).map_err(fault)?;
            if self.witnesses.is_some_and(|witnesses| witnesses.know(link.n)) {
                let place = Place { file: path.to_owned(), line: number, hash: link.hash.clone() };
                self.whole.known.insert(link.n, place);
            }
            self.step(link);
        }
        self.whole.files += 1;
        self.whole.end = (path.to_owned(), number + 1);
        Ok(())
    }

    /// Whether a line is the next one.
    fn follow(&self, link: &Link) -> Result<(), String> {
        let tail = &self.whole.tail;
        if self.whole.lines == 0 {
            return match link.n {
                1 if link.prev != GENESIS => Err("it claims to be the first line, and names one before it".into()),
                _ => Ok(()),
            };
        }
        let expected = tail.n + 1;
        if link.n > expected {
            return Err(format!("lines {expected} to {} before it are missing or not in order", link.n - 1));
        }
        if link.n < expected {
            return Err(format!(
                "it is line number {} where {expected} was to come: not in order, or inserted",
                link.n
            ));
        }
        if link.prev != tail.hash {
            return Err("it does not follow from the line before: one of the two was replaced".into());
        }
        Ok(())
    }

    /// What the log says of itself.
    fn hear(&mut self, link: &Link, line: &[u8], removed: &mut u64) -> Result<(), String> {
        if !Mark::EVENTS.contains(&&*link.event) {
            return Ok(());
        }
        let said: Said = serde_json::from_slice(line).map_err(|_| "it is no line of an audit log".to_owned())?;
        match &*link.event {
            "lost" => self.whole.lost += said.lost,
            "torn" => self.whole.torn += 1,
            "removed" => *removed = (*removed).max(said.upto),
            _ => {
                return Err(format!(
                    "here the broker found that the files were not as it had left them: {}",
                    said.reason
                ));
            }
        }
        Ok(())
    }

    fn step(&mut self, link: Link) {
        let whole = &mut self.whole;
        whole.lines += 1;
        if self.head == Some(link.n) {
            whole.at_head = Some(link.hash.clone());
        }
        if whole.first.is_none() {
            whole.first = Some((link.n, link.at.clone()));
        }
        whole.last = Some((link.n, link.at));
        if !whole.brokers.contains(&link.broker) {
            whole.brokers.insert(link.broker);
        }
        whole.tail = Tail { n: link.n, hash: link.hash };
    }
}

/// The lines of a file, none longer than a record can be.
pub(super) struct Lines(BufReader<File>);

impl Lines {
    pub(super) fn open(path: &Path) -> io::Result<Lines> {
        Ok(Lines(BufReader::new(File::open(path)?)))
    }

    /// The next line, without its newline, and whether it had one.
    pub(super) fn next_line(&mut self) -> io::Result<Option<(Vec<u8>, bool)>> {
        let mut line = Vec::new();
        if (&mut self.0).take(MAX_LINE as u64).read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        let is_whole = line.pop_if(|last| *last == b'\n').is_some();
        Ok(Some((line, is_whole)))
    }
}
