//! `muster completion`: how does a shell complete our commands and options?

use super::{Cli, Context, Failure};
use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell;

/// `completion`.
#[derive(Debug, Args)]
pub(crate) struct Completion {
    /// For which shell
    shell: Known,
}

/// The shells that we test.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Known {
    Bash,
    Zsh,
    Fish,
}

impl Completion {
    pub(crate) fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        let shell = match self.shell {
            Known::Bash => Shell::Bash,
            Known::Zsh => Shell::Zsh,
            Known::Fish => Shell::Fish,
        };
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "muster", &mut script);
        context.surface.out(&String::from_utf8_lossy(&script))?;
        Ok(0)
    }
}
