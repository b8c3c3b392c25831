//! Where does the policy come from? The file policy.toml, which must not be readable by everybody; below it how editions of it are
//! made, sealed and kept.

mod amend;
pub mod begin;
#[cfg(test)]
mod ca;
pub mod history;
pub mod keeper;
pub mod seal;
pub mod store;

pub use amend::{Amendment, amend, amended, keeps_authority, with_authority};

use crate::broker::access::{Policy, PolicyError};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A policy file that is larger is not read into memory.
pub(crate) const MAX_BYTES: u64 = 32 * 1024 * 1024;

/// Why a policy file was not taken; it names the file.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("{file}: cannot read the policy: {cause}; correct the path (`policy` in musterd.toml) or the rights of the file", file = file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// Users outside owner and group have rights on it.
    #[error("{file}: the policy holds password hashes and everybody on this machine can get at it (mode {mode:03o}); run `chmod 640` on it", file = file.display())]
    Exposed {
        /// Which file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is no policy.
    #[error("{file}: {error}", file = file.display())]
    Policy {
        /// Which file.
        file: PathBuf,
        /// Line, cause, cure.
        error: PolicyError,
    },
}

/// Reads a policy file to be enforced, whole or not at all.
pub fn load(path: &Path) -> Result<Arc<Policy>, LoadError> {
    parse(path, &read(path, true)?).map(Arc::new)
}

/// Reads a policy file to be looked at: it may be a draft, and the rights on the file do not matter.
pub fn draft(path: &Path) -> Result<Policy, LoadError> {
    parse(path, &read(path, false)?)
}

fn parse(path: &Path, text: &str) -> Result<Policy, LoadError> {
    Policy::parse(text).map_err(|error| LoadError::Policy { file: path.to_owned(), error })
}

fn read(path: &Path, guarded: bool) -> Result<String, LoadError> {
    let unread = |cause: String| LoadError::Read { file: path.to_owned(), cause };
    let io = |error: std::io::Error| unread(error.to_string());
    let file = File::open(path).map_err(io)?;
    // Of the open file, so that what is checked is what is read.
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(unread("it is not a file".into()));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if guarded && mode & 0o007 != 0 {
        return Err(LoadError::Exposed { file: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(unread(format!("it has more than {MAX_BYTES} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line =
            error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        unread(format!("line {line} is not UTF-8"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};

    #[test]
    fn errors_name_the_file_and_exposed_ones_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("policy.toml");
        let load_with = |text: &[u8], mode: u32| {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            load(&file).map_err(|error| error.to_string())
        };
        assert!(load_with(b"", 0o640).is_ok());
        assert!(load_with(b"", 0o644).unwrap_err().ends_with("(mode 644); run `chmod 640` on it"));
        assert!(load_with(b"", 0o602).is_err());
        assert!(draft(&file).is_ok(), "a draft is only looked at");
        let error = load_with(b"\nfoo = 1\n", 0o600).unwrap_err();
        assert!(error.contains("policy.toml: line 2") && error.contains("unknown field `foo`"), "{error}");
        assert!(load_with(b"\n\n\xff", 0o600).unwrap_err().contains("line 3 is not UTF-8"));
        assert!(load(directory.path()).unwrap_err().to_string().contains("it is not a file"));
        assert!(load(&directory.path().join("none")).unwrap_err().to_string().contains("none: cannot read"));
    }
}
