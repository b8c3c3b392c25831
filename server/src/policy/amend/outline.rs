//! Where does what stand in a TOML text? Its tables and fields in the order of the text, in whatever style they are written,
//! and the cuts and insertions that change one of them and leave every other byte alone.
//!
//! A table may have a header (`[users.alice]`), be a value (`alice = { … }`), or stand in dotted keys (`users.alice.kind = …`).
//! A comment directly above a header, and one directly below the last field, belong to that table; what a blank line
//! parts from it does not, nor does what the file begins with.

use super::bad_edit;
use super::list::List;
use super::splice::Splice;
use muster_protocol::error::Refusal;
use std::collections::BTreeSet;
use std::ops::Range;
use toml_edit::{Document, InlineTable, Item, Key, Table, Value};

/// What some editors write at the beginning of a file.
const MARK: char = '\u{feff}';

/// Names from the root of the text to a table or field.
pub(super) type Path<'p> = [&'p str];

/// A field to be written: its name and value.
pub(super) type Field = (String, Value);

/// A text with the places of its tables and fields.
pub(super) struct Outline<'d> {
    text: &'d str,
    /// In the order of the text; the first is what stands above all headers.
    sections: Vec<Section<'d>>,
}

/// A header and the fields below it.
struct Section<'d> {
    path: Vec<&'d str>,
    /// `[[…]]`.
    is_element: bool,
    header: Range<usize>,
    entries: Vec<Entry<'d>>,
}

/// A field, in a section or in an inline table.
struct Entry<'d> {
    /// As it is written there: more than one name for dotted keys.
    path: Vec<&'d str>,
    /// Where the last name begins.
    key: usize,
    span: Range<usize>,
    value: &'d Value,
}

/// How a table is written, which is how fields are added to it.
pub(super) enum Body<'d> {
    /// Below a header.
    Section(usize),
    /// Within braces.
    Inline(&'d InlineTable),
    /// In dotted keys, the last being this one of a section; with the names before the field's own.
    Dotted { section: usize, entry: usize, prefix: Vec<&'d str> },
    /// In dotted keys within braces.
    InlineDotted { table: &'d InlineTable, prefix: Vec<&'d str> },
}

/// A member of an array of tables.
#[derive(Clone, Copy)]
pub(super) enum Element<'d> {
    /// `[[acl]]`.
    Section(usize),
    /// `acl = [{ … }]`: in which array and at which place.
    Item(&'d toml_edit::Array, usize, &'d InlineTable),
}

impl<'d> Outline<'d> {
    /// The outline of a document that was read from this text.
    pub(super) fn of(text: &'d str, document: &'d Document<&'d str>) -> Outline<'d> {
        let mut sections = Vec::new();
        let root = Section { path: Vec::new(), is_element: false, header: 0..0, entries: fields(document.as_table()) };
        collect(document.as_table(), &mut Vec::new(), &mut sections);
        sections.sort_by_key(|section: &Section<'_>| section.header.start);
        sections.insert(0, root);
        Outline { text, sections }
    }

    /// Whether there is anything at this path, or below it.
    pub(super) fn has(&self, path: &Path<'_>) -> bool {
        let mut any = self.named().any(|(_, section)| section.path.starts_with(path));
        if !any {
            self.each_below(path, &mut |_, _| any = true);
        }
        any
    }

    /// The value at exactly this path, if it is one.
    pub(super) fn value(&self, path: &Path<'_>) -> Option<&'d Value> {
        let mut value = None;
        self.each_below(path, &mut |rest, found| {
            if rest.is_empty() {
                value = Some(found);
            }
        });
        value
    }

    /// Every value that is no inline table, with its whole path; those of `[[…]]` are not among them.
    pub(super) fn each(&self, visit: &mut impl FnMut(&Path<'d>, &'d Value)) {
        let mut path = Vec::new();
        for section in self.sections.iter().filter(|section| !section.is_element) {
            path.clear();
            path.extend_from_slice(&section.path);
            for entry in &section.entries {
                leaves(entry, &mut path, visit);
            }
        }
    }

    /// Every value at a path and below it, with the rest of its path. An inline table is one value.
    pub(super) fn each_below(&self, path: &Path<'_>, visit: &mut impl FnMut(&Path<'d>, &'d Value)) {
        for (_, section) in self.named() {
            if let Some(rest) = below(&section.path, path) {
                for entry in &section.entries {
                    let whole: Vec<&str> = rest.iter().chain(&entry.path).copied().collect();
                    visit(&whole, entry.value);
                }
            } else if let Some(rest) = path.strip_prefix(section.path.as_slice()) {
                section.entries.iter().for_each(|entry| seek(entry, rest, visit));
            }
        }
    }

    /// How the table at a path is written; `None` if there is none with a field or a header of its own.
    pub(super) fn body(&self, path: &Path<'_>) -> Option<Body<'d>> {
        let own = |section: &Section<'_>| !section.is_element && section.path == path;
        if let Some(place) = self.sections.iter().position(own) {
            return Some(Body::Section(place));
        }
        let mut last = None;
        for (place, section) in self.named().filter(|(_, section)| path.starts_with(&section.path)) {
            let rest = &path[section.path.len()..];
            for (nth, entry) in section.entries.iter().enumerate() {
                if let (true, Some(table)) = (entry.path == rest, entry.value.as_inline_table()) {
                    return Some(Body::Inline(table));
                } else if entry.path.len() > rest.len() && entry.path.starts_with(rest) {
                    let prefix = entry.path[..rest.len()].to_vec();
                    last = Some(Body::Dotted { section: place, entry: nth, prefix });
                } else if let Some(body) = inner(entry, rest) {
                    return Some(body);
                }
            }
        }
        last
    }

    /// Writes fields that are not there yet at the end of a table.
    pub(super) fn insert(&self, body: &Body<'d>, fields: &[Field]) -> Vec<Splice> {
        if fields.is_empty() {
            return Vec::new();
        }
        match body {
            Body::Section(place) => {
                let section = &self.sections[*place];
                let line = section.entries.last().map_or(section.header.start, |entry| entry.key);
                vec![self.lines(self.tail(*place), self.indent(line), &[], fields)]
            }
            Body::Dotted { section, entry, prefix } => {
                let entry = &self.sections[*section].entries[*entry];
                vec![self.lines(self.line_end(entry.span.end), self.indent(entry.key), prefix, fields)]
            }
            Body::Inline(table) => self.append(table, &[], fields),
            Body::InlineDotted { table, prefix } => self.append(table, prefix, fields),
        }
    }

    /// Writes a value in place of another one, unless they mean the same.
    pub(super) fn replace(&self, old: &Value, new: &Value) -> Vec<Splice> {
        match old.span() {
            Some(span) if !same(old, new) => vec![Splice::new(span, new.to_string())],
            _ => Vec::new(),
        }
    }

    /// Takes members of a table out, each with everything below it.
    pub(super) fn remove(&self, table: &Path<'_>, names: &[&str]) -> Vec<Splice> {
        let goes = |path: &Path<'_>| path.first().is_some_and(|name| names.contains(name));
        let is_gone = |section: &Section<'_>| !section.is_element && below(&section.path, table).is_some_and(goes);
        let gone = (0..self.sections.len()).filter(|place| is_gone(&self.sections[*place])).collect();
        let mut splices = self.remove_sections(&gone);
        for (_, section) in self.named() {
            let Some(table) = table.strip_prefix(section.path.as_slice()) else { continue };
            for entry in &section.entries {
                match below(&entry.path, table) {
                    Some(rest) if goes(rest) => {
                        splices.push(Splice::cut(self.line_start(entry.key)..self.line_end(entry.span.end)));
                    }
                    Some([_, ..]) => {}
                    _ => self.remove_within(entry, table, names, &mut splices),
                }
            }
        }
        splices
    }

    /// Takes fields out of a table. One that stood in dotted keys alone is left as `NAME = {}`: without fields it is still there.
    pub(super) fn remove_fields(&self, table: &Path<'_>, names: &[&str]) -> Vec<Splice> {
        let goes = |path: &Path<'_>| path.first().is_some_and(|name| names.contains(name));
        let mut stays = self.named().filter_map(|(_, section)| below(&section.path, table)).any(|rest| !goes(rest));
        self.each_below(table, &mut |rest, _| stays |= !goes(rest));
        let all = || self.remove(table, names);
        match self.body(table) {
            Some(Body::Dotted { section, prefix, .. }) if !stays => {
                let mut splices = all();
                let first = self.sections[section].entries.iter().find(|entry| entry.path.starts_with(&prefix));
                splices.extend(first.map(|entry| {
                    let at = self.line_start(entry.key);
                    let line = format!("{}{} = {{}}{}", self.indent(entry.key), keys(&prefix), self.newline());
                    Splice::new(at..at, line)
                }));
                splices
            }
            Some(Body::InlineDotted { table, prefix }) if !stays => {
                let entries = inline_fields(table);
                let mut gone: BTreeSet<usize> =
                    (0..entries.len()).filter(|nth| entries[*nth].path.starts_with(&prefix)).collect();
                let (Some(first), Some(list)) = (gone.pop_first(), self.braces(table, &entries)) else { return all() };
                let mut splices = list.remove(&gone);
                splices.extend(list.replace(first, format!("{} = {{}}", keys(&prefix))));
                splices
            }
            _ => all(),
        }
    }

    /// A new table in another one, such as a user in `users`: after the last of its kind, else at the end of the text. Where its
    /// kind is not written with headers it becomes a field beside the others.
    pub(super) fn add_table(&self, kind: &str, name: &str, fields: Vec<Field>) -> Result<Vec<Splice>, Refusal> {
        let is_below = |section: &Section<'_>| section.path.len() > 1 && section.path[0] == kind;
        let last = self.named().filter(|(_, section)| is_below(section)).last().map(|(place, _)| place);
        let header = format!("[{}.{}]", key(kind), key(name));
        match (last, self.body(&[kind])) {
            (None, None) if self.holds(kind) => Err(is_no_table(kind)),
            (Some(_), _) | (None, None) => Ok(vec![self.section(last, &header, &fields)]),
            // `[users]` alone.
            (None, Some(Body::Section(place))) if self.sections[place].entries.is_empty() => {
                Ok(vec![self.section(Some(place), &header, &fields)])
            }
            (None, Some(body)) => Ok(self.insert(&body, &[(name.to_owned(), inline(fields))])),
        }
    }

    /// The members of an array of tables, in the order of the text.
    pub(super) fn elements(&self, kind: &str) -> Vec<Element<'d>> {
        let of_kind = |section: &Section<'_>| section.is_element && section.path == [kind];
        let places = (0..self.sections.len()).filter(|place| of_kind(&self.sections[*place]));
        let mut elements: Vec<Element<'d>> = places.map(Element::Section).collect();
        if let Some(array) = self.value(&[kind]).and_then(Value::as_array) {
            let tables = array.iter().enumerate();
            elements.extend(tables.filter_map(|(nth, it)| Some(Element::Item(array, nth, it.as_inline_table()?))));
        }
        elements
    }

    /// A field of such a member.
    pub(super) fn field(&self, element: Element<'d>, name: &str) -> Option<&'d Value> {
        let own = |entries: &[Entry<'d>]| entries.iter().find(|entry| entry.path == [name]).map(|entry| entry.value);
        match element {
            Element::Section(place) => own(&self.sections[place].entries),
            Element::Item(_, _, table) => table.get(name),
        }
    }

    /// How such a member is written.
    pub(super) fn body_of(&self, element: Element<'d>) -> Body<'d> {
        match element {
            Element::Section(place) => Body::Section(place),
            Element::Item(_, _, table) => Body::Inline(table),
        }
    }

    /// Takes out members of an array of tables.
    pub(super) fn remove_elements(&self, elements: &[Element<'d>]) -> Vec<Splice> {
        let mut sections = BTreeSet::new();
        let mut places = BTreeSet::new();
        let mut of = None;
        for element in elements {
            match element {
                Element::Section(place) => _ = sections.insert(*place),
                Element::Item(array, nth, _) => {
                    places.insert(*nth);
                    of = Some(*array);
                }
            }
        }
        let mut splices = self.remove_sections(&sections);
        splices.extend(
            of.and_then(|array| List::of_array(self.text, array)).map_or_else(Vec::new, |list| list.remove(&places)),
        );
        splices
    }

    /// A new member of an array of tables: after the last one, else at the end of the text.
    pub(super) fn add_element(&self, kind: &str, fields: Vec<Field>) -> Result<Vec<Splice>, Refusal> {
        if let Some(list) = self.value(&[kind]).and_then(Value::as_array).and_then(|array| self.list(array)) {
            return Ok(list.append(&[inline(fields).to_string()]));
        }
        let of_kind = |section: &Section<'_>| section.is_element && section.path == [kind];
        match self.sections.iter().rposition(of_kind) {
            None if self.holds(kind) => Err(is_no_table(kind)),
            last => Ok(vec![self.section(last, &format!("[[{}]]", key(kind)), &fields)]),
        }
    }

    /// A field above all tables, after those that are there.
    pub(super) fn add_root(&self, field: Field) -> Vec<Splice> {
        let text = format!("{} = {}{}", key(&field.0), field.1, self.newline());
        let at = match self.sections[0].entries.is_empty() {
            false => self.tail(0),
            // Below what the file begins with, and above the first table and its comment.
            true => self.preamble(),
        };
        vec![self.paragraph_at(at, text)]
    }

    /// An array of the text as a list.
    pub(super) fn list(&self, array: &toml_edit::Array) -> Option<List<'d>> {
        List::of_array(self.text, array)
    }

    /// Whether something has this name, whatever it is.
    fn holds(&self, name: &str) -> bool {
        self.sections.iter().any(|section| section.path.first() == Some(&name)) || self.has(&[name])
    }

    fn named(&self) -> impl Iterator<Item = (usize, &Section<'d>)> {
        self.sections.iter().enumerate().filter(|(_, section)| !section.is_element)
    }

    /// Takes members of a table out that is in the value of an entry, or is that value.
    fn remove_within(&self, entry: &Entry<'d>, table: &Path<'_>, names: &[&str], splices: &mut Vec<Splice>) {
        let Some(table) = table.strip_prefix(entry.path.as_slice()) else { return };
        let Some(braces) = entry.value.as_inline_table() else { return };
        let goes = |path: &Path<'_>| path.first().is_some_and(|name| names.contains(name));
        let entries = inline_fields(braces);
        let is_gone = |entry: &Entry<'_>| below(&entry.path, table).is_some_and(goes);
        let gone: BTreeSet<usize> = (0..entries.len()).filter(|nth| is_gone(&entries[*nth])).collect();
        if gone.is_empty() {
            entries.iter().for_each(|entry| self.remove_within(entry, table, names, splices));
        } else if let Some(list) = self.braces(braces, &entries) {
            splices.extend(list.remove(&gone));
        }
    }

    /// Takes out sections with their comments, and one of the blank spaces around them.
    fn remove_sections(&self, gone: &BTreeSet<usize>) -> Vec<Splice> {
        let mut blocks: Vec<Range<usize>> = Vec::new();
        for place in gone {
            let own = self.paragraph(*place);
            match blocks.last_mut() {
                Some(last) if self.text[last.end..own.start.max(last.end)].trim().is_empty() => last.end = own.end,
                _ => blocks.push(own),
            }
        }
        blocks.into_iter().map(|block| Splice::cut(self.with_space(block))).collect()
    }

    /// A block with the smaller of the blank spaces above and below it; at an end of the text with the other one.
    fn with_space(&self, block: Range<usize>) -> Range<usize> {
        let above = self.text[..block.start].trim_end_matches([' ', '\t', '\r', '\n']).len();
        let above = if above == 0 { 0 } else { self.line_end(above) }.min(block.start);
        let below = self.text[block.end..].len() - self.text[block.end..].trim_start().len();
        let below = match block.end + below {
            end if end == self.text.len() => end,
            end => self.line_start(end).max(block.end),
        };
        let lines = |range: Range<usize>| self.text[range].matches('\n').count();
        if below == self.text.len() {
            above..below
        } else if above == 0 || lines(block.end..below) <= lines(above..block.start) {
            block.start..below
        } else {
            above..block.end
        }
    }

    /// A section with its header, and with the comments that belong to it.
    fn paragraph(&self, place: usize) -> Range<usize> {
        let first = self.line_start(self.sections[place].header.start);
        let floor = if place == 0 { 0 } else { self.tail(place - 1) };
        let mut start = first;
        while start > floor {
            let line = self.line_start(start - 1);
            if line < floor || !is_comment(&self.text[line..start]) {
                break;
            }
            start = line;
        }
        // What the file begins with is about the file.
        let start = if start == 0 { first } else { start };
        let mut end = self.tail(place);
        while end < self.text.len() && is_comment(&self.text[end..self.line_end(end)]) {
            end = self.line_end(end);
        }
        let is_apart = end == self.text.len() || self.text[end..self.line_end(end)].trim().is_empty();
        start..if is_apart { end } else { self.tail(place) }
    }

    /// Behind the line of the last field of a section.
    fn tail(&self, place: usize) -> usize {
        let section = &self.sections[place];
        match section.entries.last() {
            Some(entry) => self.line_end(entry.span.end),
            None if place == 0 => 0,
            None => self.line_end(section.header.end),
        }
    }

    /// Behind the comment that the file begins with.
    fn preamble(&self) -> usize {
        let mut end = self.text.len() - self.text.trim_start_matches(MARK).len();
        while end < self.text.len() && is_comment(&self.text[end..self.line_end(end)]) {
            end = self.line_end(end);
        }
        end
    }

    /// A new section behind this one, else at the end of the text.
    fn section(&self, after: Option<usize>, header: &str, fields: &[Field]) -> Splice {
        let newline = self.newline();
        let mut text = format!("{header}{newline}");
        for (name, value) in fields {
            text.push_str(&format!("{} = {value}{newline}", key(name)));
        }
        self.paragraph_at(after.map_or(self.text.len(), |place| self.paragraph(place).end), text)
    }

    /// Lines with a blank one above and below them.
    fn paragraph_at(&self, at: usize, lines: String) -> Splice {
        let newline = self.newline();
        let (above, below) = self.text.split_at(at);
        let mut text = String::new();
        let above = above.trim_start_matches(MARK);
        if !above.is_empty() {
            if !above.ends_with('\n') {
                text.push_str(newline);
            }
            let last = above.strip_suffix('\n').unwrap_or(above);
            if !last.rsplit('\n').next().unwrap_or_default().trim().is_empty() {
                text.push_str(newline);
            }
        }
        text.push_str(&lines);
        if !below.is_empty() && !below.split('\n').next().unwrap_or_default().trim().is_empty() {
            text.push_str(newline);
        }
        Splice::new(at..at, text)
    }

    /// Fields, each on a line of its own.
    fn lines(&self, at: usize, indent: &str, prefix: &[&str], fields: &[Field]) -> Splice {
        let newline = self.newline();
        let mut text = String::new();
        if !self.text[..at].ends_with('\n') && at > 0 {
            text.push_str(newline);
        }
        for (name, value) in fields {
            text.push_str(&format!("{indent}{} = {value}{newline}", dotted(prefix, name)));
        }
        Splice::new(at..at, text)
    }

    fn append(&self, table: &'d InlineTable, prefix: &[&str], fields: &[Field]) -> Vec<Splice> {
        let items: Vec<String> =
            fields.iter().map(|(name, value)| format!("{} = {value}", dotted(prefix, name))).collect();
        self.braces(table, &inline_fields(table)).map_or_else(Vec::new, |list| list.append(&items))
    }

    fn braces(&self, table: &InlineTable, entries: &[Entry<'d>]) -> Option<List<'d>> {
        List::of_table(self.text, table, entries.iter().map(|entry| entry.span.clone()))
    }

    fn newline(&self) -> &'static str {
        newline(self.text)
    }

    fn line_start(&self, at: usize) -> usize {
        line_start(self.text, at)
    }

    fn line_end(&self, at: usize) -> usize {
        line_end(self.text, at)
    }

    /// What stands before the first word of a line.
    fn indent(&self, at: usize) -> &'d str {
        indent(self.text, at)
    }
}

/// A name as a key, in quotes if it needs them.
pub(super) fn key(name: &str) -> String {
    Key::new(name).display_repr().into_owned()
}

/// Where the line of a byte begins.
pub(super) fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

/// Behind the end of the line of a byte, its newline included.
pub(super) fn line_end(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |newline| at + newline + 1)
}

/// What stands before the first word of the line of a byte.
pub(super) fn indent(text: &str, at: usize) -> &str {
    let line = &text[line_start(text, at)..];
    &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
}

/// How lines of a text end.
pub(super) fn newline(text: &str) -> &'static str {
    if text.split_once('\n').is_some_and(|(first, _)| first.ends_with('\r')) { "\r\n" } else { "\n" }
}

fn is_no_table(kind: &str) -> Refusal {
    bad_edit(format!("`{kind}` is written as something else; correct the file"))
}

fn dotted(prefix: &[&str], name: &str) -> String {
    keys(&[prefix, &[name]].concat())
}

fn keys(path: &Path<'_>) -> String {
    path.iter().copied().map(key).collect::<Vec<_>>().join(".")
}

fn inline(fields: Vec<Field>) -> Value {
    Value::InlineTable(fields.into_iter().map(|(name, value)| (Key::new(name), value)).collect())
}

fn is_comment(line: &str) -> bool {
    line.trim_start_matches(MARK).trim_start().starts_with('#')
}

/// Whether two values mean the same, however they are written. Lists are not compared: they are changed one by one.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::String(a), Value::String(b)) => a.value() == b.value(),
        (Value::Integer(a), Value::Integer(b)) => a.value() == b.value(),
        (Value::Boolean(a), Value::Boolean(b)) => a.value() == b.value(),
        (Value::Datetime(a), Value::Datetime(b)) => a.value() == b.value(),
        _ => false,
    }
}

/// The sections below a table.
fn collect<'d>(table: &'d Table, path: &mut Vec<&'d str>, sections: &mut Vec<Section<'d>>) {
    for (name, item) in table {
        path.push(name);
        let mut take = |table: &'d Table, is_element: bool| {
            if let (Some(header), false) = (table.span(), table.is_dotted() || table.is_implicit()) {
                sections.push(Section { path: path.clone(), is_element, header, entries: fields(table) });
            }
            collect(table, path, sections);
        };
        match item {
            Item::Table(table) => take(table, false),
            Item::ArrayOfTables(tables) => tables.iter().for_each(|table| take(table, true)),
            Item::Value(_) | Item::None => {}
        }
        path.pop();
    }
}

/// The fields below the header of a table, in the order of the text.
fn fields(table: &Table) -> Vec<Entry<'_>> {
    entries(table.get_values())
}

fn inline_fields(table: &InlineTable) -> Vec<Entry<'_>> {
    entries(table.get_values())
}

fn entries<'d>(values: Vec<(Vec<&'d Key>, &'d Value)>) -> Vec<Entry<'d>> {
    let entry = |(path, value): (Vec<&'d Key>, &'d Value)| {
        let key = path.last()?.span()?.start;
        Some(Entry { path: path.into_iter().map(Key::get).collect(), key, span: value.span()?, value })
    };
    let mut entries: Vec<Entry<'d>> = values.into_iter().filter_map(entry).collect();
    entries.sort_by_key(|entry| entry.key);
    entries
}

/// The rest of a path below another one.
fn below<'p, 'd>(path: &'p [&'d str], above: &Path<'_>) -> Option<&'p [&'d str]> {
    path.starts_with(above).then(|| &path[above.len()..])
}

fn leaves<'d>(entry: &Entry<'d>, path: &mut Vec<&'d str>, visit: &mut impl FnMut(&Path<'d>, &'d Value)) {
    let depth = path.len();
    path.extend_from_slice(&entry.path);
    match entry.value.as_inline_table() {
        Some(table) => inline_fields(table).iter().for_each(|entry| leaves(entry, path, visit)),
        None => visit(path, entry.value),
    }
    path.truncate(depth);
}

/// Visits the values of an entry at a path and below it, with the rest of their paths.
fn seek<'d>(entry: &Entry<'d>, path: &Path<'_>, visit: &mut impl FnMut(&Path<'d>, &'d Value)) {
    if let Some(rest) = below(&entry.path, path) {
        visit(rest, entry.value);
    } else if let (Some(rest), Some(table)) = (path.strip_prefix(entry.path.as_slice()), entry.value.as_inline_table())
    {
        inline_fields(table).iter().for_each(|entry| seek(entry, rest, visit));
    }
}

/// How a table within the value of an entry is written.
fn inner<'d>(entry: &Entry<'d>, path: &Path<'_>) -> Option<Body<'d>> {
    let rest = path.strip_prefix(entry.path.as_slice())?;
    let table = entry.value.as_inline_table()?;
    if rest.is_empty() {
        return Some(Body::Inline(table));
    }
    let entries = inline_fields(table);
    if let Some(dotted) = entries.iter().find(|entry| entry.path.len() > rest.len() && entry.path.starts_with(rest)) {
        return Some(Body::InlineDotted { table, prefix: dotted.path[..rest.len()].to_vec() });
    }
    entries.iter().find_map(|entry| inner(entry, rest))
}
