//! How is a number written down for Prometheus? Its text format 0.0.4: HELP and TYPE once, then every sample of the family.

use std::fmt::{Display, Write};

/// The media type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What kind of number it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It rises until the broker starts again; its name ends in `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// The text so far.
#[derive(Debug, Default)]
pub(super) struct Page(String);

/// A family of samples of one name. Without a sample nothing is written of it.
#[derive(Debug)]
pub(super) struct Family<'a> {
    page: &'a mut String,
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    begun: bool,
}

impl Page {
    /// Begins a family.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        Family { page: &mut self.0, name, kind, help, begun: false }
    }

    /// A histogram: upper bounds with what is between each and the one before, then all, and their sum.
    pub(super) fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        classes: impl Iterator<Item = (f64, u64)>,
        count: u64,
        sum: f64,
    ) {
        let mut family = Family { page: &mut self.0, name, kind: "histogram", help, begun: false };
        let mut upto = 0;
        for (bound, within) in classes {
            upto += within;
            family.sample("_bucket", &[("le", &bound.to_string())], upto);
        }
        family.sample("_bucket", &[("le", "+Inf")], count);
        family.sample("_sum", &[], sum);
        family.sample("_count", &[], count);
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// The one sample of a family without labels.
    pub(super) fn add(&mut self, value: impl Display) {
        self.with(&[], value);
    }

    /// A sample with labels.
    pub(super) fn with(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.sample("", labels, value);
    }

    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let (name, kind) = (self.name, self.kind);
        if !std::mem::replace(&mut self.begun, true) {
            let help = self.help.replace('\\', "\\\\").replace('\n', "\\n");
            write(self.page, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        }
        write(self.page, format_args!("{name}{suffix}"));
        for (place, (label, text)) in labels.iter().enumerate() {
            let before = if place == 0 { '{' } else { ',' };
            write(self.page, format_args!("{before}{label}=\"{}\"", escaped(text)));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        write(self.page, format_args!("{end} {value}\n"));
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn write(page: &mut String, what: std::fmt::Arguments<'_>) {
    // A String takes whatever is written.
    let _ = page.write_fmt(what);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_announced_once_and_only_with_samples() {
        let mut page = Page::default();
        page.family("muster_nothing", Kind::Gauge, "Nothing");
        let mut family = page.family("muster_x_total", Kind::Counter, "What \\ was\ncounted");
        family.with(&[("a", "1"), ("b", "x\"y\\z\n")], 7);
        family.with(&[("a", "2"), ("b", "")], 0.25);
        page.family("muster_y", Kind::Gauge, "Y").add(-1.5);
        let expected = concat!(
            "# HELP muster_x_total What \\\\ was\\ncounted\n",
            "# TYPE muster_x_total counter\n",
            "muster_x_total{a=\"1\",b=\"x\\\"y\\\\z\\n\"} 7\n",
            "muster_x_total{a=\"2\",b=\"\"} 0.25\n",
            "# HELP muster_y Y\n# TYPE muster_y gauge\nmuster_y -1.5\n",
        );
        assert_eq!(page.into_text(), expected);
    }

    #[test]
    fn a_histogram_counts_upwards() {
        let mut page = Page::default();
        page.histogram("muster_h_seconds", "H", [(0.00005, 2), (0.1, 0)].into_iter(), 3, 0.5);
        let text = page.into_text();
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "muster_h_seconds_bucket{le=\"0.00005\"} 2",
                "muster_h_seconds_bucket{le=\"0.1\"} 2",
                "muster_h_seconds_bucket{le=\"+Inf\"} 3",
                "muster_h_seconds_sum 0.5",
                "muster_h_seconds_count 3",
            ]
        );
    }
}
