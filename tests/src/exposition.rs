//! What does a page of metrics say, if it is one? A strict reader of Prometheus's text format: whatever a careful producer would not
//! write is an error, also where Prometheus itself would take it.

use std::collections::{BTreeMap, BTreeSet};

/// A page, by the name of the family.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page(pub BTreeMap<String, Family>);

/// A family of samples.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Family {
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// What it is about.
    pub help: String,
    /// In the order of the page.
    pub samples: Vec<Sample>,
}

/// One number.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// With its suffix, for a histogram.
    pub name: String,
    /// Its labels in their order.
    pub labels: Vec<(String, String)>,
    /// Its value.
    pub value: f64,
}

impl Sample {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, text)| text.as_str())
    }
}

impl Page {
    /// Reads a page, or says in which line of it something is wrong.
    pub fn parse(text: &str) -> Result<Page, String> {
        if !text.ends_with('\n') {
            return Err("the last line has no end".into());
        }
        let (mut page, mut current) = (Page::default(), String::new());
        let mut announced: Option<(String, String)> = None;
        for (number, line) in text.lines().enumerate() {
            let at = |what: String| format!("line {}: {what}: {line}", number + 1);
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').ok_or_else(|| at("no help".into()))?;
                let good =
                    announced.is_none() && is_name(name) && !help.trim().is_empty() && !page.0.contains_key(name);
                if !good {
                    return Err(at("a bad name, no help, or not the first HELP of it".into()));
                }
                announced = Some((name.to_owned(), unescape(help, false).map_err(at)?));
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, help) = announced.take().ok_or_else(|| at("TYPE without HELP".into()))?;
                let kind = rest.strip_prefix(&format!("{name} ")).ok_or_else(|| at(format!("not of {name}")))?;
                if !["counter", "gauge", "histogram"].contains(&kind) {
                    return Err(at("an unknown type".into()));
                }
                current.clone_from(&name);
                page.0.insert(name, Family { kind: kind.to_owned(), help, samples: Vec::new() });
            } else {
                let sample = sample(line).map_err(at)?;
                let family = page.0.get_mut(&current).filter(|_| announced.is_none());
                let family = family.ok_or_else(|| at("a sample without HELP and TYPE".into()))?;
                let suffix = sample.name.strip_prefix(&current).ok_or_else(|| at(format!("not of {current}")))?;
                let suffixes: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                if !suffixes.contains(&suffix) {
                    return Err(at(format!("not of {current}")));
                }
                family.samples.push(sample);
            }
        }
        for (name, family) in &page.0 {
            family.check(name).map_err(|what| format!("{name}: {what}"))?;
        }
        Ok(page)
    }

    /// The value of a sample with exactly these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: BTreeSet<(&str, &str)> = labels.iter().copied().collect();
        let of = |sample: &&Sample| {
            let labels: BTreeSet<(&str, &str)> = sample.labels.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
            sample.name == name && labels == wanted
        };
        self.samples().find(of).map(|sample| sample.value)
    }

    /// All samples.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.0.values().flat_map(|family| &family.samples)
    }
}

impl Family {
    fn check(&self, name: &str) -> Result<(), String> {
        let reserved = ["_total", "_bucket", "_sum", "_count"].iter().find(|suffix| name.ends_with(**suffix));
        match (self.kind.as_str(), reserved) {
            ("counter", Some(&"_total")) | ("gauge" | "histogram", None) => {}
            (kind, _) => return Err(format!("not a name for a {kind}")),
        }
        let first = self.samples.first().ok_or("no sample")?;
        let names = |sample: &Sample| -> Vec<String> {
            sample.labels.iter().map(|(name, _)| name.clone()).filter(|name| name != "le").collect()
        };
        let mut seen = BTreeSet::new();
        for sample in &self.samples {
            if names(sample) != names(first) {
                return Err(format!("other labels than the first sample: {sample:?}"));
            }
            if !seen.insert((&sample.name, &sample.labels)) {
                return Err(format!("twice: {sample:?}"));
            }
            if !sample.value.is_finite() || (self.kind != "gauge" && sample.value < 0.0) {
                return Err(format!("no value for a {}: {sample:?}", self.kind));
            }
        }
        if self.kind == "histogram" { self.check_histogram() } else { Ok(()) }
    }

    /// Of one without labels: classes upwards to +Inf, which is the count.
    fn check_histogram(&self) -> Result<(), String> {
        let (buckets, rest): (Vec<&Sample>, Vec<&Sample>) =
            self.samples.iter().partition(|sample| sample.name.ends_with("_bucket"));
        let bounds: Vec<f64> = buckets.iter().filter_map(|bucket| number(bucket.label("le")?)).collect();
        let counts: Vec<f64> = buckets.iter().map(|bucket| bucket.value).collect();
        let rises = bounds.windows(2).all(|pair| pair[0] < pair[1]) && counts.windows(2).all(|pair| pair[0] <= pair[1]);
        if bounds.len() != buckets.len() || !rises || bounds.last() != Some(&f64::INFINITY) {
            return Err(format!("its classes do not rise to +Inf: {bounds:?} {counts:?}"));
        }
        match &rest[..] {
            [sum, count] if sum.name.ends_with("_sum") && count.name.ends_with("_count") => {
                if counts.last() == Some(&count.value) { Ok(()) } else { Err("+Inf is not the count".into()) }
            }
            other => Err(format!("not _sum and _count: {other:?}")),
        }
    }
}

fn is_name(text: &str) -> bool {
    let good = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_';
    text.starts_with(|char: char| char.is_ascii_lowercase()) && text.chars().all(good)
}

/// `NAME{LABEL="TEXT",…} VALUE`
fn sample(line: &str) -> Result<Sample, String> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    let mut labels: Vec<(String, String)> = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").ok_or("a label without a value")?;
            let end = end_of_text(after).ok_or("a text without an end")?;
            if !is_name(label) || labels.iter().any(|(known, _)| known == label) {
                return Err(format!("the label {label} is bad, or there twice"));
            }
            labels.push((label.to_owned(), unescape(&after[..end], true)?));
            rest = &after[end + 1..];
            match rest.split_at_checked(1) {
                Some((",", more)) => rest = more,
                Some(("}", more)) => {
                    rest = more;
                    break;
                }
                _ => return Err("neither , nor } after a label".into()),
            }
        }
    }
    let value = rest.strip_prefix(' ').and_then(number).ok_or("no value")?;
    if is_name(name) { Ok(Sample { name: name.to_owned(), labels, value }) } else { Err("a bad name".into()) }
}

/// Where the quote stands that no backslash precedes.
fn end_of_text(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, char)| {
        let is_end = char == '"' && !escaped;
        escaped = char == '\\' && !escaped;
        is_end.then_some(at)
    })
}

fn unescape(text: &str, is_label: bool) -> Result<String, String> {
    let (mut plain, mut chars) = (String::new(), text.chars());
    while let Some(char) = chars.next() {
        plain.push(match char {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('\\') => '\\',
                Some('"') if is_label => '"',
                other => return Err(format!("a backslash before {other:?}")),
            },
            char => char,
        });
    }
    Ok(plain)
}

fn number(text: &str) -> Option<f64> {
    let plain = |text: &str| text.chars().all(|char| char.is_ascii_digit() || matches!(char, '.' | '-' | 'e' | '+'));
    if text == "+Inf" { Some(f64::INFINITY) } else { text.parse().ok().filter(|_| plain(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = concat!(
        "# HELP a_total What \\\\ it\\nis\n# TYPE a_total counter\na_total{x=\"1,}\",y=\"q\\\"\\\\\\n\"} 7\na_total{x=\"2\",y=\"\"} 0.5\n",
        "# HELP h_seconds H\n# TYPE h_seconds histogram\nh_seconds_bucket{le=\"0.1\"} 2\nh_seconds_bucket{le=\"+Inf\"} 3\nh_seconds_sum 1\nh_seconds_count 3\n",
        "# HELP g G\n# TYPE g gauge\ng -1e-3\n",
    );

    #[test]
    fn a_good_page_is_read() {
        let page = Page::parse(GOOD).unwrap();
        assert_eq!(page.value("a_total", &[("y", "q\"\\\n"), ("x", "1,}")]), Some(7.0));
        assert_eq!(page.value("h_seconds_count", &[]), Some(3.0));
        assert_eq!(page.value("g", &[]), Some(-0.001));
        assert_eq!((page.0["a_total"].help.as_str(), page.value("a_total", &[])), ("What \\ it\nis", None));
    }

    #[test]
    fn whatever_is_wrong_is_told() {
        for (old, new) in [
            ("# HELP g G\n", ""),
            ("# TYPE g gauge\n", ""),
            ("# TYPE g gauge", "# TYPE f gauge"),
            ("# TYPE g gauge", "# TYPE g number"),
            ("# HELP g G", "# HELP g "),
            ("g -1e-3\n", ""),
            ("g -1e-3\n", "g -1e-3"),
            ("g -1e-3\n", "g -1e-3\n\n"),
            ("g -1e-3", "g"),
            ("g -1e-3", "g NaN"),
            ("g -1e-3", "g  1"),
            ("g -1e-3", "g 1 1700000000000"),
            ("g -1e-3", "G 1"),
            ("g -1e-3", "a_total{x=\"3\",y=\"\"} 1"),
            ("g -1e-3\n", "g 1\n# HELP a_total A\n# TYPE a_total counter\na_total 1\n"),
            ("# HELP g G\n# TYPE g gauge\ng", "# HELP g_total G\n# TYPE g_total gauge\ng_total"),
            ("# HELP g G\n# TYPE g gauge\ng", "# HELP g_count G\n# TYPE g_count gauge\ng_count"),
            ("# HELP g G\n# TYPE g gauge\ng -1e-3", "# HELP g G\n# TYPE g counter\ng 1"),
            ("a_total{x=\"2\",y=\"\"} 0.5", "a_total{x=\"2\",y=\"\"} -1"),
            ("a_total{x=\"2\",y=\"\"}", "a_total{x=\"2\"}"),
            ("a_total{x=\"2\",y=\"\"}", "a_total{x=\"1,}\",y=\"q\\\"\\\\\\n\"}"),
            ("a_total{x=\"2\",y=\"\"}", "a_total{x=\"2\",x=\"\"}"),
            ("a_total{x=\"2\",y=\"\"}", "a_total{x=\"\\t\",y=\"\"}"),
            ("a_total{x=\"2\",y=\"\"}", "a_total{x=\"2\" y=\"\"}"),
            ("h_seconds_bucket{le=\"+Inf\"} 3\n", ""),
            ("h_seconds_bucket{le=\"+Inf\"} 3", "h_seconds_bucket{le=\"+Inf\"} 1"),
            ("h_seconds_count 3", "h_seconds_count 4"),
            ("h_seconds_sum 1\n", ""),
            ("h_seconds_bucket{le=\"0.1\"} 2", "h_seconds 2"),
        ] {
            assert!(GOOD.contains(old), "{old}");
            assert!(Page::parse(&GOOD.replacen(old, new, 1)).is_err(), "{old} -> {new}");
        }
        assert!(Page::parse("").is_err());
    }
}
