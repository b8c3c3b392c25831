//! How is a list changed so that its style stays? Arrays and inline tables, on one line or on many, with comments or without.

use super::outline::{indent, line_end, line_start, newline};
use super::splice::Splice;
use std::collections::BTreeSet;
use std::ops::Range;
use toml_edit::{Array, InlineTable};

/// What stands between brackets or braces.
pub(super) struct List<'t> {
    text: &'t str,
    /// Behind the opening bracket, to the closing one.
    inside: Range<usize>,
    items: Vec<Range<usize>>,
    is_table: bool,
}

impl<'t> List<'t> {
    /// An array of this text.
    pub(super) fn of_array(text: &'t str, array: &Array) -> Option<List<'t>> {
        let items = array.iter().map(|value| value.span()).collect::<Option<_>>()?;
        List::new(text, array.span()?, items, false)
    }

    /// An inline table of this text, by its values.
    pub(super) fn of_table(
        text: &'t str,
        table: &InlineTable,
        values: impl Iterator<Item = Range<usize>>,
    ) -> Option<List<'t>> {
        let span = table.span()?;
        let mut begin = span.start + 1;
        let mut items = Vec::new();
        for value in values {
            items.push(skip(text, begin)..value.end);
            begin = comma(text, value.end).map_or(value.end, |comma| comma + 1);
        }
        List::new(text, span, items, true)
    }

    fn new(text: &'t str, span: Range<usize>, items: Vec<Range<usize>>, is_table: bool) -> Option<List<'t>> {
        let inside = span.start.checked_add(1)?..span.end.checked_sub(1)?;
        text.get(inside.clone())?;
        Some(List { text, inside, items, is_table })
    }

    /// Takes items out, each with its comma and, if it has lines of its own, with what stands behind it there.
    pub(super) fn remove(&self, gone: &BTreeSet<usize>) -> Vec<Splice> {
        let kept = (0..self.items.len()).rfind(|place| !gone.contains(place));
        if kept.is_none() && !self.has_lines() {
            return vec![Splice::cut(self.inside.clone())];
        }
        let mut cuts = Vec::new();
        let mut done = 0;
        for place in gone.iter().copied().filter(|place| *place < self.items.len()) {
            if place < done {
                continue;
            }
            if let Some((lines, next)) = self.whole_lines(place, gone) {
                cuts.push(lines);
                done = next;
                continue;
            }
            let item = &self.items[place];
            match comma(self.text, item.end).map(|comma| comma + 1) {
                Some(end) => {
                    let behind = blanks(self.text, end);
                    let is_end = behind == self.inside.end || self.text[behind..].starts_with(['\n', '\r']);
                    cuts.push(if is_end { blanks_before(self.text, item.start)..end } else { item.start..behind });
                }
                None => cuts.push(blanks_before(self.text, item.start)..item.end),
            }
        }
        // The comma behind what is the last item now, unless there was one behind the last, or there are lines in between.
        let last = self.items.len().checked_sub(1).filter(|last| gone.contains(last));
        if let (Some(kept), Some(last)) = (kept, last)
            && comma(self.text, self.items[last].end).is_none()
            && let Some(comma) = comma(self.text, self.items[kept].end)
            && !self.text[self.items[kept].end..self.items[last].start].contains('\n')
        {
            cuts.push(blanks_before(self.text, comma)..blanks(self.text, comma + 1));
        }
        cuts.into_iter().map(Splice::cut).collect()
    }

    /// Writes another item in place of one.
    pub(super) fn replace(&self, place: usize, item: String) -> Option<Splice> {
        Some(Splice::new(self.items.get(place)?.clone(), item))
    }

    /// Adds items at the end.
    pub(super) fn append(&self, items: &[String]) -> Vec<Splice> {
        let (text, newline) = (self.text, newline(self.text));
        if items.is_empty() {
            return Vec::new();
        }
        let Some(last) = self.items.last() else {
            if !self.has_lines() {
                let space = if self.is_table { " " } else { "" };
                return vec![Splice::new(self.inside.clone(), format!("{space}{}{space}", items.join(", ")))];
            }
            let at = line_start(text, self.inside.end);
            let indent = indent(text, self.inside.end);
            let lines: String = items.iter().map(|item| format!("{indent}  {item},{newline}")).collect();
            return vec![Splice::new(at..at, lines)];
        };
        let comma = comma(text, last.end);
        let end = comma.map_or(last.end, |comma| comma + 1);
        if !text[end..self.inside.end].contains('\n') {
            return vec![match comma {
                Some(_) => Splice::new(end..end, format!(" {},", items.join(", "))),
                None => Splice::new(end..end, format!(", {}", items.join(", "))),
            }];
        }
        let own = indent(text, last.start);
        let opens_there = self.inside.start > line_start(text, last.start);
        let indent = if opens_there { format!("{own}  ") } else { own.to_owned() };
        let line = line_end(text, end);
        let at = text[..line].trim_end_matches(['\r', '\n']).len();
        let mut splices = Vec::new();
        let lines = match comma {
            Some(_) => items.iter().map(|item| format!("{newline}{indent}{item},")).collect::<String>(),
            None => {
                splices.push(Splice::new(end..end, ",".to_owned()));
                let lines: Vec<String> = items.iter().map(|item| format!("{newline}{indent}{item}")).collect();
                lines.join(",")
            }
        };
        splices.push(Splice::new(at..at, lines));
        splices
    }

    /// The lines of an item and of those behind it, if all that stands there goes; and the item behind them.
    fn whole_lines(&self, from: usize, gone: &BTreeSet<usize>) -> Option<(Range<usize>, usize)> {
        let first = line_start(self.text, self.items[from].start);
        if first < self.inside.start || !self.text[first..self.items[from].start].trim().is_empty() {
            return None;
        }
        for place in (from..self.items.len()).take_while(|place| gone.contains(place)) {
            let end = comma(self.text, self.items[place].end).map_or(self.items[place].end, |comma| comma + 1);
            let last = line_end(self.text, end);
            let rest = self.text[end..last].trim();
            let is_end = rest.is_empty() || rest.starts_with('#');
            if is_end && last <= self.inside.end && !self.text[self.items[place].end..end].contains('\n') {
                return Some((first..last, place + 1));
            }
        }
        None
    }

    fn has_lines(&self) -> bool {
        self.text[self.inside.clone()].contains('\n')
    }
}

/// Behind white space and comments.
fn skip(text: &str, mut at: usize) -> usize {
    loop {
        at += text[at..].len() - text[at..].trim_start_matches([' ', '\t', '\r', '\n']).len();
        if !text[at..].starts_with('#') {
            return at;
        }
        at = line_end(text, at);
    }
}

/// The comma behind an item, if there is one.
fn comma(text: &str, end: usize) -> Option<usize> {
    let at = skip(text, end);
    text[at..].starts_with(',').then_some(at)
}

/// Behind spaces and tabs.
fn blanks(text: &str, at: usize) -> usize {
    at + text[at..].len() - text[at..].trim_start_matches([' ', '\t']).len()
}

/// Before spaces and tabs.
fn blanks_before(text: &str, at: usize) -> usize {
    text[..at].trim_end_matches([' ', '\t']).len()
}
