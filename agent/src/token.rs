//! What stands for the password at the next login? A token that a broker gave, kept 0600 in the state folder over restarts.

use crate::whole::{self, Durable};
use muster_protocol::token::{LONGEST, is_token};
use secrecy::{ExposeSecret, SecretString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Name of the file in the state folder.
pub(crate) const FILE: &str = "token";

/// The token that is held, if any. Losing it costs one login by password, so nothing that goes wrong here stops the agent.
#[derive(Debug)]
pub(crate) struct Kept {
    file: PathBuf,
    token: Option<SecretString>,
}

impl Kept {
    /// What an earlier run has kept. A file that is no token, or that others could read or write, is removed and not used.
    pub(crate) fn open(state_dir: &Path) -> Kept {
        let file = state_dir.join(FILE);
        let mut kept = Kept { token: None, file };
        match read(&kept.file) {
            Ok(token) => kept.token = Some(token),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => {
                tracing::warn!(file = %kept.file.display(), %cause, "the kept token is not used; the password is");
                kept.forget();
            }
        }
        kept
    }

    /// The token.
    pub(crate) fn token(&self) -> Option<&SecretString> {
        self.token.as_ref()
    }

    /// Keeps another one from now on.
    pub(crate) fn keep(&mut self, token: &SecretString) {
        self.token = Some(token.clone());
        let text = zeroize::Zeroizing::new(format!("{}\n", token.expose_secret()));
        if let Err(cause) = whole::replace(&self.file, text.as_bytes(), Durable::No) {
            tracing::warn!(file = %self.file.display(), %cause, "the token cannot be kept; the next start uses the password");
        }
    }

    /// A broker has refused it.
    pub(crate) fn forget(&mut self) {
        self.token = None;
        match fs::remove_file(&self.file) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(file = %self.file.display(), %cause, "the token that is not used any more cannot be removed");
            }
            _ => {}
        }
    }
}

fn read(path: &Path) -> io::Result<SecretString> {
    let file = File::open(path)?;
    // Of the open file, so that what is checked is what is read.
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.mode() & 0o077 != 0 || metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("others than the agent's user can get at it"));
    }
    let mut text = zeroize::Zeroizing::new(String::with_capacity(LONGEST + 2));
    file.take(LONGEST as u64 + 2).read_to_string(&mut text)?;
    let token = text.trim_end_matches('\n');
    if is_token(token) { Ok(SecretString::from(token)) } else { Err(io::Error::other("it holds no token")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    fn token(letter: &str) -> SecretString {
        SecretString::from(format!("mt1.{}", letter.repeat(200)))
    }

    fn text(kept: &Kept) -> Option<&str> {
        kept.token().map(ExposeSecret::expose_secret)
    }

    #[test]
    fn a_token_outlives_the_agent_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut kept = Kept::open(folder.path());
        assert!(kept.token().is_none());
        for letter in ["a", "b"] {
            kept.keep(&token(letter));
            assert_eq!(text(&Kept::open(folder.path())), Some(token(letter).expose_secret()));
        }
        let mode = fs::metadata(folder.path().join(FILE)).expect("a file").mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert!(!format!("{kept:?}").contains("mt1."));
        kept.forget();
        assert!(kept.token().is_none() && Kept::open(folder.path()).token().is_none());
        kept.forget();
    }

    #[test]
    fn what_is_no_token_or_was_exposed_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(FILE);
        let good = token("a").expose_secret().to_owned();
        let long = format!("mt1.{}", "a".repeat(600));
        for (bytes, mode) in
            [("", 0o600), ("password", 0o600), (&long, 0o600), (&good, 0o644), (&good, 0o620), ("mt1.\0", 0o600)]
        {
            fs::write(&file, bytes).expect("written");
            fs::set_permissions(&file, Permissions::from_mode(mode)).expect("its mode");
            assert!(Kept::open(folder.path()).token().is_none(), "{mode:o} {bytes}");
            assert!(!file.exists());
        }
        fs::write(&file, [0xff; 100]).expect("written");
        fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("its mode");
        assert!(Kept::open(folder.path()).token().is_none());
    }

    #[test]
    fn a_folder_that_takes_nothing_costs_a_password_at_the_next_start_only() {
        let mut kept = Kept::open(Path::new("/nonexistent"));
        kept.keep(&token("a"));
        assert_eq!(text(&kept), Some(token("a").expose_secret()));
    }
}
