//! Which nodes does the operator mean? The options -w -F -C -W --all as one filter, parsed here before anything is sent.

use super::Failure;
use crate::client::Target;
use clap::Args;
use muster_protocol::filter::{Filter, FilterError, shorthand};

/// The options that say which nodes are meant. All of them together must hold.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Target")]
pub(crate) struct TargetOptions {
    /// A filter over facts and classes, such as 'datacenter=a and class ~ web'
    #[arg(short = 'w', long = "where", value_name = "EXPR")]
    pub(crate) expressions: Vec<String>,
    /// One fact: datacenter=a, 'cpu.count>=8', os=/deb/
    #[arg(short = 'F', long = "fact", value_name = "FACT")]
    pub(crate) fact_filters: Vec<String>,
    /// One class: webserver, /web/
    #[arg(short = 'C', long = "class", value_name = "CLASS")]
    pub(crate) classes: Vec<String>,
    /// Facts and classes separated by blanks: 'datacenter=a /web/'
    #[arg(short = 'W', long = "with", value_name = "WORDS")]
    pub(crate) with: Vec<String>,
    /// Every node; needs the right to it
    #[arg(long)]
    pub(crate) all: bool,
}

/// What is said where a target is missing; the broker would say the same.
const NO_TARGET: &str =
    "target-required: no target is given. Say which nodes with -w, -F, -C or -W, or --all if every node is meant.";

impl TargetOptions {
    /// The target; none at all is refused.
    pub(crate) fn resolve(&self) -> Result<Target, Failure> {
        match (self.filter()?, self.all) {
            (Some(_), true) => Err(Failure::Usage("--all and a filter contradict each other: give one of them".into())),
            (Some(filter), false) => Ok(Target::Filter(filter.to_string())),
            (None, true) => Ok(Target::All),
            (None, false) => Err(Failure::Refused(NO_TARGET.into())),
        }
    }

    /// All filters as one; `None` if there are none.
    pub(crate) fn filter(&self) -> Result<Option<Filter>, Failure> {
        let mut filters = Vec::new();
        for (option, texts, parse) in [
            ("-w", &self.expressions, Filter::parse as fn(&str) -> Result<Filter, FilterError>),
            ("-F", &self.fact_filters, shorthand::fact),
            ("-C", &self.classes, shorthand::class),
            ("-W", &self.with, shorthand::with),
        ] {
            for text in texts {
                let filter = parse(text)
                    .map_err(|error| Failure::Usage(format!("{option} cannot be read:\n{}", error.render(text))))?;
                filters.push(filter);
            }
        }
        shorthand::all(filters).map_err(|error| Failure::Usage(format!("the filters together: {}", error.message)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(expressions: &[&str], facts: &[&str], classes: &[&str], with: &[&str]) -> TargetOptions {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        TargetOptions {
            expressions: own(expressions),
            fact_filters: own(facts),
            classes: own(classes),
            with: own(with),
            all: false,
        }
    }

    #[test]
    fn all_options_become_one_filter() {
        let target = options(&["a=1 or b=2"], &["cpu.count>=8"], &["web"], &["x=y /db/"]).resolve();
        let Ok(Target::Filter(text)) = target else { panic!("a filter") };
        let expected = Filter::parse("(a=1 or b=2) and cpu.count>=8 and class=web and x=y and class~db").unwrap();
        assert_eq!(text, expected.to_string());
    }

    #[test]
    fn a_mistake_is_shown_with_a_caret() {
        let Err(Failure::Usage(text)) = options(&["datacenter=a andd class=web"], &[], &[], &[]).resolve() else {
            panic!("usage")
        };
        assert!(
            text.starts_with("-w cannot be read:\ndatacenter") && text.contains("andd") && text.contains('^'),
            "{text}"
        );
        let Err(Failure::Usage(text)) = options(&[], &["datacenter"], &[], &[]).resolve() else { panic!("usage") };
        assert!(text.starts_with("-F cannot be read:\n"), "{text}");
    }

    #[test]
    fn nothing_is_refused_and_all_stands_alone() {
        assert!(matches!(TargetOptions::default().resolve(), Err(Failure::Refused(text)) if text.contains("--all")));
        let all = TargetOptions { all: true, ..TargetOptions::default() };
        assert!(matches!(all.resolve(), Ok(Target::All)));
        let both = TargetOptions { all: true, ..options(&["a=1"], &[], &[], &[]) };
        assert!(matches!(both.resolve(), Err(Failure::Usage(_))));
    }
}
