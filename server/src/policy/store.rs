//! How does the policy stay on disk? policy.toml, which people read, and in the state directory each edition with its seal.
//!
//! `STATE_DIR/policy/` holds `current.json` (the seal of the edition in force), `pending.json` while another one is written, and
//! `TERM-NUMBER-SHA8.toml` and `.json` for each edition that is kept. A new edition is in force once `pending.json` has become
//! `current.json`: whatever stops the broker before leaves the old one, or enough to finish.

use super::{LoadError, MAX_BYTES};
use muster_protocol::policy::{Generation, Seal, Stamp};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Editions that are kept.
pub const KEPT: usize = 200;
/// A seal is never larger, bytes.
const SEAL_BYTES: u64 = 1024 * 1024;
/// What policy.toml never lets anybody do, whatever the mode of the one before.
const WIDEST: u32 = 0o640;

/// A file that cannot be written or read. One line: file, what was to be done, cause, cure.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot {doing}: {cause}; {}", file.display(), cure(cause))]
pub struct StoreError {
    /// Which file.
    pub file: PathBuf,
    /// What was to be done with it.
    pub doing: &'static str,
    /// What the system said.
    pub cause: io::Error,
}

/// Where a broker keeps its policy.
#[derive(Debug, Clone)]
pub struct Store {
    file: PathBuf,
    dir: PathBuf,
}

/// The right to write in the state directory; gone with the process that has it.
#[derive(Debug)]
pub struct Claim(#[expect(dead_code, reason = "held open, never read")] File);

/// `current.json` or `pending.json`.
#[derive(Debug)]
pub enum Slot {
    /// There is none.
    Empty,
    /// It is no seal, and why.
    Bad(String),
    /// It is one, of which nothing was checked yet.
    Seal(Box<Seal>),
}

/// What becomes of policy.toml when an edition is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toml {
    /// It holds the text already.
    Stays,
    /// It is replaced, or nothing is done at all.
    Replaced,
    /// It is replaced if that can be; the edition holds in any case.
    ReplacedIfPossible,
}

/// By what one sees that a file was touched; `Default` is one that is not there, or of which nothing can be seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Print {
    place: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    mode: u32,
}

impl Store {
    /// With this policy file and this state directory. Nothing is read or written.
    pub fn of(file: &Path, state_dir: &Path) -> Store {
        Store { file: file.to_owned(), dir: state_dir.join("policy") }
    }

    /// policy.toml.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The directory of the editions.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the directory and becomes the one that writes there; clears away what a crash left half-written.
    pub fn claim(&self) -> Result<Claim, StoreError> {
        let failed = |doing| move |cause| StoreError { file: self.dir.clone(), doing, cause };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(failed("make it"))?;
        let path = self.dir.join("lock");
        let failed = |cause: io::Error| StoreError { file: path.clone(), doing: "take it", cause };
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let lock = lock.map_err(failed)?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let text = "another broker uses this state directory";
                return Err(failed(io::Error::new(ErrorKind::ResourceBusy, text)));
            }
            Err(error) => return Err(failed(error.into())),
        }
        for name in self.names(".new") {
            // If it stays it is overwritten when its turn comes.
            let _ = fs::remove_file(self.dir.join(name));
        }
        Ok(Claim(lock))
    }

    /// policy.toml, as [`super::load`] reads it.
    pub fn read(&self) -> Result<String, LoadError> {
        super::read(&self.file, true)
    }

    /// The bytes of policy.toml, whatever they are and whoever may read them; `None` if it is not there.
    pub fn raw(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let doing = "read it";
        match read_bounded(&self.file, MAX_BYTES) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(StoreError { file: self.file.clone(), doing, cause }),
        }
    }

    /// By what one sees that policy.toml was touched.
    pub fn print(&self) -> Print {
        fs::metadata(&self.file).map_or_else(
            |_| Print::default(),
            |seen| Print {
                place: (seen.dev(), seen.ino()),
                size: seen.size(),
                modified: (seen.mtime(), seen.mtime_nsec()),
                changed: (seen.ctime(), seen.ctime_nsec()),
                mode: seen.mode(),
            },
        )
    }

    /// The seal of the edition in force.
    pub fn current(&self) -> Slot {
        slot(&self.current_path())
    }

    /// The seal of an edition that was being written.
    pub fn pending(&self) -> Slot {
        slot(&self.pending_path())
    }

    /// Where the seal of the edition in force lies.
    pub fn current_path(&self) -> PathBuf {
        self.dir.join("current.json")
    }

    /// The seals of the editions that are kept, newest first; nothing of them was checked.
    pub fn kept(&self) -> Vec<Seal> {
        let seals = self.stems().into_iter().filter_map(|stem| {
            let Slot::Seal(seal) = slot(&self.dir.join(format!("{stem}.json"))) else { return None };
            (self::stem(&seal.stamp) == stem).then_some(*seal)
        });
        let mut seals: Vec<Seal> = seals.collect();
        seals.sort_by(|one, other| other.stamp.cmp(&one.stamp));
        seals
    }

    /// The text of an edition that is kept; nothing of it was checked.
    pub fn text(&self, stamp: &Stamp) -> Result<Vec<u8>, StoreError> {
        let file = self.kept_path(stamp, "toml");
        read_bounded(&file, MAX_BYTES).map_err(|cause| StoreError { file, doing: "read it", cause })
    }

    /// Writes an edition down, so that it is in force from now on, also after a power failure. If that fails everything is as it
    /// was before; only that policy.toml could not be replaced is no failure where `toml` says so, and is given back.
    pub fn commit(&self, seal: &Seal, text: &str, toml: Toml) -> Result<Option<StoreError>, StoreError> {
        let was_kept = self.kept_path(&seal.stamp, "json").is_file();
        let (old_seal, mut old_text) = (fs::read(self.current_path()).ok(), None);
        let mut unwritten = None;
        let done = self.keep(seal, text).and_then(|()| self.announce(seal)).and_then(|()| {
            if toml == Toml::Stays {
                return Ok(());
            }
            let before = self.raw()?;
            match self.replace(text) {
                Ok(()) => old_text = before,
                Err(error) if toml == Toml::ReplacedIfPossible => unwritten = Some(error),
                Err(error) => return Err(error),
            }
            Ok(())
        });
        match done.and_then(|()| self.settle()) {
            Ok(()) => {
                self.prune(&seal.stamp);
                Ok(unwritten)
            }
            Err(error) => Err(self.undo(seal, was_kept, old_seal, old_text.as_deref(), error)),
        }
    }

    /// Step 1 of [`Store::commit`]: text and seal among those that are kept.
    pub(super) fn keep(&self, seal: &Seal, text: &str) -> Result<(), StoreError> {
        write(&self.kept_path(&seal.stamp, "toml"), text.as_bytes())?;
        write(&self.kept_path(&seal.stamp, "json"), &json(seal))?;
        sync(&self.dir)
    }

    /// Step 2: which edition is about to be in force.
    pub(super) fn announce(&self, seal: &Seal) -> Result<(), StoreError> {
        write(&self.pending_path(), &json(seal))?;
        sync(&self.dir)
    }

    /// Step 3: policy.toml gets another text, whole or not at all, with the rights of the one before if they are no wider than 0640.
    pub fn replace(&self, text: &str) -> Result<(), StoreError> {
        self.replace_bytes(text.as_bytes())
    }

    /// Step 4: the edition is in force.
    pub(super) fn settle(&self) -> Result<(), StoreError> {
        let (from, to) = (self.pending_path(), self.current_path());
        fs::rename(&from, &to).map_err(|cause| StoreError { file: to, doing: "replace it", cause })?;
        sync(&self.dir)
    }

    /// What was being written is not going to be in force.
    pub(super) fn drop_pending(&self) -> Result<(), StoreError> {
        remove(&self.pending_path())
    }

    /// An edition that was never in force is kept no more.
    pub(super) fn forget(&self, stamp: &Stamp) -> Result<(), StoreError> {
        let json = remove(&self.kept_path(stamp, "json"));
        remove(&self.kept_path(stamp, "toml")).and(json)
    }

    /// A `current.json` that is none is kept under another name, for whoever wants to know what happened.
    pub(super) fn set_current_aside(&self, unix: u64) -> Result<(), StoreError> {
        let (from, to) = (self.current_path(), self.dir.join(format!("current.json.set-aside-{unix}")));
        match fs::rename(&from, to) {
            Err(cause) if cause.kind() != ErrorKind::NotFound => {
                Err(StoreError { file: from, doing: "set it aside", cause })
            }
            _ => Ok(()),
        }
    }

    /// Keeps a text as `policy.toml.set-aside-MARK` (0600) beside policy.toml, or where that cannot be in the state directory. A
    /// text that lies there already is not written again.
    pub fn set_aside(&self, text: &[u8], mark: &str) -> Result<PathBuf, StoreError> {
        for there in self.aside() {
            if read_bounded(&there, MAX_BYTES).is_ok_and(|known| known == text) {
                return Ok(there);
            }
        }
        let name = format!("{}.set-aside-{mark}", name_of(&self.file));
        let beside = folder(&self.file);
        write_aside(&beside, &name, text).or_else(|_| write_aside(&self.dir, &name, text))
    }

    /// The texts that were set aside and that nobody has taken away yet, by name.
    pub fn aside(&self) -> Vec<PathBuf> {
        let prefix = format!("{}.set-aside-", name_of(&self.file));
        let mut found = Vec::new();
        for folder in [folder(&self.file), self.dir.clone()] {
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            let names = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
            found.extend(names.map(|entry| folder.join(entry.file_name())));
        }
        found.sort();
        found
    }

    fn replace_bytes(&self, text: &[u8]) -> Result<(), StoreError> {
        // Where it is a symbolic link, the link stays.
        let target = fs::canonicalize(&self.file).unwrap_or_else(|_| self.file.clone());
        let new = target.with_file_name(format!(".{}.new", name_of(&target)));
        let failed = |file: &Path, doing| {
            let file = file.to_owned();
            move |cause| StoreError { file, doing, cause }
        };
        remove(&new)?;
        let written = write_like(&new, text, fs::metadata(&target).ok().as_ref());
        let renamed = written.map_err(failed(&new, "write it")).and_then(|()| {
            fs::rename(&new, &target).map_err(failed(&target, "replace it"))?;
            sync(&folder(&target))
        });
        if renamed.is_err() {
            // It is removed before the next try too.
            let _ = fs::remove_file(&new);
        }
        renamed
    }

    /// Puts back what was there. If even that fails, the error says so: what is on disk is then found out at the next start.
    fn undo(
        &self,
        seal: &Seal,
        was_kept: bool,
        old_seal: Option<Vec<u8>>,
        old_text: Option<&[u8]>,
        error: StoreError,
    ) -> StoreError {
        let text = old_text.map_or(Ok(()), |text| self.replace_bytes(text));
        let pending = self.drop_pending();
        let current = match (slot(&self.current_path()), old_seal) {
            (Slot::Seal(current), old) if current.stamp == seal.stamp => match old {
                Some(old) => write(&self.current_path(), &old),
                None => remove(&self.current_path()),
            },
            _ => Ok(()),
        };
        let kept = if was_kept { Ok(()) } else { self.forget(&seal.stamp) };
        match text.and(pending).and(current).and(kept) {
            Ok(()) => error,
            Err(undo) => {
                let cause = format!("{}; and what was done of it could not be undone: {undo}", error.cause);
                StoreError { cause: io::Error::new(error.cause.kind(), cause), ..error }
            }
        }
    }

    /// Only the newest editions are kept, and the one in force.
    fn prune(&self, current: &Stamp) {
        let mut stems = self.stems();
        stems.sort_by_key(|stem| std::cmp::Reverse(generation(stem)));
        for stem in stems.into_iter().skip(KEPT).filter(|stem| *stem != self::stem(current)) {
            for ending in ["json", "toml"] {
                // One too many does no harm; the next commit tries again.
                let _ = fs::remove_file(self.dir.join(format!("{stem}.{ending}")));
            }
        }
    }

    /// The names of kept editions, without their endings.
    fn stems(&self) -> Vec<String> {
        let names = self.names(".json").into_iter();
        let stems = names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned));
        stems.filter(|stem| generation(stem).is_some()).collect()
    }

    fn names(&self, ending: &str) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.ends_with(ending)).collect()
    }

    fn kept_path(&self, stamp: &Stamp, ending: &str) -> PathBuf {
        self.dir.join(format!("{}.{ending}", stem(stamp)))
    }

    fn pending_path(&self) -> PathBuf {
        self.dir.join("pending.json")
    }
}

/// `TERM-NUMBER-SHA8`; of what a seal says nothing but digits gets into a name.
fn stem(stamp: &Stamp) -> String {
    let Generation { term, number } = stamp.generation;
    let sum: String = stamp.sha256.chars().filter(char::is_ascii_hexdigit).take(8).collect();
    format!("{term}-{number}-{sum}")
}

fn generation(stem: &str) -> Option<Generation> {
    let mut parts = stem.split('-');
    let (term, number) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next()?;
    parts.next().is_none().then_some(Generation { term, number })
}

fn slot(path: &Path) -> Slot {
    match read_bounded(path, SEAL_BYTES) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(seal) => Slot::Seal(Box::new(seal)),
            Err(error) => Slot::Bad(error.to_string()),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Slot::Empty,
        Err(error) => Slot::Bad(error.to_string()),
    }
}

fn json(seal: &Seal) -> Vec<u8> {
    // A struct of texts and numbers always has a JSON form.
    let mut json = serde_json::to_vec_pretty(seal).unwrap_or_default();
    json.push(b'\n');
    json
}

fn read_bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("it has more than {most} bytes")));
    }
    Ok(bytes)
}

/// A file of the state directory, whole or not at all; the directory is to be synced afterwards.
fn write(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let new = path.with_file_name(format!("{}.new", name_of(path)));
    let written = remove(&new).and_then(|()| {
        let done = write_like(&new, bytes, None).and_then(|()| fs::rename(&new, path));
        done.map_err(|cause| StoreError { file: path.to_owned(), doing: "write it", cause })
    });
    if written.is_err() {
        // It is removed before the next try too.
        let _ = fs::remove_file(&new);
    }
    written
}

/// A new file, on the disk when this returns, with owner, group and mode as far as they may be: nobody gets at it who could not
/// get at the old one.
fn write_like(path: &Path, bytes: &[u8], like: Option<&fs::Metadata>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    if let Some(like) = like {
        let (owner, group) = (rustix::fs::Uid::from_raw(like.uid()), rustix::fs::Gid::from_raw(like.gid()));
        // Only root can give a file away, and others only to their own groups.
        let is_given = rustix::fs::fchown(&file, Some(owner), Some(group))
            .or_else(|_| rustix::fs::fchown(&file, None, Some(group)))
            .is_ok();
        let mode = like.mode() & if is_given { WIDEST } else { 0o600 };
        file.set_permissions(Permissions::from_mode(mode | 0o400))?;
    }
    file.write_all(bytes)?;
    file.sync_all()
}

fn write_aside(folder: &Path, name: &str, text: &[u8]) -> Result<PathBuf, StoreError> {
    // More than a few within a second there cannot be.
    let names = (1..100).map(|count| if count == 1 { name.to_owned() } else { format!("{name}-{count}") });
    let path = names.map(|name| folder.join(name)).find(|path| !path.exists()).unwrap_or_else(|| folder.join(name));
    let written = write_like(&path, text, None);
    let failed = |cause| StoreError { file: path.clone(), doing: "write it", cause };
    if let Err(error) = written.map_err(failed).and_then(|()| sync(folder)) {
        if error.cause.kind() != ErrorKind::AlreadyExists {
            let _ = fs::remove_file(&path);
        }
        return Err(error);
    }
    Ok(path)
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => {
            Err(StoreError { file: path.to_owned(), doing: "remove it", cause })
        }
        _ => Ok(()),
    }
}

fn sync(folder: &Path) -> Result<(), StoreError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|cause| StoreError { file: folder.to_owned(), doing: "bring it to the disk", cause })
}

fn folder(file: &Path) -> PathBuf {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or_else(|| Path::new(".")).to_owned()
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn cure(cause: &io::Error) -> &'static str {
    match cause.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => "make room on its disk",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "give the broker's user the right to write there (in systemd also ReadWritePaths=)"
        }
        ErrorKind::ResourceBusy => "give each broker a state directory of its own",
        _ => "look at the file and its disk",
    }
}

#[cfg(test)]
mod tests;
