//! Was this request seen before? A memory on disk of (caller, request id) that outlives restarts, bounded in age and count.
//!
//! The file has one line an entry, `MS HASH`: Unix ms, and the first 128 bits of a SHA-256 over caller and id, so that an entry has
//! one size whatever a peer sends. It is appended to, and rewritten when more than half of it is forgotten.

use crate::whole::{self, Durable};
use sha2::{Digest, Sha256};
use std::collections::{HashSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The memory. An id is remembered before its action starts: after a crash it may never have run, but it never runs twice.
#[derive(Debug)]
pub struct Duplicates {
    file: PathBuf,
    out: File,
    known: HashSet<u128>,
    /// Oldest first.
    order: VecDeque<(u64, u128)>,
    lines: usize,
    most: usize,
    age: Duration,
    /// An append failed half-way: the next one begins on a line of its own.
    torn: bool,
}

impl Duplicates {
    /// Opens the memory, or makes it. Keeps at most `most` ids, none for longer than `age`.
    pub fn open(file: &Path, most: usize, age: Duration, now_ms: u64) -> io::Result<Duplicates> {
        let text = match fs::read(file) {
            // Lossy: whatever a crash or a disk left there, the good lines count.
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(e),
        };
        let mut order: VecDeque<(u64, u128)> = VecDeque::new();
        let mut known = HashSet::new();
        // From the newest back: an id that was forgotten and came again counts from its last time.
        for (at, id) in text.lines().rev().filter_map(entry) {
            if known.insert(id) {
                order.push_front((at, id));
            }
        }
        let out = open_to_append(file)?;
        let mut memory = Duplicates {
            file: file.to_owned(),
            out,
            known,
            order,
            lines: text.lines().count(),
            most,
            age,
            torn: !text.is_empty() && !text.ends_with('\n'),
        };
        memory.forget(now_ms);
        Ok(memory)
    }

    /// Remembers a request; `false` if it was known already. When it returns `Ok(true)` the entry is on the disk.
    pub fn remember(&mut self, caller: &str, request: &str, now_ms: u64) -> io::Result<bool> {
        self.forget(now_ms);
        let id = id_of(caller, request);
        if self.known.contains(&id) {
            return Ok(false);
        }
        if self.lines > 2 * self.order.len() + 64 {
            self.compact()?;
        }
        let line = if self.torn { format!("\n{now_ms} {id:032x}\n") } else { format!("{now_ms} {id:032x}\n") };
        self.torn = true;
        self.out.write_all(line.as_bytes())?;
        self.out.sync_data()?;
        self.torn = false;
        self.lines += 1;
        self.known.insert(id);
        self.order.push_back((now_ms, id));
        self.forget(now_ms);
        Ok(true)
    }

    /// Ids that are remembered.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// By count, and by age as far as the oldest go: a clock that was set back only makes entries stay longer.
    fn forget(&mut self, now_ms: u64) {
        let age = u64::try_from(self.age.as_millis()).unwrap_or(u64::MAX);
        while let Some(&(at, id)) = self.order.front() {
            if self.order.len() <= self.most && now_ms.saturating_sub(at) <= age {
                return;
            }
            self.order.pop_front();
            self.known.remove(&id);
        }
    }

    fn compact(&mut self) -> io::Result<()> {
        let mut text = String::with_capacity(self.order.len() * 48);
        for (at, id) in &self.order {
            text.push_str(&format!("{at} {id:032x}\n"));
        }
        whole::replace(&self.file, text.as_bytes(), Durable::Yes)?;
        self.out = open_to_append(&self.file)?;
        self.lines = self.order.len();
        self.torn = false;
        Ok(())
    }
}

fn open_to_append(file: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(file)
}

fn id_of(caller: &str, request: &str) -> u128 {
    // A length before the caller: ("ab", "c") and ("a", "bc") are different.
    let digest = Sha256::new()
        .chain_update((caller.len() as u64).to_be_bytes())
        .chain_update(caller)
        .chain_update(request)
        .finalize();
    digest.iter().take(16).fold(0, |id, byte| (id << 8) | u128::from(*byte))
}

fn entry(line: &str) -> Option<(u64, u128)> {
    let (at, id) = line.split_once(' ')?;
    if id.len() != 32 {
        return None;
    }
    Some((at.parse().ok()?, u128::from_str_radix(id, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_request_is_known_after_a_restart_and_belongs_to_its_caller() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("requests");
        let mut memory = Duplicates::open(&file, 10, DAY, 0).expect("opened");
        assert!(memory.remember("ann", "r-1", 1).expect("written"));
        assert!(!memory.remember("ann", "r-1", 2).expect("known"));
        assert!(memory.remember("bob", "r-1", 3).expect("written"));
        assert!(memory.remember("bobr", "-1", 3).expect("written"));
        drop(memory);
        let mut memory = Duplicates::open(&file, 10, DAY, 4).expect("opened");
        assert!(!memory.remember("ann", "r-1", 5).expect("known"));
        assert!(!memory.remember("bob", "r-1", 5).expect("known"));
    }

    #[test]
    fn a_torn_or_corrupt_line_costs_only_itself() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("requests");
        let mut memory = Duplicates::open(&file, 10, DAY, 0).expect("opened");
        memory.remember("ann", "r-1", 1).expect("written");
        drop(memory);
        let mut bytes = fs::read(&file).expect("read");
        bytes.extend_from_slice(b"\xff\xffgarbage\n17 0011");
        fs::write(&file, bytes).expect("written");
        let mut memory = Duplicates::open(&file, 10, DAY, 2).expect("opened");
        assert!(memory.remember("ann", "r-2", 3).expect("written"));
        drop(memory);
        let mut memory = Duplicates::open(&file, 10, DAY, 4).expect("opened");
        assert!(!memory.remember("ann", "r-1", 5).expect("known"));
        assert!(!memory.remember("ann", "r-2", 5).expect("known"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn memory_and_file_stay_bounded_and_agree_with_a_plain_model(
            most in 1usize..20, steps in proptest::collection::vec((0u8..40, 0u64..200, proptest::bool::weighted(0.1)), 1..150)
        ) {
            let dir = tempfile::tempdir().expect("a folder");
            let file = dir.path().join("requests");
            let age = Duration::from_millis(1000);
            let mut now = 0;
            let mut memory = Duplicates::open(&file, most, age, now).expect("opened");
            let mut model: Vec<(u64, u8)> = Vec::new();
            for (id, later, restart) in steps {
                now += later;
                if restart {
                    drop(memory);
                    memory = Duplicates::open(&file, most, age, now).expect("opened");
                }
                model.retain(|(at, _)| now - at <= 1000);
                let is_new = !model.iter().any(|(_, known)| *known == id);
                prop_assert_eq!(memory.remember("ann", &id.to_string(), now).expect("written"), is_new);
                if is_new {
                    model.push((now, id));
                    let over = model.len().saturating_sub(most);
                    model.drain(..over);
                }
                prop_assert_eq!(memory.len(), model.len());
                prop_assert!(memory.len() <= most);
                let lines = fs::read_to_string(&file).expect("read").lines().count();
                prop_assert!(lines <= 2 * most + 66, "{} lines", lines);
            }
        }
    }
}
