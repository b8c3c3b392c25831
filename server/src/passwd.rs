//! Where does a password of `musterd` come from, and what is its hash? The rules are those of [`muster_protocol::passwd`].

pub use muster_protocol::passwd::{BadPassword, MAX_PASSWORD, verify};

use muster_protocol::passwd::{self, check};
use secrecy::{ExposeSecret, SecretString};
use std::io::{IsTerminal, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Why there is no hash. None of them holds the password.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// It may not be a password.
    #[error(transparent)]
    Bad(#[from] BadPassword),
    /// Typed twice, differently.
    #[error("the two passwords differ; try again")]
    Differ,
    /// Others than the owner can read the file.
    #[error("{file}: others can read this password file (mode {mode:03o}); run `chmod 600` on it", file = file.display())]
    Exposed {
        /// Which file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file, standard input or the terminal cannot be read.
    #[error("{place}: {cause}")]
    Read {
        /// Where from.
        place: String,
        /// What the system said.
        cause: std::io::Error,
    },
}

/// The PHC string of a password, with a new salt. Takes some 20 ms of a core.
pub fn hash(password: &SecretString) -> Result<String, PasswordError> {
    Ok(passwd::hash(password, rand::random())?)
}

/// A PHC string with the parameters of [`hash`] that no password has: verifying an unknown user's password against it
/// takes the time that a known user's takes.
pub fn dummy_phc() -> &'static str {
    static DUMMY: OnceLock<String> = OnceLock::new();
    // Random bits that are the hash of nothing known: to be right they would have to be guessed.
    DUMMY.get_or_init(|| passwd::phc(&rand::random(), &rand::random()))
}

/// What `musterd passwd` does: reads a password and gives its PHC string. From a file (which must be its owner's alone), or
/// else from the terminal, twice and unseen, or where there is no terminal from the first line of standard input.
pub fn ask(file: Option<&Path>) -> Result<String, PasswordError> {
    let password = match file {
        Some(file) => from_file(file)?,
        None if std::io::stdin().is_terminal() => from_terminal()?,
        None => first_line(std::io::stdin(), "standard input")?,
    };
    hash(&password)
}

fn from_file(file: &Path) -> Result<SecretString, PasswordError> {
    let read = |cause| PasswordError::Read { place: file.display().to_string(), cause };
    let opened = std::fs::File::open(file).map_err(read)?;
    let mode = opened.metadata().map_err(read)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(PasswordError::Exposed { file: file.to_owned(), mode });
    }
    first_line(opened, &file.display().to_string())
}

fn from_terminal() -> Result<SecretString, PasswordError> {
    let prompt = |text: &str| {
        let typed = rpassword::prompt_password(text);
        typed.map(SecretString::from).map_err(|cause| PasswordError::Read { place: "terminal".into(), cause })
    };
    let first = prompt("Password: ")?;
    check(first.expose_secret())?;
    let second = prompt("The same again: ")?;
    if first.expose_secret() == second.expose_secret() { Ok(first) } else { Err(PasswordError::Differ) }
}

/// The first line, without its end.
fn first_line(from: impl Read, place: &str) -> Result<SecretString, PasswordError> {
    // The whole capacity at once: growing would leave copies of the password behind.
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(MAX_PASSWORD + 3));
    let read = from.take(MAX_PASSWORD as u64 + 3).read_to_end(&mut bytes);
    read.map_err(|cause| PasswordError::Read { place: place.to_owned(), cause })?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = std::str::from_utf8(line).map_err(|_| BadPassword::Unprintable)?;
    check(text)?;
    Ok(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretString {
        SecretString::from(text)
    }

    #[test]
    fn a_hash_has_a_salt_of_its_own_and_the_dummy_is_nobodys() {
        let phc = hash(&secret("correct horse")).unwrap();
        assert!(verify(&phc, &secret("correct horse")));
        assert_ne!(hash(&secret("correct horse")).unwrap(), phc);
        assert_eq!(passwd::check_hash(dummy_phc()), Ok(()), "it costs the same");
        assert!(!verify(dummy_phc(), &secret("anything")));
    }

    #[test]
    fn passwords_come_from_a_line() {
        let read = |bytes: &[u8]| first_line(bytes, "test").map(|password| password.expose_secret().to_owned());
        assert_eq!(read(b"pass word\r\nrest").unwrap(), "pass word");
        assert_eq!(read(b"p\xc3\xa4ss").unwrap(), "päss");
        assert!(matches!(read(b""), Err(PasswordError::Bad(BadPassword::Empty))));
        assert!(matches!(read(b"\nsecond"), Err(PasswordError::Bad(BadPassword::Empty))));
        assert!(matches!(read(b"\xff\n"), Err(PasswordError::Bad(BadPassword::Unprintable))));
        assert!(matches!(read(b"a\0b\n"), Err(PasswordError::Bad(BadPassword::Unprintable))));
        assert!(matches!(read(&[b'a'; 2000]), Err(PasswordError::Bad(BadPassword::TooLong))));
        assert!(read(&[b'a'; MAX_PASSWORD]).is_ok());
    }

    #[test]
    fn an_exposed_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("password");
        std::fs::write(&file, "secret\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(ask(Some(&file)), Err(PasswordError::Exposed { mode: 0o640, .. })));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(verify(&ask(Some(&file)).unwrap(), &secret("secret")));
    }
}
