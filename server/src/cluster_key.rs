//! What do the brokers of a cluster share? The secret of `cluster.key`, which is never used itself: each use has a key derived from it.

use hkdf::Hkdf;
use muster_protocol::tls::{self, TlsError};
use sha2::Sha256;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Hexadecimal digits of the file; what follows them is white space.
const DIGITS: usize = 64;

/// Why a cluster key is not taken. Quotes nothing of the file.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It is not there, or others than its owner can read it.
    #[error(transparent)]
    File(#[from] TlsError),
    /// It cannot be read.
    #[error("{file}: cannot read the cluster key: {cause}; the broker's user must be able to read it", file = file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// It holds something else.
    #[error(
        "{file}: not a cluster key (64 lowercase hexadecimal digits); copy it from another broker of the cluster, or make a new one for all of them: `openssl rand -hex 32`",
        file = file.display()
    )]
    Corrupt {
        /// Which file.
        file: PathBuf,
    },
}

/// The 32 secret bytes. `Debug` shows nothing of them.
pub struct ClusterKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(redacted)")
    }
}

impl ClusterKey {
    /// A key of these bytes.
    pub fn new(secret: [u8; 32]) -> ClusterKey {
        ClusterKey(Zeroizing::new(secret))
    }

    /// Reads a key file, which must be its owner's alone.
    pub fn load(file: &Path) -> Result<ClusterKey, KeyError> {
        tls::refuse_exposed(file)?;
        let failed = |cause| KeyError::Read { file: file.to_owned(), cause };
        // The whole capacity at once: growing would leave copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(2 * DIGITS));
        let most = 2 * DIGITS as u64;
        File::open(file).map_err(failed)?.take(most).read_to_end(&mut bytes).map_err(failed)?;
        let corrupt = || KeyError::Corrupt { file: file.to_owned() };
        let digits = bytes.trim_ascii_end();
        if digits.len() != DIGITS {
            return Err(corrupt());
        }
        let mut secret = Zeroizing::new([0; DIGITS / 2]);
        data_encoding::HEXLOWER.decode_mut(digits, &mut *secret).map_err(|_| corrupt())?;
        Ok(ClusterKey(secret))
    }

    /// The key for one use (HKDF-SHA256 without salt): other labels give keys that say nothing of each other or of the secret.
    pub fn derive(&self, label: &str) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        // Fails only for more than 8,160 bytes.
        let _ = Hkdf::<Sha256>::new(None, &*self.0).expand(label.as_bytes(), &mut *key);
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_file_holds_a_key_or_is_named_with_its_cure() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cluster.key");
        let load = |text: &str, mode: u32| {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            ClusterKey::load(&file).map(|key| *key.derive("x")).map_err(|error| error.to_string())
        };
        let hex = "0123456789abcdef".repeat(4);
        let key = load(&format!("{hex}\n"), 0o600).unwrap();
        assert_eq!(load(&hex, 0o400).unwrap(), key);
        assert_ne!(load(&"0".repeat(64), 0o600).unwrap(), key);
        assert!(load(&hex, 0o640).unwrap_err().contains("chmod"));
        for corrupt in
            ["", "\n", &hex[1..], &format!("{hex}0"), &hex.to_uppercase(), &format!("{hex}\n{hex}\n"), "päss"]
        {
            let error = load(corrupt, 0o600).unwrap_err();
            assert!(error.contains("cluster.key: not a cluster key") && error.contains("openssl"), "{error}");
            assert!(corrupt.trim().is_empty() || !error.contains(corrupt.trim()), "{error}");
        }
        assert!(ClusterKey::load(&folder.path().join("none")).unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn each_use_has_its_own_key_and_debug_shows_none() {
        let key = ClusterKey::new([0x61; 32]);
        assert_ne!(*key.derive("a"), *key.derive("b"));
        assert_ne!(*key.derive("a"), [0x61; 32]);
        assert_eq!(*key.derive("a"), *ClusterKey::new([0x61; 32]).derive("a"));
        assert_eq!(format!("{key:?}"), "ClusterKey(redacted)");
    }
}
