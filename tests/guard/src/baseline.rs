//! What did each path need when that was last accepted, and which need more now?

use std::collections::BTreeMap;
use std::fmt;

/// By how many percent a path may change.
const TOLERANCE: u64 = 10;

/// How what is seen is accepted.
pub(crate) const UPDATE: &str = "tests/guard/run --update";

/// Counts, and what they were taken with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Compiler, kind of machine, counter.
    pub(crate) taken: Taken,
    /// Instructions by path.
    pub(crate) paths: BTreeMap<String, u64>,
}

/// What counts were taken with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// As `rustc --version` says.
    pub(crate) compiler: String,
    /// Architecture and system.
    pub(crate) machine: String,
    /// As `valgrind --version` says.
    pub(crate) counter: String,
}

/// What a path needed, and what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    name: String,
    stored: u64,
    seen: u64,
}

/// How far a path has moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Within,
    Dearer,
    Cheaper,
}

/// Stored beside seen.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Comparison {
    /// Paths that are in both.
    changes: Vec<Change>,
    /// Paths that are counted and not stored.
    not_stored: Vec<String>,
    /// Paths that are stored and not counted.
    not_counted: Vec<String>,
    /// What is remarkable and no failure.
    notes: Vec<String>,
    /// Why nothing can be compared.
    incomparable: Option<String>,
}

impl Counts {
    /// Reads a baseline; an error names its line.
    pub(crate) fn parse(text: &str) -> Result<Counts, String> {
        let mut counts = Counts::default();
        for (at, line) in text.lines().enumerate() {
            let wrong = |what: &str| format!("line {}: {what}: {line:?}", at + 1);
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some((name, value)) = line.split_once(": ") {
                let taken = &mut counts.taken;
                let field = match name {
                    "compiler" => &mut taken.compiler,
                    "machine" => &mut taken.machine,
                    "counter" => &mut taken.counter,
                    _ => return Err(wrong("expected compiler, machine or counter")),
                };
                *field = value.trim().to_owned();
                continue;
            }
            let mut words = line.split_whitespace();
            let (Some(name), Some(count), None) = (words.next(), words.next(), words.next()) else {
                return Err(wrong("expected a path and its instructions"));
            };
            let count = count.parse().ok().filter(|count| *count > 0);
            let count = count.ok_or_else(|| wrong("instructions are a whole number from 1"))?;
            if counts.paths.insert(name.to_owned(), count).is_some() {
                return Err(wrong("the path is there twice"));
            }
        }
        Ok(counts)
    }

    /// What has become of these, the stored ones, in what is seen.
    pub(crate) fn compare(&self, seen: &Counts) -> Comparison {
        let mut comparison = Comparison::default();
        let (was, is) = (&self.taken, &seen.taken);
        if was.machine != is.machine {
            let text = format!(
                "the baseline is for {}, this is {}: their counts say nothing of each other",
                was.machine, is.machine
            );
            comparison.incomparable = Some(text);
            return comparison;
        }
        for (what, was, is) in [("compiler", &was.compiler, &is.compiler), ("counter", &was.counter, &is.counter)] {
            if was != is {
                let text = format!(
                    "the {what} is {is}, the baseline was taken with {was}: some of a change may come from that"
                );
                comparison.notes.push(text);
            }
        }
        for (name, seen) in &seen.paths {
            match self.paths.get(name) {
                Some(stored) => comparison.changes.push(Change { name: name.clone(), stored: *stored, seen: *seen }),
                None => comparison.not_stored.push(name.clone()),
            }
        }
        comparison.not_counted = self.paths.keys().filter(|name| !seen.paths.contains_key(*name)).cloned().collect();
        comparison
    }
}

/// As it is stored.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Instructions that each hot path needs (docs/performance.md). Written by: {UPDATE}")?;
        writeln!(f, "compiler: {}", self.taken.compiler)?;
        writeln!(f, "machine: {}", self.taken.machine)?;
        writeln!(f, "counter: {}\n", self.taken.counter)?;
        self.paths.iter().try_for_each(|(name, count)| writeln!(f, "{name:<20} {count:>9}"))
    }
}

impl Change {
    fn verdict(&self) -> Verdict {
        let (stored, seen) = (u128::from(self.stored), u128::from(self.seen));
        if seen * 100 > stored * u128::from(100 + TOLERANCE) {
            Verdict::Dearer
        } else if seen * 100 < stored * u128::from(100 - TOLERANCE) {
            Verdict::Cheaper
        } else {
            Verdict::Within
        }
    }

    fn percent(&self) -> f64 {
        100.0 * (self.seen as f64 - self.stored as f64) / self.stored as f64
    }
}

impl Comparison {
    /// Why this must not be merged as it is, one line each; empty if it may.
    pub(crate) fn failures(&self) -> Vec<String> {
        let mut failures: Vec<String> = self.incomparable.iter().cloned().collect();
        for change in self.changes.iter().filter(|change| change.verdict() == Verdict::Dearer) {
            let Change { name, stored, seen } = change;
            let percent = change.percent();
            failures.push(format!(
                "{name} needs {seen} instructions, {stored} are stored: {percent:+.1} %, more than {TOLERANCE} %"
            ));
        }
        failures.extend(self.not_stored.iter().map(|name| format!("{name} is counted, but not in the baseline")));
        failures.extend(self.not_counted.iter().map(|name| format!("{name} is in the baseline, but no path any more")));
        failures
    }
}

/// A table, and what is remarkable.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<20} {:>9} {:>9} {:>9}", "path", "stored", "now", "change")?;
        for change in &self.changes {
            let word = match change.verdict() {
                Verdict::Within => "",
                Verdict::Dearer => "  DEARER",
                Verdict::Cheaper => "  cheaper",
            };
            let Change { name, stored, seen } = change;
            writeln!(f, "{name:<20} {stored:>9} {seen:>9} {:>+7.1} %{word}", change.percent())?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        let cheaper = self.changes.iter().filter(|change| change.verdict() == Verdict::Cheaper);
        let cheaper: Vec<&str> = cheaper.map(|change| change.name.as_str()).collect();
        if !cheaper.is_empty() {
            let names = cheaper.join(", ");
            writeln!(f, "hint: more than {TOLERANCE} % cheaper: {names}. To guard what was gained, run: {UPDATE}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(paths: &[(&str, u64)]) -> Counts {
        let taken = Taken { compiler: "rustc 1".into(), machine: "x86_64-linux".into(), counter: "valgrind-3".into() };
        Counts { taken, paths: paths.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect() }
    }

    #[test]
    fn what_is_written_is_read() {
        let stored = counts(&[("decode", 1234), ("publish-100", 99_999_999_999)]);
        assert_eq!(Counts::parse(&stored.to_string()), Ok(stored));
    }

    #[test]
    fn more_than_ten_percent_fails_and_less_is_a_hint() {
        for (seen, verdict) in [
            (1100, Verdict::Within),
            (1101, Verdict::Dearer),
            (900, Verdict::Within),
            (899, Verdict::Cheaper),
            (u64::MAX, Verdict::Dearer),
        ] {
            let comparison = counts(&[("a", 1000), ("b", 5)]).compare(&counts(&[("a", seen), ("b", 5)]));
            assert_eq!(comparison.changes[0].verdict(), verdict, "{seen}");
            assert_eq!(comparison.failures().is_empty(), verdict != Verdict::Dearer, "{seen}");
            assert_eq!(comparison.to_string().contains("hint:"), verdict == Verdict::Cheaper, "{comparison}");
        }
    }

    #[test]
    fn a_failure_names_the_path_both_counts_and_the_percent() {
        let comparison = counts(&[("publish-1", 2000)]).compare(&counts(&[("publish-1", 2500)]));
        assert_eq!(
            comparison.failures(),
            ["publish-1 needs 2500 instructions, 2000 are stored: +25.0 %, more than 10 %"]
        );
        assert!(comparison.to_string().contains("DEARER"), "{comparison}");
    }

    #[test]
    fn a_path_that_is_missing_on_either_side_fails() {
        let comparison = counts(&[("a", 1), ("gone", 1)]).compare(&counts(&[("a", 1), ("new", 1)]));
        assert_eq!(
            comparison.failures(),
            ["new is counted, but not in the baseline", "gone is in the baseline, but no path any more"]
        );
    }

    #[test]
    fn another_compiler_is_noted_and_another_machine_is_refused() {
        let stored = counts(&[("a", 100)]);
        let mut seen = counts(&[("a", 100)]);
        seen.taken.compiler = "rustc 2".into();
        let comparison = stored.compare(&seen);
        assert!(comparison.failures().is_empty());
        let text = comparison.to_string();
        assert!(text.contains("note: the compiler is rustc 2, the baseline was taken with rustc 1"), "{text}");
        seen.taken.machine = "aarch64-linux".into();
        let failures = stored.compare(&seen).failures();
        assert!(failures.len() == 1 && failures[0].contains("for x86_64-linux, this is aarch64-linux"), "{failures:?}");
    }

    #[test]
    fn a_damaged_baseline_is_refused_with_its_line() {
        for (line, why) in [
            ("decode", "expected a path and its instructions"),
            ("decode 1 2", "expected a path and its instructions"),
            ("decode many", "a whole number from 1"),
            ("decode 0", "a whole number from 1"),
            ("decode -5", "a whole number from 1"),
            ("weather: fine", "expected compiler, machine or counter"),
            ("<<<<<<< ours", "instructions are a whole number"),
        ] {
            let refused = Counts::parse(&format!("# a comment\n\n{line}\n")).unwrap_err();
            assert!(refused.starts_with("line 3: ") && refused.contains(why), "{line}: {refused}");
        }
        assert!(Counts::parse("a 1\na 1\n").unwrap_err().contains("twice"));
    }
}
