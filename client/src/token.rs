//! Where is the token of `muster login`? In a file of the operator alone, one for each user and CA: who has another CA never sees it.

use muster_protocol::token::{LONGEST, is_token};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// A token file that cannot be used. Quotes nothing of it.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A file or folder cannot be read, written or removed.
    #[error("{file}: {cause}")]
    Io {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Others can read or write it.
    #[error(
        "{file}: others can get at this token (mode {mode:03o}); run `chmod 600` on it, or, if somebody may have read it, ask an admin to revoke your tokens and log in again with `muster login`"
    )]
    Exposed {
        /// Which file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds something else.
    #[error("{file}: holds no token; log in again with `muster login`, or remove it with `muster logout`")]
    NoToken {
        /// Which file.
        file: PathBuf,
    },
    /// Neither `XDG_STATE_HOME` nor `HOME` is set.
    #[error("there is no folder to keep a token in: set HOME or XDG_STATE_HOME")]
    NoFolder,
}

/// The file for one user of one cluster.
#[derive(Debug, Clone)]
pub struct TokenFile(PathBuf);

impl TokenFile {
    /// In `folder`, for `user` at the brokers that the CA file `ca` vouches for. Nothing is made yet.
    pub fn new(folder: &Path, user: &str, ca: &Path) -> Result<TokenFile, TokenError> {
        let certificates = fs::read(ca).map_err(|cause| TokenError::Io { file: ca.to_owned(), cause })?;
        let mut hash = Sha256::new();
        hash.update((user.len() as u64).to_be_bytes());
        hash.update(user);
        hash.update(&certificates);
        let hash: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        // The name is for people, the hash tells files apart.
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '@' | '-') { c } else { '_' };
        let name: String = user.chars().take(64).map(plain).collect();
        Ok(TokenFile(folder.join(format!("{name}-{hash}"))))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The token; `None` if none is kept.
    pub fn read(&self) -> Result<Option<SecretString>, TokenError> {
        let failed = |cause| TokenError::Io { file: self.0.clone(), cause };
        let file = match File::open(&self.0) {
            Ok(file) => file,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(failed(cause)),
        };
        // Of the open file, so that nobody can exchange it between the check and the reading.
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(TokenError::Exposed { file: self.0.clone(), mode });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST + 2));
        file.take(LONGEST as u64 + 2).read_to_end(&mut bytes).map_err(failed)?;
        let token = std::str::from_utf8(bytes.trim_ascii_end()).ok().filter(|token| is_token(token));
        let token = token.ok_or_else(|| TokenError::NoToken { file: self.0.clone() })?;
        Ok(Some(SecretString::from(token)))
    }

    /// Keeps a token, in a folder of mode 0700 and a file of mode 0600: whole, or what was there stays.
    pub fn keep(&self, token: &SecretString) -> Result<(), TokenError> {
        let failed = |cause| TokenError::Io { file: self.0.clone(), cause };
        if let Some(folder) = self.0.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        }
        // By process: two commands may keep one at the same time.
        let mut new = self.0.clone().into_os_string();
        new.push(format!(".{}.new", std::process::id()));
        let new = PathBuf::from(new);
        let _ = fs::remove_file(&new);
        let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).and_then(|mut file| {
            file.write_all(token.expose_secret().as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&new, &self.0)
        });
        written.inspect_err(|_| fs::remove_file(&new).unwrap_or_default()).map_err(failed)
    }

    /// Removes it; whether there was one.
    pub fn remove(&self) -> Result<bool, TokenError> {
        match fs::remove_file(&self.0) {
            Ok(()) => Ok(true),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(cause) => Err(TokenError::Io { file: self.0.clone(), cause }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;

    fn token(letter: &str) -> SecretString {
        SecretString::from(format!("mt1.{}", letter.repeat(200)))
    }

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        fs::write(&ca, "one").unwrap();
        (folder, ca)
    }

    #[test]
    fn a_token_is_kept_for_its_owner_alone_until_it_is_removed() {
        let (folder, ca) = folder();
        let tokens = folder.path().join("state/muster/tokens");
        let file = TokenFile::new(&tokens, "alice", &ca).unwrap();
        assert!(file.read().unwrap().is_none() && !file.remove().unwrap());
        for letter in ["a", "b"] {
            file.keep(&token(letter)).unwrap();
            assert_eq!(file.read().unwrap().unwrap().expose_secret(), token(letter).expose_secret());
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(file.path()), mode(&tokens)), (0o600, 0o700));
        assert_eq!(fs::read_dir(&tokens).unwrap().count(), 1, "nothing is left behind");
        assert!(file.remove().unwrap() && file.read().unwrap().is_none());
    }

    #[test]
    fn each_user_of_each_cluster_has_their_own_and_no_name_leads_elsewhere() {
        let (folder, ca) = folder();
        let other = folder.path().join("other.pem");
        fs::write(&other, "two").unwrap();
        let path = |user: &str, ca: &Path| TokenFile::new(folder.path(), user, ca).unwrap().path().to_owned();
        let users = ["alice", "bob", "a/b", "a_b", "..", "", "../../etc/passwd", &"x".repeat(500)];
        let mut paths: Vec<PathBuf> = users.iter().map(|user| path(user, &ca)).collect();
        paths.push(path("alice", &other));
        for path in &paths {
            assert_eq!(path.parent(), Some(folder.path()), "{path:?}");
        }
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), users.len() + 1);
        assert_eq!(path("alice", &ca), path("alice", &ca));
        assert!(TokenFile::new(folder.path(), "a", Path::new("/none/ca.pem")).is_err());
    }

    #[test]
    fn what_is_exposed_or_no_token_is_named_with_its_cure_and_not_quoted() {
        let (folder, ca) = folder();
        let file = TokenFile::new(folder.path(), "alice", &ca).unwrap();
        let read = |text: &str, mode: u32| {
            fs::write(file.path(), text).unwrap();
            fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
            file.read().unwrap_err().to_string()
        };
        let exposed = read(token("a").expose_secret(), 0o640);
        assert!(exposed.contains("chmod 600") && !exposed.contains("mt1."), "{exposed}");
        for text in ["", "hunter2", "mt1.short", &format!("mt1.{}", "a".repeat(600))] {
            let error = read(text, 0o600);
            assert!(error.contains("muster login") && (text.is_empty() || !error.contains(text)), "{error}");
        }
    }
}
