//! How is a file replaced so that a reader, or a power cut, sees the old or the new one and never a part?

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Whether the bytes must be on the disk before the call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durable {
    /// Survives a power cut.
    Yes,
    /// Whole or absent for readers; a power cut may bring the old file back.
    No,
}

/// Replaces `file` by `bytes` with mode 0600. Only one writer of a file at a time.
pub(crate) fn replace(file: &Path, bytes: &[u8], durable: Durable) -> io::Result<()> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = file.with_file_name(name);
    // One left over from a crash could be anybody's hard link: never write into it.
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    out.write_all(bytes)?;
    if durable == Durable::Yes {
        out.sync_all()?;
    }
    fs::rename(&new, file)?;
    if durable == Durable::Yes {
        sync_folder(file)?;
    }
    Ok(())
}

/// Makes the name of `file` survive a power cut.
pub(crate) fn sync_folder(file: &Path) -> io::Result<()> {
    match file.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
