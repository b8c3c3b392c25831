//! Is this the password? argon2id hashes as PHC strings: made, verified, and asked for without showing the password.

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use secrecy::{ExposeSecret, SecretString};
use std::io::{IsTerminal, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Longest password, in bytes. Frames before the login are at most 4 KiB.
pub const MAX_PASSWORD: usize = 1024;

/// Why there is no hash. None of them holds the password.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Empty passwords are never accepted.
    #[error("the password is empty, which is never accepted; give one")]
    Empty,
    /// Over [`MAX_PASSWORD`].
    #[error("the password has more than {MAX_PASSWORD} bytes; use a shorter one")]
    TooLong,
    /// CONNECT could not carry it.
    #[error("the password holds a control character or is not UTF-8; leave that out")]
    Unprintable,
    /// The broker would check it as a token, and never as a password.
    #[error(
        "the password has the form of a resumption token (mt1.…), which is never checked as a password; use another"
    )]
    Token,
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
    /// No randomness, or no memory.
    #[error("cannot compute the hash: {0}")]
    Hash(String),
}

/// The PHC string of a password: argon2id, m = 19 MiB, t = 2, p = 1, a new salt. Takes some 20 ms of a core.
pub fn hash(password: &SecretString) -> Result<String, PasswordError> {
    check(password.expose_secret())?;
    let hash = argon2().hash_password(password.expose_secret().as_bytes());
    hash.map(|hash| hash.to_string()).map_err(|error| PasswordError::Hash(error.to_string()))
}

/// Whether the password is the one of a PHC string, whose own parameters are used. False for an empty password and for
/// what is no PHC string. Costs what the parameters say: call it where that hurts nobody.
pub fn verify(phc: &str, password: &SecretString) -> bool {
    let Ok(hash) = PasswordHash::new(phc) else { return false };
    let verified = argon2().verify_password(password.expose_secret().as_bytes(), &hash).is_ok();
    verified && !password.expose_secret().is_empty()
}

/// A PHC string with the parameters of [`hash`] that no password has: verifying an unknown user's password against it
/// takes the time that a known user's takes.
pub fn dummy_phc() -> &'static str {
    static DUMMY: OnceLock<String> = OnceLock::new();
    DUMMY.get_or_init(|| {
        // Random bits that are the hash of nothing known: to be right they would have to be guessed.
        let (salt, output): ([u8; 16], [u8; 32]) = (rand::random(), rand::random());
        let hash = PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(&Params::DEFAULT).unwrap_or_default(),
            salt: Salt::new(&salt).ok(),
            hash: Output::new(&output).ok(),
        };
        hash.to_string()
    })
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

fn argon2() -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::DEFAULT)
}

fn check(password: &str) -> Result<(), PasswordError> {
    if password.is_empty() {
        return Err(PasswordError::Empty);
    }
    if password.len() > MAX_PASSWORD {
        return Err(PasswordError::TooLong);
    }
    if password.chars().any(char::is_control) {
        return Err(PasswordError::Unprintable);
    }
    if muster_protocol::token::is_token(password) {
        return Err(PasswordError::Token);
    }
    Ok(())
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
    let text = std::str::from_utf8(line).map_err(|_| PasswordError::Unprintable)?;
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
    fn a_hash_verifies_its_password_alone() {
        let phc = hash(&secret("correct horse")).unwrap();
        assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{phc}");
        assert!(verify(&phc, &secret("correct horse")));
        assert!(!verify(&phc, &secret("correct horsf")));
        assert!(!verify(&phc, &secret("")));
        assert_ne!(hash(&secret("correct horse")).unwrap(), phc, "a new salt each time");
        for no_hash in ["", "correct horse", "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ"] {
            assert!(!verify(no_hash, &secret("correct horse")));
        }
    }

    #[test]
    fn the_dummy_costs_the_same_and_is_nobodys() {
        assert!(dummy_phc().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert_eq!(PasswordHash::new(dummy_phc()).unwrap().hash.unwrap().len(), 32);
        assert!(!verify(dummy_phc(), &secret("anything")));
    }

    #[test]
    fn passwords_come_from_a_line() {
        let read = |bytes: &[u8]| first_line(bytes, "test").map(|password| password.expose_secret().to_owned());
        assert_eq!(read(b"pass word\r\nrest").unwrap(), "pass word");
        assert_eq!(read(b"p\xc3\xa4ss").unwrap(), "päss");
        assert!(matches!(read(b""), Err(PasswordError::Empty)));
        assert!(matches!(read(b"\nsecond"), Err(PasswordError::Empty)));
        assert!(matches!(read(b"\xff\n"), Err(PasswordError::Unprintable)));
        assert!(matches!(read(b"a\0b\n"), Err(PasswordError::Unprintable)));
        assert!(matches!(read(&[b'a'; 2000]), Err(PasswordError::TooLong)));
        assert!(read(&[b'a'; MAX_PASSWORD]).is_ok());
        let token = format!("mt1.{}", "a".repeat(200));
        assert!(matches!(read(token.as_bytes()), Err(PasswordError::Token)));
        assert!(matches!(hash(&secret(&token)), Err(PasswordError::Token)));
        assert!(read(b"mt1.hunter2").is_ok());
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
