//! `muster explain`: why does this node match this filter, or not?

use super::target::TargetOptions;
use super::{Context, Failure, text};
use crate::client::ClientError;
use crate::events::Misunderstood;
use crate::summary::{EXIT_NONE, EXIT_OK};
use clap::Args;
use muster_protocol::message::NodeId;
use muster_protocol::request::NodeQuery;
use serde::Deserialize;

/// `explain`.
#[derive(Debug, Args)]
pub(crate) struct Explain {
    #[command(flatten)]
    target: TargetOptions,
    /// The node, as `muster find` prints it
    #[arg(value_name = "NODE-ID", value_parser = NodeId::parse)]
    node: NodeId,
    /// Print one JSON document
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// `filter::Explanation`, as it travels.
#[derive(Debug, Deserialize)]
struct Explanation {
    outcome: String,
    text: String,
    #[serde(default)]
    because: String,
    #[serde(default)]
    parts: Vec<Explanation>,
}

impl Explain {
    pub(crate) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        let filter = match (self.target.filter()?, self.target.all) {
            (Some(filter), false) => filter.to_string(),
            _ => return Err(Failure::Usage("explain needs a filter: -w, -F, -C or -W".into())),
        };
        let client = context.client().await?;
        let mut answer = client.node(&NodeQuery { node: self.node, explain: Some(filter) }).await?;
        let Some(value) = answer.explanation.take() else {
            return Err(ClientError::from(Misunderstood("an answer without the explanation".into())).into());
        };
        let explanation: Explanation = serde_json::from_value(value.clone())
            .map_err(|error| ClientError::from(Misunderstood(format!("the explanation: {error}"))))?;
        let matches = explanation.outcome == "yes";
        if self.json {
            let document = serde_json::json!({"node": answer.id, "matches": matches, "explanation": value});
            context.surface.out(&(text::pretty_json(&document) + "\n"))?;
        } else {
            let mut out = String::new();
            explanation.tree(0, &mut out);
            context.surface.out(&out)?;
            let verdict = match explanation.outcome.as_str() {
                "yes" => "matches",
                "no" => "does not match",
                _ => "may match: not all is known",
            };
            context.surface.note(&format!("{} {verdict}.", output_name(&answer)));
        }
        Ok(if matches { EXIT_OK } else { EXIT_NONE })
    }
}

fn output_name(answer: &muster_protocol::request::NodeAnswer) -> String {
    match answer.display.is_empty() {
        true => answer.id.to_string(),
        false => format!("{} ({})", answer.id, text::facts(&answer.display)),
    }
}

impl Explanation {
    fn tree(&self, depth: usize, out: &mut String) {
        let because =
            if self.because.is_empty() { String::new() } else { format!("  ({})", text::clean(&self.because)) };
        let outcome = text::clean(&self.outcome);
        out.push_str(&format!("{:indent$}{outcome:<8}{}{because}\n", "", text::clean(&self.text), indent = 2 * depth));
        self.parts.iter().for_each(|part| part.tree(depth + 1, out));
    }
}
