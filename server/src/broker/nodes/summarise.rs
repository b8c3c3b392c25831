//! What do other brokers need to know of the facts of our nodes, so that they need not ask where nothing can match?

use super::column::Column;
use super::index::{CLASSES, Index, MODULES, SEPARATOR};
use super::registry::Nodes;
use crate::broker::mesh::summary::{path_bytes, words_bytes};
use muster_protocol::facts::{Path, Scalar};
use muster_protocol::link::{PathSummary, Summary, Words};
use muster_protocol::message::BrokerName;
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// How much a summary tells. What does not fit is said to be unknown.
#[derive(Debug, Clone, Copy)]
pub(in crate::broker) struct Bounds {
    /// Values of a path.
    pub(in crate::broker) values: usize,
    /// Bytes of a text that is listed.
    pub(in crate::broker) text: usize,
    /// Classes, and modules.
    pub(in crate::broker) words: usize,
    /// Paths.
    pub(in crate::broker) paths: usize,
    /// Bytes in all, estimated.
    pub(in crate::broker) bytes: usize,
}

const BOUNDS: Bounds = Bounds { values: 64, text: 256, words: 512, paths: 2048, bytes: 256 * 1024 };

impl Nodes {
    /// The registered nodes in short: a whole. Instance and sequence are for the caller to fill in.
    pub fn summarise(&self, origin: &BrokerName) -> Summary {
        let restless = self.registering() > 0 || self.gone() > 0;
        Summary { restless, ..self.index().summarise(origin) }
    }
}

impl Index {
    /// The indexed rows in short: a whole. Costs as much as its paths and those of their values that are listed.
    pub fn summarise(&self, origin: &BrokerName) -> Summary {
        self.summarise_within(origin, &BOUNDS)
    }

    pub(in crate::broker) fn summarise_within(&self, origin: &BrokerName, bounds: &Bounds) -> Summary {
        let classes = words(&self.columns[CLASSES as usize], bounds);
        let modules = words(&self.columns[MODULES as usize], bounds);
        let mut bytes = words_bytes(&classes) + words_bytes(&modules);
        let (chosen, mut others) = self.choose(bounds.paths);
        let mut paths = BTreeMap::new();
        for (key, number) in chosen {
            // What no path can name, no filter can ask for.
            let Some(path) = Path::from_segments(key.split(SEPARATOR)) else { continue };
            let text = path.to_string();
            let known = self.path_summary(&self.columns[number as usize], bounds);
            let more = path_bytes(&text, &known);
            if bytes + more > bounds.bytes {
                others = true;
                continue;
            }
            bytes += more;
            paths.insert(text, Some(known));
        }
        Summary {
            origin: origin.clone(),
            instance: 0,
            sequence: 0,
            base: None,
            nodes: self.rows.len(),
            restless: false,
            paths,
            others,
            classes: Some(classes),
            modules: Some(modules),
        }
    }

    /// The paths worth telling, best first, and whether there are others. Those that most nodes have come first, in rough steps so
    /// that a node more or less changes nothing, then those near the top: what filters of a whole mesh ask for.
    fn choose(&self, most: usize) -> (Vec<(&str, u32)>, bool) {
        let mut all: Vec<(&str, u32)> = self.paths.iter().map(|(key, number)| (&**key, *number)).collect();
        let rank = |(key, number): &(&str, u32)| {
            let rows = self.columns[*number as usize].present.len();
            (Reverse(rows.max(1).ilog2()), key.matches(SEPARATOR).count())
        };
        let order = |a: &(&str, u32), b: &(&str, u32)| rank(a).cmp(&rank(b)).then_with(|| a.0.cmp(b.0));
        let too_many = all.len() > most;
        if too_many {
            all.select_nth_unstable_by(most, order);
            all.truncate(most);
        }
        all.sort_unstable_by(order);
        (all, too_many)
    }

    fn path_summary(&self, column: &Column, bounds: &Bounds) -> PathSummary {
        let values = listed(column, bounds);
        let numbers = if values.is_none() { column.number_span() } else { None };
        let (minimum, maximum) = numbers.map(|(least, greatest)| (json(least), json(greatest))).unwrap_or_default();
        PathSummary {
            texts: values.is_none() && column.has_other_than_numbers(),
            values,
            minimum,
            maximum,
            lacking: column.present.len() < self.rows.len(),
            bare: column.bare > 0,
        }
    }
}

/// The values in order; `None` if there are too many, or one is too long.
fn listed(column: &Column, bounds: &Bounds) -> Option<Vec<Value>> {
    if column.distinct() > bounds.values {
        return None;
    }
    let short = |value: &&Scalar| !matches!(value, Scalar::Text(text) if text.len() > bounds.text);
    column.in_order().map(|value| Some(value).filter(short).and_then(json)).collect()
}

fn json(value: &Scalar) -> Option<Value> {
    serde_json::to_value(value).ok()
}

fn words(column: &Column, bounds: &Bounds) -> Words {
    if column.distinct() > bounds.words {
        return Words::Many;
    }
    let short = column.in_order().map(|word| match word {
        Scalar::Text(text) if text.len() <= bounds.text => Some(text.to_string()),
        _ => None,
    });
    short.collect::<Option<_>>().map_or(Words::Many, Words::These)
}
