//! How far is a request? A bar on stderr that knows its total; nothing where stderr is no terminal.

use super::output;
use crate::replies::Replies;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;
use std::time::Duration;

/// The bar, or its absence.
pub(crate) struct Progress {
    shown: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new(shown: bool) -> Progress {
        Progress { shown, bar: None }
    }

    /// Brings the bar up to the accounts. `planned`: how many nodes the whole command is for, where that is known beforehand.
    pub(crate) fn update(&mut self, accounts: &[&[Replies]], planned: Option<u64>) {
        if !self.shown {
            return;
        }
        let all = || accounts.iter().copied().flatten();
        let Some(total) = planned.or_else(|| all().map(Replies::total).sum()) else { return };
        let mut states = BTreeMap::new();
        for (state, count) in all().flat_map(Replies::states) {
            *states.entry(*state).or_default() += count;
        }
        let bar = self.bar.get_or_insert_with(new_bar);
        bar.set_length(total);
        bar.set_position(states.values().sum());
        bar.set_message(output::states(&states));
    }

    /// Runs `write` with the bar out of the way.
    pub(crate) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Takes the bar away.
    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    // The template is constant; were it wrong, indicatif's own would do.
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} nodes  {elapsed}  {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
