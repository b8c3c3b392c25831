//! How does the password get here? From a file that nobody else can read, the environment or a prompt; never an argument.

use crate::config::PasswordSource;
use secrecy::SecretString;
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
    fn without_a_terminal_nobody_is_asked() {
        let error = fetch(&PasswordSource::Prompt, "alice", false).unwrap_err().to_string();
        assert!(error.contains("--password-file"), "{error}");
    }
}
