//! How is a part of the policy listed? As a table and a count for people, as one document for programs; an empty one ends with 1.

use crate::cli::output::Table;
use crate::cli::{Context, Failure, text};
use crate::summary::{EXIT_NONE, EXIT_OK};
use clap::Args;
use muster_protocol::policy::{Generation, Part, ShowAnswer};
use serde::Serialize;

/// What every list takes.
#[derive(Debug, Args)]
pub(crate) struct Output {
    /// Print one JSON document
    #[arg(long, help_heading = "Output")]
    pub(super) json: bool,
}

/// Members of a part of the policy.
pub(super) struct List<'a, T> {
    /// One of them, several of them, and their key in JSON: `entry`, `entries`, `acl`.
    pub(super) words: [&'a str; 3],
    /// Which one was asked for.
    pub(super) name: Option<&'a str>,
    /// Of which generation.
    pub(super) generation: Option<Generation>,
    /// These.
    pub(super) members: &'a [T],
}

/// A part of the policy, or one member of it.
pub(super) async fn fetch(context: &mut Context, what: Part, name: Option<&str>) -> Result<ShowAnswer, Failure> {
    let client = context.client().await?;
    Ok(client.show_all(what, name.map(str::to_owned)).await?)
}

impl<T: Serialize> List<'_, T> {
    /// Prints them in rows of these columns. Cells are cleaned here.
    pub(super) fn table<const N: usize>(
        &self,
        context: &mut Context,
        json: bool,
        header: [&str; N],
        row: impl Fn(&T) -> [String; N],
    ) -> Result<u8, Failure> {
        self.print(context, json, || {
            let mut table = Table::new(header.map(str::to_owned));
            self.members.iter().for_each(|member| table.row(row(member).map(|cell| text::clean(&cell))));
            table.to_string()
        })
    }

    /// Prints them as these words.
    pub(super) fn print(
        &self,
        context: &mut Context,
        json: bool,
        words: impl FnOnce() -> String,
    ) -> Result<u8, Failure> {
        let surface = &mut context.surface;
        let List { words: [one, several, key], name, generation, members } = self;
        if json {
            let mut document = serde_json::Map::new();
            if let Some(generation) = generation {
                document.insert("generation".into(), generation.to_string().into());
            }
            document.insert((*key).to_owned(), serde_json::to_value(members).unwrap_or_default());
            surface.out(&(text::pretty_json(&document) + "\n"))?;
        } else if !members.is_empty() {
            surface.out(&words())?;
        }
        let of = generation.map_or_else(String::new, |generation| format!(" (generation {generation})"));
        match (members.len(), name) {
            (0, Some(name)) => surface.note(&format!("No {one} {name}{of}.")),
            (0, None) => surface.note(&format!("No {several}{of}.")),
            (_, Some(_)) => {}
            (1, None) => surface.note(&format!("1 {one}{of}.")),
            (count, None) => surface.note(&format!("{count} {several}{of}.")),
        }
        Ok(if members.is_empty() { EXIT_NONE } else { EXIT_OK })
    }
}

/// Names in one cell; `-` for none.
pub(super) fn joined(names: &[String]) -> String {
    if names.is_empty() { "-".into() } else { names.join(", ") }
}

/// A value in a cell; `-` for none.
pub(super) fn or_dash(value: Option<&impl ToString>) -> String {
    value.map_or_else(|| "-".into(), ToString::to_string)
}

/// What is known of one thing, a line each; cleaned here.
pub(super) fn page<const N: usize>(lines: [(&str, String); N]) -> String {
    let width = lines.iter().map(|(what, _)| what.len()).max().unwrap_or_default() + 2;
    let line = |(what, value): &(&str, String)| format!("{what:width$}{}", text::clean(value));
    lines.iter().map(|pair| line(pair).trim_end().to_owned() + "\n").collect()
}
