//! Is this the log that other brokers have seen? What they have on record of its ends must stand in it, or be older than what is kept.
//!
//! Who can write this log can write a whole new chain, but not the lines that other brokers wrote about it while it grew.

use super::chain;
use super::verify::{Fault, Lines, VerifyError, Whole};
use jiff::Timestamp;
use muster_protocol::link::AuditHead;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How far the clock of a broker may be set back while it runs without an alarm.
const SLACK: Duration = Duration::from_secs(120);

/// What other brokers have on record about ends of logs.
#[derive(Debug, Default)]
pub(super) struct Witnesses {
    /// By the number of the line, then of whose log.
    heads: BTreeMap<u64, Vec<Testimony>>,
    files: usize,
}

/// One line of another broker's log.
#[derive(Debug, Clone)]
struct Testimony {
    /// Whose log it is about.
    of: String,
    head: AuditHead,
    /// Who says so, and where that stands.
    by: String,
    file: PathBuf,
    line: usize,
}

/// How far a log is what others have seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Witnessed {
    /// How often others have put on record where it ended, as it stands there.
    pub heads: u64,
    /// Which brokers.
    pub by: BTreeSet<String>,
    /// The last line that is witnessed so, by its number and the time at which it was the last one.
    pub newest: (u64, String),
    /// What is on record of lines that are older than what is kept.
    pub older: u64,
    /// What is on record of lines after the last of some files.
    pub later: u64,
}

impl fmt::Display for Witnessed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by: Vec<&str> = self.by.iter().map(String::as_str).collect();
        let (line, at) = &self.newest;
        write!(f, "as {} ends that {} put on record, the newest line {line} of {at}", self.heads, by.join(", "))?;
        if self.older > 0 {
            write!(f, "; {} more are of lines that rotation removed", self.older)?;
        }
        if self.later > 0 {
            write!(f, "; {} more are of lines after the last of these files", self.later)?;
        }
        Ok(())
    }
}

/// A line that is a testimony.
#[derive(Deserialize)]
struct Said {
    event: String,
    broker: String,
    peer: String,
    head: AuditHead,
}

impl Witnesses {
    /// Reads logs, and folders of logs; of what they say of others' logs, what is from `since` on.
    pub(super) fn read(paths: &[PathBuf], since: Option<Timestamp>) -> Result<Witnesses, VerifyError> {
        let mut witnesses = Witnesses::default();
        for path in paths {
            let unread = |cause| VerifyError::Read { file: path.clone(), cause };
            if !fs::metadata(path).map_err(unread)?.is_dir() {
                witnesses.file(path, since)?;
                continue;
            }
            let mut files = Vec::new();
            for entry in fs::read_dir(path).map_err(unread)? {
                let file = entry.map_err(unread)?.path();
                files.extend(Some(file).filter(|file| file.extension().is_some_and(|end| end == "jsonl")));
            }
            if files.is_empty() {
                let text = format!("{}: no file in it ends in .jsonl; give a folder of audit logs", path.display());
                return Err(VerifyError::NoWitness(text));
            }
            files.sort();
            files.iter().try_for_each(|file| witnesses.file(file, since))?;
        }
        Ok(witnesses)
    }

    fn file(&mut self, path: &Path, since: Option<Timestamp>) -> Result<(), VerifyError> {
        let unread = |cause| VerifyError::Read { file: path.to_owned(), cause };
        let mut lines = Lines::open(path).map_err(unread)?;
        let (mut number, mut before) = (0, None);
        while let Some((line, is_whole)) = lines.next_line().map_err(unread)? {
            number += 1;
            if !is_whole {
                // It was copied while it was written.
                break;
            }
            let broken =
                |what: &str| VerifyError::Witness(Fault { file: path.to_owned(), line: number, what: what.to_owned() });
            let link = chain::read(&line).map_err(broken)?;
            if before.is_some_and(|hash| hash != link.prev) {
                return Err(broken("it does not follow from the line before"));
            }
            before = Some(link.hash);
            let Ok(Said { event, broker, peer, head }) = serde_json::from_slice(&line) else { continue };
            let is_late = since.is_none_or(|since| time(head.at).is_some_and(|at| at >= since));
            if event == "peer-head" && is_late {
                let testimony = Testimony { of: peer, head, by: broker, file: path.to_owned(), line: number };
                self.heads.entry(testimony.head.n).or_default().push(testimony);
            }
        }
        self.files += 1;
        Ok(())
    }

    /// Whether anybody has the line of this number of any log on record.
    pub(super) fn know(&self, number: u64) -> bool {
        self.heads.contains_key(&number)
    }
}

impl Testimony {
    /// `dc1 put on record that it was … (FILE: line 7)`
    fn told(&self) -> String {
        let at = shown(self.head.at);
        format!(
            "{} put on record that the log ended with line number {} at {at} ({}: line {})",
            self.by,
            self.head.n,
            self.file.display(),
            self.line
        )
    }
}

/// Holds a chain that is whole against what others have on record. `is_part`: what comes after it is not looked at.
pub(super) fn judge(log: &Whole, witnesses: &Witnesses, is_part: bool) -> Result<Witnessed, VerifyError> {
    let ours = |testimony: &&Testimony| log.brokers.contains(&testimony.of);
    let about: Vec<&Testimony> = witnesses.heads.values().flatten().filter(ours).collect();
    let names: Vec<&str> = log.brokers.iter().map(String::as_str).collect();
    let Some(newest) = about.last() else {
        let text = format!(
            "{} logs of other brokers have nothing on record about the log of {}; give those of brokers that it can reach, and no other [audit] heads than 0s",
            witnesses.files,
            names.join(", ")
        );
        return Err(VerifyError::NoWitness(text));
    };
    let (first, begun) = log.first.clone().unwrap_or((1, String::new()));
    let end = |what: String| Fault { file: log.end.0.clone(), line: log.end.1.max(1), what };
    let (mut witnessed, mut contradiction) = (Witnessed::default(), None);
    for testimony in &about {
        let fault = match log.known.get(&testimony.head.n) {
            Some(place) if place.hash == testimony.head.hash => {
                witnessed.heads += 1;
                witnessed.by.insert(testimony.by.clone());
                witnessed.newest = (testimony.head.n, shown(testimony.head.at));
                continue;
            }
            Some(place) => {
                let what = format!(
                    "line number {} is not the one that others saw: it, or a line before it, was written anew; {}, with another hash",
                    testimony.head.n,
                    testimony.told()
                );
                Fault { file: place.file.clone(), line: place.line, what }
            }
            None if testimony.head.n >= first && is_part => {
                witnessed.later += 1;
                continue;
            }
            // The newest says how much is missing.
            None if testimony.head.n >= first => cut_off(log, newest, end),
            // What is kept begins later than that: then it was written later too.
            None if is_before(&begun, testimony.head.at) => {
                let what = format!(
                    "the log begins with line number {first} of {begun}, as if rotation had removed what was before; but {}, which is later (or the clock was set back)",
                    testimony.told()
                );
                Fault { file: log.end.0.clone(), line: 1, what }
            }
            None => {
                witnessed.older += 1;
                continue;
            }
        };
        // The one with the lowest number says most about the place.
        contradiction.get_or_insert((fault, 0)).1 += 1;
    }
    if let Some((mut fault, count)) = contradiction {
        if count > 1 {
            fault.what += &format!("; {} more contradict it", count - 1);
        }
        return Err(fault.into());
    }
    if witnessed.heads == 0 && !is_part {
        let what = format!(
            "nobody has seen what is kept: it begins with line number {first} of {begun}, and the newest on record is older: {}; give newer logs of the others, or find out who removed lines",
            newest.told()
        );
        return Err(Fault { file: log.end.0.clone(), line: 1, what }.into());
    }
    Ok(witnessed)
}

/// What is wrong where others have seen more lines than there are.
fn cut_off(log: &Whole, testimony: &Testimony, end: impl Fn(String) -> Fault) -> Fault {
    let last = log.last.as_ref().map_or(0, |(last, _)| *last);
    let anew = match &log.first {
        Some((1, begun)) if is_after(begun, testimony.head.at) => {
            format!(
                "; it was begun anew at {begun}: if that was an admin, after the old files were moved away, say --since {begun}"
            )
        }
        _ => String::new(),
    };
    end(format!(
        "the end was cut off: lines {} to {} are missing; {}{anew}",
        last + 1,
        testimony.head.n,
        testimony.told()
    ))
}

fn is_before(begun: &str, at: u64) -> bool {
    let until = time(at).and_then(|at| at.checked_sub(SLACK).ok());
    begun.parse::<Timestamp>().ok().zip(until).is_some_and(|(begun, until)| begun < until)
}

fn is_after(begun: &str, at: u64) -> bool {
    begun.parse::<Timestamp>().ok().zip(time(at)).is_some_and(|(begun, at)| begun > at)
}

fn time(at: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(at).ok()?).ok()
}

fn shown(at: u64) -> String {
    time(at).map_or_else(|| "an unknown time".into(), |at| at.to_string())
}
