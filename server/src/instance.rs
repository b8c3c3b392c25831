//! Which life of this broker is this? A counter in the state directory, raised at each start, so that neighbours can tell lives apart.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The counter cannot be read or raised.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// The disk.
    #[error("{file}: cannot raise the boot counter: {cause}; give the broker's user the rights, and room on the disk", file = file.display())]
    Io {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// It holds something else.
    #[error(
        "{file}: not a boot counter; write into it one number that is higher than any before, such as the time in seconds (`date +%s`)",
        file = file.display()
    )]
    Corrupt {
        /// Which file.
        file: PathBuf,
    },
}

/// The number of this life, on disk before it is returned: a life that did not remember it could be taken for the one before.
pub fn next(state_dir: &Path) -> Result<u64, InstanceError> {
    let file = state_dir.join("instance");
    let failed = |cause| InstanceError::Io { file: file.clone(), cause };
    let corrupt = || InstanceError::Corrupt { file: file.clone() };
    let before = match fs::read_to_string(&file) {
        Ok(text) => text.trim().parse::<u64>().map_err(|_| corrupt())?,
        Err(error) if error.kind() == ErrorKind::NotFound => 0,
        Err(error) if error.kind() == ErrorKind::InvalidData => return Err(corrupt()),
        Err(cause) => return Err(failed(cause)),
    };
    // A number that nothing could follow would be the last.
    let instance = before.checked_add(1).filter(|next| *next < u64::MAX / 2).ok_or_else(corrupt)?;
    write(&file, instance).map_err(failed)?;
    Ok(instance)
}

/// Whole or not at all, also when the power fails.
fn write(file: &Path, instance: u64) -> io::Result<()> {
    let new = file.with_extension("new");
    let mut written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    written.write_all(format!("{instance}\n").as_bytes())?;
    written.sync_all()?;
    fs::rename(&new, file)?;
    match file.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_life_has_a_higher_number() {
        let state = tempfile::tempdir().unwrap();
        let lives: Vec<u64> = (0..3).map(|_| next(state.path()).unwrap()).collect();
        assert_eq!(lives, [1, 2, 3]);
        fs::write(state.path().join("instance"), "1000").unwrap();
        assert_eq!(next(state.path()).unwrap(), 1001);
    }

    #[test]
    fn a_corrupt_counter_is_named_with_its_cure_and_stays() {
        let state = tempfile::tempdir().unwrap();
        let file = state.path().join("instance");
        for corrupt in [&b""[..], b"x", b"-1", b"1 2", b"\xff\xfe", b"18446744073709551615"] {
            fs::write(&file, corrupt).unwrap();
            let error = next(state.path()).unwrap_err().to_string();
            assert!(error.contains("instance: not a boot counter") && error.contains("date +%s"), "{error}");
            assert_eq!(fs::read(&file).unwrap(), corrupt);
        }
    }

    #[test]
    fn what_a_power_failure_left_behind_does_no_harm() {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join("instance"), "7\n").unwrap();
        fs::write(state.path().join("instance.new"), "").unwrap();
        assert_eq!(next(state.path()).unwrap(), 8);
    }

    #[test]
    fn no_place_for_it_is_an_error() {
        let error = next(Path::new("/nonexistent")).unwrap_err().to_string();
        assert!(error.starts_with("/nonexistent/instance: cannot raise the boot counter"), "{error}");
    }
}
