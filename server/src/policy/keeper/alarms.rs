//! What about the policy should somebody look at? Said until it is looked after.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The alarms of the keeper, shared with whoever shows them.
///
/// Of a policy.toml that is not taken, or cannot be written, and of an edition that is not on the disk, until that has changed. Of a text that was set aside as long as it lies
/// there, also after a restart. Of something that was wrong at the start until the next edition.
#[derive(Debug, Clone, Default)]
pub struct Alarms(Arc<Mutex<Board>>);

#[derive(Debug, Default)]
struct Board {
    start: Vec<String>,
    refused: Option<String>,
    unwritten: Option<String>,
    unsaved: Option<String>,
    aside: Vec<PathBuf>,
}

impl Alarms {
    /// All of them, one line each: what is wrong, where, and what to do.
    pub fn list(&self) -> Vec<String> {
        let board = self.board();
        let aside = board.aside.iter().map(|path| aside(path));
        let now = board.refused.iter().chain(&board.unwritten).chain(&board.unsaved);
        board.start.iter().chain(now).cloned().chain(aside).collect()
    }

    pub(super) fn at_start(&self, alarms: Vec<String>) {
        self.board().start = alarms;
    }

    /// What stands in policy.toml is not taken, and why; `None`: it is.
    pub(super) fn refused(&self, why: Option<String>) {
        self.board().refused = why;
    }

    /// The policy in force cannot be written into policy.toml, and why; `None`: it stands there.
    pub(super) fn unwritten(&self, why: Option<String>) {
        self.board().unwritten = why;
    }

    /// The policy in force is not on the disk, and why; `None`: it is.
    pub(super) fn unsaved(&self, why: Option<String>) {
        self.board().unsaved = why;
    }

    /// These texts were set aside.
    pub(super) fn aside(&self, texts: Vec<PathBuf>) {
        self.board().aside = texts;
    }

    /// Those that are still there.
    pub(super) fn look_aside(&self) {
        self.board().aside.retain(|text| text.exists());
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn aside(text: &Path) -> String {
    format!(
        "{}: a policy that is not in force was set aside here; repeat what you miss of it as an edit, then remove the file",
        text.display()
    )
}
