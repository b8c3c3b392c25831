//! Where do the lines of the audit log go? Into one file that is only added to, rotated by size and age, and taken up again.
//!
//! Beside `audit.jsonl` stand the files before it, `audit-N.jsonl`, each named by its first line's number; `audit.head`, which
//! says where the chain ends, so that a cut end shows; and `audit.torn-N`, what a broker that was killed had begun to write.

use super::chain::{self, MAX_LINE, Tail};
use crate::config::AuditConfig;
use data_encoding::HEXLOWER;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What the log says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(super) enum Mark {
    /// Records that could not be written: the disk was full, or too many came at once.
    Lost { lost: u64 },
    /// The last line was not whole; what there was of it stands in `file`.
    Torn { file: String, bytes: usize, sha256: String },
    /// The files were not as this broker had left them.
    Damaged { reason: String },
    /// A file was removed, since enough newer ones are kept. `upto` is its last line.
    Removed { file: String, upto: u64 },
}

/// The files of one broker's audit log, as their one writer has them.
#[derive(Debug)]
pub(super) struct Trail {
    config: AuditConfig,
    broker: String,
    tail: Tail,
    /// Held while this is the writer: two at once would break the chain of both.
    lock: Option<File>,
    open: Option<Open>,
    /// To be said with the next records.
    marks: Vec<Mark>,
    /// To be removed once that is on record.
    removing: Vec<PathBuf>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// A device, as a test may give, has no content to take up.
    is_file: bool,
    bytes: u64,
    /// Number of its first line.
    first: u64,
    /// When that was written, Unix ms.
    since: u64,
}

impl Mark {
    /// What lines of these are called.
    pub(super) const EVENTS: [&'static str; 4] = ["lost", "torn", "damaged", "removed"];
}

impl Trail {
    pub(super) fn new(config: AuditConfig, broker: &str) -> Trail {
        let broker = broker.to_owned();
        Trail { config, broker, tail: Tail::default(), lock: None, open: None, marks: Vec::new(), removing: Vec::new() }
    }

    /// Writes records, each with its time (Unix ms), at `now`; all or none of them. `lost` came to nothing before them.
    pub(super) fn append<T: Serialize>(&mut self, records: &[(u64, T)], lost: u64, now: u64) -> io::Result<()> {
        let written = self.try_append(records, lost, now);
        if written.is_err()
            && let Some(open) = self.open.take()
            && open.is_file
        {
            // What was written of the lines before the disk was full. If it stays, it is found torn at the next try.
            let _ = open.file.set_len(open.bytes);
        }
        written
    }

    fn try_append<T: Serialize>(&mut self, records: &[(u64, T)], lost: u64, now: u64) -> io::Result<()> {
        if self.open.is_none() {
            self.open = Some(self.take_up(now)?);
        }
        self.rotate_if_due(now)?;
        let (mut text, mut tail) = (String::new(), self.tail.clone());
        for mark in &self.marks {
            chain::append(&mut text, &mut tail, now, &self.broker, mark)?;
        }
        if lost > 0 {
            chain::append(&mut text, &mut tail, now, &self.broker, &Mark::Lost { lost })?;
        }
        for (at, record) in records {
            chain::append(&mut text, &mut tail, *at, &self.broker, record)?;
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        open.file.write_all(text.as_bytes())?;
        open.bytes += text.len() as u64;
        self.tail = tail;
        self.marks.clear();
        for path in self.removing.drain(..) {
            // One that stays is tried again at the next rotation.
            let _ = fs::remove_file(path);
        }
        Ok(())
    }

    /// Brings what was written to the disk, and notes where the chain ends.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        let Some(open) = self.open.as_ref().filter(|open| open.is_file) else { return Ok(()) };
        open.file.sync_data()?;
        write_head(&self.config.file, &self.tail)?;
        // Somebody moved, removed or cut the file: the next records find out what is there, and say so.
        let ours = open.file.metadata()?;
        let is_same =
            |there: fs::Metadata| (there.dev(), there.ino(), there.len()) == (ours.dev(), ours.ino(), open.bytes);
        if !fs::metadata(&self.config.file).is_ok_and(is_same) {
            self.open = None;
        }
        Ok(())
    }

    /// Where the chain ends, brought to the disk; nothing while there is no file to write to.
    pub(super) fn head(&mut self) -> io::Result<Option<Tail>> {
        if !self.open.as_ref().is_some_and(|open| open.is_file) {
            return Ok(None);
        }
        let tail = self.tail.clone();
        self.sync()?;
        Ok(Some(tail).filter(|tail| tail.n > 0))
    }

    fn rotate_if_due(&mut self, now: u64) -> io::Result<()> {
        let Some(open) = self.open.as_ref().filter(|open| open.is_file && open.bytes > 0) else { return Ok(()) };
        let age = u64::try_from(self.config.rotate_age.as_millis()).unwrap_or(u64::MAX);
        if open.bytes < self.config.rotate_size as u64 && now.saturating_sub(open.since) < age {
            return Ok(());
        }
        let old = rotated_name(&self.config.file, open.first);
        if fs::symlink_metadata(&old).is_ok() {
            let text = format!("{}: cannot rotate to it, it is there already; move it away", old.display());
            return Err(io::Error::new(ErrorKind::AlreadyExists, text));
        }
        open.file.sync_data()?;
        write_head(&self.config.file, &self.tail)?;
        fs::rename(&self.config.file, &old)?;
        self.open = Some(self.create(now)?);
        let older = rotated(&self.config.file)?;
        let excess = older.len().saturating_sub(self.config.keep);
        for (index, (_, path)) in older.iter().enumerate().take(excess) {
            let upto = older.get(index + 1).map_or(self.tail.n, |(next, _)| next.saturating_sub(1));
            self.marks.push(Mark::Removed { file: name_of(path), upto });
            self.removing.push(path.clone());
        }
        Ok(())
    }

    fn create(&self, now: u64) -> io::Result<Open> {
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).mode(0o600).open(&self.config.file)?;
        let is_file = file.metadata()?.is_file();
        Ok(Open { file, is_file, bytes: 0, first: self.tail.n + 1, since: now })
    }

    /// Opens the file and finds where the chain goes on; whatever is not as it was left is set aside or noted, never repaired.
    fn take_up(&mut self, now: u64) -> io::Result<Open> {
        if self.lock.is_none() {
            self.lock = Some(lock(&self.config.file)?);
        }
        let mut open = self.create(now)?;
        // What was found at a try that failed is still to be said; what is to be removed is looked at again.
        self.marks.retain(|mark| !matches!(mark, Mark::Removed { .. }));
        self.removing.clear();
        let mut found = Tail::default();
        if open.is_file {
            open.file.set_permissions(Permissions::from_mode(0o600))?;
            let end = end_of(&mut open.file)?;
            open.bytes = end.whole;
            if !end.torn.is_empty() {
                let aside = self.set_aside(&end.torn)?;
                open.file.set_len(end.whole)?;
                let sha256 = HEXLOWER.encode(&Sha256::digest(&end.torn));
                tracing::warn!(file = %aside.display(), "the last line of the audit log was not whole; it was set aside");
                self.mark(Mark::Torn { file: name_of(&aside), bytes: end.torn.len(), sha256 });
            }
            found = self.last(&end, &self.config.file.clone());
            if end.whole == 0
                && let Some((_, newest)) = rotated(&self.config.file)?.last()
            {
                let end = end_of(&mut File::open(newest)?)?;
                found = self.last(&end, newest);
            }
            if found.n == 0 && read_head(&self.config.file).is_ok_and(|head| head.is_none()) {
                // From the first line on: one that is killed at once leaves no log without a noted end.
                write_head(&self.config.file, &Tail::default())?;
            }
            if let Some((first, since)) = begin_of(&open.file)? {
                (open.first, open.since) = (first, since);
            }
        }
        let found = self.go_on_from(found);
        if open.bytes == 0 {
            open.first = found.n + 1;
        }
        self.tail = found;
        Ok(open)
    }

    fn set_aside(&self, torn: &[u8]) -> io::Result<PathBuf> {
        let mut number = 1;
        loop {
            let aside = self.config.file.with_extension(format!("torn-{number}"));
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside) {
                Ok(mut file) => {
                    file.write_all(torn)?;
                    file.sync_all()?;
                    return Ok(aside);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists && number < 10_000 => number += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// The last sound line.
    fn last(&mut self, end: &End, file: &Path) -> Tail {
        let Some(last) = end.lines.last() else { return Tail::default() };
        if let Err(what) = chain::read(last) {
            self.mark(Mark::Damaged { reason: format!("the last line of {}: {what}", name_of(file)) });
        }
        let sound = end.lines.iter().rev().find_map(|line| chain::read(line).ok());
        sound.map_or_else(Tail::default, |link| Tail { n: link.n, hash: link.hash })
    }

    /// The chain goes on where it was known to end. So what is missing stays a gap in it for ever.
    fn go_on_from(&mut self, found: Tail) -> Tail {
        let head = match read_head(&self.config.file) {
            Ok(Some(head)) => head,
            Ok(None) => {
                if found.n > self.tail.n && self.tail.n == 0 {
                    let head = name_of(&head_name(&self.config.file));
                    let reason = format!("{head} is not there: whether lines are missing at the end is not known");
                    self.mark(Mark::Damaged { reason });
                }
                Tail::default()
            }
            Err(error) => {
                self.mark(Mark::Damaged { reason: error.to_string() });
                Tail::default()
            }
        };
        // In one life of the broker its own memory is fresher than what it last noted.
        let known = if self.tail.n >= head.n { self.tail.clone() } else { head };
        if known.n > found.n {
            let reason = format!("lines {} to {} are missing", found.n + 1, known.n);
            self.mark(Mark::Damaged { reason });
            known
        } else if known.n == found.n && known.hash != found.hash {
            self.mark(Mark::Damaged { reason: format!("line {} is not the one that was written", known.n) });
            known
        } else {
            found
        }
    }

    fn mark(&mut self, mark: Mark) {
        if self.marks.contains(&mark) {
            return;
        }
        if let Mark::Damaged { reason } = &mark {
            tracing::error!(
                file = %self.config.file.display(), reason,
                "the audit log is not as it was left; `musterd audit verify` says more"
            );
        }
        self.marks.push(mark);
    }
}

/// The right to write; gone with the process that has it.
fn lock(file: &Path) -> io::Result<File> {
    let path = file.with_extension("lock");
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let text = format!("{}: another broker writes this audit log; give each its own", path.display());
            Err(io::Error::new(ErrorKind::WouldBlock, text))
        }
        Err(error) => Err(error.into()),
    }
}

/// The last lines of a file.
struct End {
    /// Bytes up to and with the last newline.
    whole: u64,
    /// Whole lines, without newlines; all, or those of the last bytes.
    lines: Vec<Vec<u8>>,
    /// What follows.
    torn: Vec<u8>,
}

fn end_of(file: &mut File) -> io::Result<End> {
    let size = file.metadata()?.len();
    let from = size.saturating_sub(2 * MAX_LINE as u64);
    file.seek(SeekFrom::Start(from))?;
    let mut text = Vec::new();
    file.take(size - from).read_to_end(&mut text)?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let torn = text.split_off(whole);
    text.pop();
    let mut lines: Vec<Vec<u8>> = text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    if whole == 0 {
        lines.clear();
    } else if from > 0 {
        lines.remove(0);
    }
    Ok(End { whole: size - torn.len() as u64, lines, torn })
}

/// Number and time (Unix ms) of the first line, if it is sound.
fn begin_of(file: &File) -> io::Result<Option<(u64, u64)>> {
    let mut reader = BufReader::new(file);
    reader.seek(SeekFrom::Start(0))?;
    let mut line = Vec::new();
    reader.take(MAX_LINE as u64).read_until(b'\n', &mut line)?;
    let line = line.strip_suffix(b"\n").unwrap_or_default();
    let Ok(link) = chain::read(line) else { return Ok(None) };
    let at = link.at.parse::<jiff::Timestamp>().ok().and_then(|at| u64::try_from(at.as_millisecond()).ok());
    Ok(at.map(|at| (link.n, at)))
}

/// The files before the current one with the numbers of their first lines, oldest first.
pub(super) fn rotated(file: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| number_in(name, file));
        found.extend(number.map(|number| (number, path)));
    }
    found.sort();
    Ok(found)
}

fn number_in(name: &str, file: &Path) -> Option<u64> {
    let (stem, extension) = (file.file_stem()?.to_str()?, file.extension()?.to_str()?);
    let digits = name.strip_prefix(stem)?.strip_prefix('-')?.strip_suffix(extension)?.strip_suffix('.')?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn rotated_name(file: &Path, first: u64) -> PathBuf {
    let part =
        |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned()).unwrap_or_default();
    file.with_file_name(format!("{}-{first:012}.{}", part(file.file_stem()), part(file.extension())))
}

fn head_name(file: &Path) -> PathBuf {
    file.with_extension("head")
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Where the chain ended when it was last noted; `None` if it never was. The error names the file.
pub(super) fn read_head(file: &Path) -> io::Result<Option<Tail>> {
    let path = head_name(file);
    let named = |kind, cause: String| io::Error::new(kind, format!("{}: {cause}", path.display()));
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(named(error.kind(), error.to_string())),
    };
    let head = serde_json::from_str(&text).map(Some);
    head.map_err(|_| named(ErrorKind::InvalidData, "it does not say where the chain ends; it was changed".into()))
}

/// Whole or not at all.
fn write_head(file: &Path, tail: &Tail) -> io::Result<()> {
    let path = head_name(file);
    let new = file.with_extension("head.new");
    let mut written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    written.write_all(serde_json::to_string(tail)?.as_bytes())?;
    written.sync_data()?;
    fs::rename(&new, path)
}
