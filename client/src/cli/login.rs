//! `muster login`, `muster logout`: how does an operator type the password once and not at each command?

use super::{Context, Failure, text};
use crate::config::PasswordSource;
use crate::summary::EXIT_OK;
use clap::Args;

/// `login`.
#[derive(Debug, Args)]
pub(crate) struct Login {}

/// `logout`.
#[derive(Debug, Args)]
pub(crate) struct Logout {}

impl Login {
    pub(crate) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        let settings = context.settings()?.clone();
        // Before a password is typed: there must be a place for what it is typed for.
        let file = settings.token_file()?;
        let client = context.connect_by_password().await?;
        let (broker, user) = (text::clean(client.broker()), text::clean(&settings.user));
        let Some(token) = client.token() else {
            return Err(Failure::Refused(format!(
                "{broker} gives no tokens (`token-life` is 0 there): commands go on asking for the password"
            )));
        };
        file.keep(token)?;
        let path = text::clean(&file.path().display().to_string());
        let surface = &mut context.surface;
        surface.note(&format!(
            "{user} is logged in at {broker}. The token is kept in {path}; `muster logout` removes it."
        ));
        if !matches!(settings.password, PasswordSource::Prompt) {
            surface.note(
                "Where a password is given (`password-file`, MUSTER_PASSWORD), commands use that and not the token: remove it to use the token.",
            );
        }
        Ok(EXIT_OK)
    }
}

impl Logout {
    pub(crate) fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        let settings = context.settings()?.clone();
        let was_there = settings.token_file()?.remove()?;
        let user = text::clean(&settings.user);
        context.surface.note(&if was_there {
            format!(
                "The token of {user} is removed from this machine. If somebody may have a copy, ask an admin to revoke the tokens of {user} (`muster admin user revoke-tokens`)."
            )
        } else {
            format!("No token of {user} was kept.")
        });
        Ok(EXIT_OK)
    }
}
