//! How does a password get here, the one to log in with or a user's new one? From a file that nobody else can read, the environment,
//! standard input or a prompt; never an argument.

use super::surface::{Secret, Surface};
use crate::config::PasswordSource;
use clap::Args;
use muster_protocol::passwd::{self, BadPassword, MAX_PASSWORD};
use secrecy::{ExposeSecret, SecretString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The longest password that is read from a file, in bytes; a larger file is some other file.
const LONGEST: u64 = 4096;

/// A password that is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The file cannot be read.
    #[error("{file}: cannot read the password: {cause}")]
    Read {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Others can read it.
    #[error("{file}: others can read this password file (mode {mode:03o}); run: chmod 600 {file}")]
    Exposed {
        /// Which file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is no password.
    #[error("{file}: {what}")]
    NoPassword {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Nobody to ask.
    #[error(
        "no password and no terminal to ask on: log in once with `muster login` on a terminal, or use --password-file, MUSTER_PASSWORD_FILE or `password-file` in the configuration (a file of mode 0600), or MUSTER_PASSWORD"
    )]
    NoTerminal,
    /// The prompt failed, or nothing was typed.
    #[error("no password was typed{}", .0.as_ref().map_or(String::new(), |e| format!(": {e}")))]
    Prompt(Option<io::Error>),
    /// A new password that cannot be one.
    #[error("{place}: {why}")]
    New {
        /// Where it came from.
        place: String,
        /// What is wrong with it.
        why: BadPassword,
    },
    /// Typed twice, differently.
    #[error("the two passwords differ; nothing was sent")]
    Differ,
    /// Standard input gives nothing.
    #[error("standard input: cannot read the new password: {0}")]
    Piped(io::Error),
    /// Nobody to ask for a new one.
    #[error(
        "no new password and no terminal to ask on: use --new-password-file (a file of mode 0600), --new-password-stdin or --hash; --password-file is the password that you log in with yourself"
    )]
    NoTerminalForNew,
    /// `--hash` is something else. Not quoted: it may be a password.
    #[error("--hash: {0}; give what `musterd passwd` prints")]
    NoHash(String),
}

/// Where the new password of a user comes from: asked for twice unless told.
#[derive(Debug, Args)]
#[command(next_help_heading = "New password (without one of these it is asked for, twice)")]
#[group(multiple = false)]
pub(crate) struct NewPassword {
    /// From this file, of mode 0600 and one line
    #[arg(long, value_name = "FILE")]
    new_password_file: Option<PathBuf>,
    /// From the first line of standard input
    #[arg(long)]
    new_password_stdin: bool,
    /// Its hash, as `musterd passwd` prints it. Other users of this machine can see it while the command runs: never the password itself
    #[arg(long, value_name = "PHC")]
    hash: Option<String>,
}

impl NewPassword {
    /// The hash of the new password: the only thing of it that leaves this machine.
    pub(crate) fn hash(&self, user: &str, surface: &mut Surface) -> Result<String, PasswordError> {
        if let Some(hash) = &self.hash {
            return passwd::check_hash(hash).map(|()| hash.clone()).map_err(PasswordError::NoHash);
        }
        let (place, password) = if let Some(file) = &self.new_password_file {
            (file.display().to_string(), from_file(file)?)
        } else if self.new_password_stdin {
            ("standard input".to_owned(), surface.secret(Secret::Piped).map_err(PasswordError::Piped)?)
        } else if surface.asks {
            ("the terminal".to_owned(), typed_twice(user, surface)?)
        } else {
            return Err(PasswordError::NoTerminalForNew);
        };
        passwd::hash(&password, rand::random()).map_err(|why| PasswordError::New { place, why })
    }
}

fn typed_twice(user: &str, surface: &mut Surface) -> Result<SecretString, PasswordError> {
    let mut typed = |prompt: &str| surface.secret(Secret::Typed(prompt)).map_err(|e| PasswordError::Prompt(Some(e)));
    let first = typed(&format!("New password of {user}: "))?;
    passwd::check(first.expose_secret()).map_err(|why| PasswordError::New { place: "the terminal".into(), why })?;
    let second = typed("The same again: ")?;
    if first.expose_secret() == second.expose_secret() { Ok(first) } else { Err(PasswordError::Differ) }
}

/// The first line, without its end. One that is too long for a password comes too long, but not whole.
pub(crate) fn first_line(from: impl Read) -> io::Result<SecretString> {
    // The whole capacity at once: growing would leave copies of the password behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_PASSWORD + 3));
    from.take(MAX_PASSWORD as u64 + 3).read_to_end(&mut bytes)?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = std::str::from_utf8(line).map_err(|_| io::Error::other("it is not UTF-8"))?;
    Ok(SecretString::from(text))
}

/// Fetches the password. `user` is for the prompt; `asks`: whether somebody can be asked.
pub(crate) fn fetch(source: &PasswordSource, user: &str, asks: bool) -> Result<SecretString, PasswordError> {
    match source {
        PasswordSource::Given(password) => Ok(password.clone()),
        PasswordSource::File(file) => from_file(file),
        PasswordSource::Prompt if !asks => Err(PasswordError::NoTerminal),
        PasswordSource::Prompt => {
            let typed = rpassword::prompt_password(format!("Password of {}: ", super::text::clean(user)));
            match typed {
                Ok(password) if !password.is_empty() => Ok(password.into()),
                Ok(_) => Err(PasswordError::Prompt(None)),
                Err(error) => Err(PasswordError::Prompt(Some(error))),
            }
        }
    }
}

fn from_file(path: &Path) -> Result<SecretString, PasswordError> {
    let failed = |cause| PasswordError::Read { file: path.to_owned(), cause };
    let file = File::open(path).map_err(failed)?;
    // Of the open file, so that nobody can exchange it between the check and the reading.
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(PasswordError::Exposed { file: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(String::with_capacity(LONGEST as usize + 1));
    file.take(LONGEST + 1).read_to_string(&mut text).map_err(failed)?;
    let no_password = |what| PasswordError::NoPassword { file: path.to_owned(), what };
    if text.len() as u64 > LONGEST {
        return Err(no_password("too long for a password; the file must hold the password and nothing else"));
    }
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() {
        return Err(no_password("empty; the file must hold the password"));
    }
    if password.contains(['\n', '\r', '\0']) {
        return Err(no_password("more than one line; the file must hold the password and nothing else"));
    }
    Ok(password.to_owned().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;
    use std::fs::Permissions;

    #[test]
    fn a_file_must_be_private_and_hold_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        let read = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            from_file(&path).map(|p| p.expose_secret().to_owned()).map_err(|e| e.to_string())
        };
        assert_eq!(read("top secret\r\n", 0o600).as_deref(), Ok("top secret"));
        assert_eq!(read("s\n", 0o400).as_deref(), Ok("s"));
        for mode in [0o644, 0o640, 0o604, 0o660] {
            let error = read("secret", mode).unwrap_err();
            assert!(error.contains("chmod 600") && !error.contains("secret"), "{error}");
        }
        assert!(read("\n", 0o600).unwrap_err().contains("empty"));
        assert!(read("a\nb\n", 0o600).unwrap_err().contains("more than one line"));
        assert!(read(&"x".repeat(5000), 0o600).unwrap_err().contains("too long"));
        assert!(from_file(&folder.path().join("none")).unwrap_err().to_string().contains("none: cannot read"));
    }

    #[test]
    fn a_line_is_read_whole_or_too_long() {
        let read = |bytes: &[u8]| first_line(bytes).map(|password| password.expose_secret().to_owned());
        assert_eq!(read(b"pass word\r\nrest").unwrap(), "pass word");
        assert_eq!(read(b"").unwrap(), "");
        assert_eq!(read(&[b'a'; MAX_PASSWORD]).unwrap().len(), MAX_PASSWORD);
        assert!(read(&[b'a'; 5000]).unwrap().len() > MAX_PASSWORD);
        assert!(read(b"secret\xff").unwrap_err().to_string().contains("UTF-8"));
    }

    #[test]
    fn without_a_terminal_nobody_is_asked() {
        let error = fetch(&PasswordSource::Prompt, "alice", false).unwrap_err().to_string();
        assert!(error.contains("--password-file"), "{error}");
    }
}
