//! Who is this node? Its key, made once and kept 0600, and the session number that grows with each connection.

use crate::whole::{self, Durable};
use muster_protocol::message::{NodeId, NodeKey};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const KEY_FILE: &str = "node.key";
const SESSION_FILE: &str = "session";
const LOCK_FILE: &str = "lock";

/// The node's key and session number. Holds the lock of the state folder, so that two agents never share one.
#[derive(Debug)]
pub struct Identity {
    key: NodeKey,
    session_file: PathBuf,
    session: u64,
    _lock: File,
}

/// A state folder that cannot be used; the agent refuses to start rather than become another node.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file or folder cannot be read or written.
    #[error("{file}: {cause}; the agent's user must own the state folder and be able to write there")]
    Io {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Others than the owner can read or write it.
    #[error(
        "{file}: others can reach it (mode {mode:03o}); run `chmod {wanted:03o}` on it, and if somebody may have read it, make a new key: stop the agent and delete it"
    )]
    Exposed {
        /// Which file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they must be.
        wanted: u32,
    },
    /// Somebody else owns it.
    #[error("{file}: belongs to uid {uid}; run `chown {own}` on it, or start the agent as its owner")]
    Owner {
        /// Which file.
        file: PathBuf,
        /// Its owner.
        uid: u32,
        /// Who the agent runs as.
        own: u32,
    },
    /// The key file does not hold a key.
    #[error(
        "{0}: does not hold a node key (64 lowercase hexadecimal digits); restore it from a backup, or delete it to make this machine a new node"
    )]
    Corrupt(PathBuf),
    /// Another agent runs with this folder.
    #[error(
        "{0}: another muster-agent runs with this state folder; stop it, or give this one a `state-dir` of its own"
    )]
    InUse(PathBuf),
}

impl Identity {
    /// Opens the state folder; makes it (0700) and the key (0600) if they are not there.
    pub fn open(state_dir: &Path) -> Result<Identity, IdentityError> {
        let failed = |file: &Path| {
            let file = file.to_owned();
            move |cause| IdentityError::Io { file, cause }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(failed(state_dir))?;
        // Reading the folder's names does no harm; writing there would let others swap the key.
        refuse_reachable(state_dir, &fs::metadata(state_dir).map_err(failed(state_dir))?, 0o022, 0o700)?;
        let lock_file = state_dir.join(LOCK_FILE);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_file)
            .map_err(failed(&lock_file))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| IdentityError::InUse(state_dir.to_owned()))?;
        let key_file = state_dir.join(KEY_FILE);
        let key = match File::open(&key_file) {
            Ok(file) => read_key(&key_file, &file)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => make_key(&key_file).map_err(failed(&key_file))?,
            Err(e) => return Err(failed(&key_file)(e)),
        };
        let session_file = state_dir.join(SESSION_FILE);
        let session = match fs::read_to_string(&session_file) {
            Ok(text) => text.trim().parse().unwrap_or(0),
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => return Err(failed(&session_file)(e)),
        };
        Ok(Identity { key, session_file, session, _lock: lock })
    }

    /// The node's secret.
    pub fn key(&self) -> &NodeKey {
        &self.key
    }

    /// The node's id.
    pub fn node(&self) -> NodeId {
        NodeId::of(&self.key)
    }

    /// The number of the next connection: higher than all before, on disk before it is used.
    ///
    /// It is at least the clock in seconds, so that it still grows when the file was lost or restored from a backup.
    pub fn next_session(&mut self, now_seconds: u64) -> Result<u64, IdentityError> {
        let next = self.session.saturating_add(1).max(now_seconds);
        whole::replace(&self.session_file, format!("{next}\n").as_bytes(), Durable::Yes)
            .map_err(|cause| IdentityError::Io { file: self.session_file.clone(), cause })?;
        self.session = next;
        Ok(next)
    }
}

fn read_key(path: &Path, file: &File) -> Result<NodeKey, IdentityError> {
    let failed = |cause| IdentityError::Io { file: path.to_owned(), cause };
    refuse_reachable(path, &file.metadata().map_err(failed)?, 0o077, 0o600)?;
    let mut bytes = Vec::new();
    file.take(256).read_to_end(&mut bytes).map_err(failed)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| IdentityError::Corrupt(path.to_owned()))?;
    NodeKey::parse(text.trim_end()).map_err(|_| IdentityError::Corrupt(path.to_owned()))
}

/// Written beside and linked into place: a crash leaves a whole key or none, and an existing one is never overwritten.
fn make_key(path: &Path) -> io::Result<NodeKey> {
    let key = NodeKey::new(rand::random());
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(format!("{}\n", key.expose_hex()).as_bytes())?;
    file.sync_all()?;
    fs::hard_link(&new, path)?;
    fs::remove_file(&new)?;
    whole::sync_folder(path)?;
    Ok(key)
}

fn refuse_reachable(path: &Path, metadata: &fs::Metadata, forbidden: u32, wanted: u32) -> Result<(), IdentityError> {
    let mode = metadata.permissions().mode() & 0o777;
    if mode & forbidden != 0 {
        return Err(IdentityError::Exposed { file: path.to_owned(), mode, wanted });
    }
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own {
        return Err(IdentityError::Owner { file: path.to_owned(), uid: metadata.uid(), own });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(file: &Path) -> u32 {
        fs::metadata(file).expect("there").permissions().mode() & 0o777
    }

    #[test]
    fn the_key_is_made_once_and_is_the_owners_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let state = dir.path().join("deep/state");
        let first = Identity::open(&state).expect("made");
        let node = first.node();
        assert_eq!(mode(&state), 0o700);
        assert_eq!(mode(&state.join(KEY_FILE)), 0o600);
        assert!(matches!(Identity::open(&state), Err(IdentityError::InUse(_))));
        drop(first);
        assert_eq!(Identity::open(&state).expect("opened").node(), node);
    }

    #[test]
    fn session_numbers_grow_over_restarts_and_over_a_lost_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut identity = Identity::open(&dir.path().join("s")).expect("made");
        assert_eq!(identity.next_session(1000).expect("written"), 1000);
        assert_eq!(identity.next_session(1000).expect("written"), 1001);
        drop(identity);
        let mut identity = Identity::open(&dir.path().join("s")).expect("opened");
        assert_eq!(identity.next_session(5).expect("a clock that went back does no harm"), 1002);
        drop(identity);
        fs::write(dir.path().join("s").join(SESSION_FILE), "gar\0bage").expect("written");
        let mut identity = Identity::open(&dir.path().join("s")).expect("opened");
        assert_eq!(identity.next_session(2000).expect("written"), 2000);
    }

    #[test]
    fn a_key_that_is_corrupt_or_exposed_is_refused_with_file_and_cure() {
        let dir = tempfile::tempdir().expect("a folder");
        let state = dir.path().join("s");
        drop(Identity::open(&state).expect("made"));
        let key = state.join(KEY_FILE);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("mode");
        let error = Identity::open(&state).expect_err("exposed").to_string();
        assert!(error.contains("node.key") && error.contains("chmod 600"), "{error}");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("mode");
        for wrong in ["", "0011", &"A".repeat(64), &"0".repeat(300)] {
            fs::write(&key, wrong).expect("written");
            let error = Identity::open(&state).expect_err("corrupt").to_string();
            assert!(error.contains("node.key") && error.contains("restore it"), "{error}");
        }
        fs::remove_file(&key).expect("removed");
        fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).expect("mode");
        assert!(matches!(Identity::open(&state), Err(IdentityError::Exposed { .. })));
    }
}
