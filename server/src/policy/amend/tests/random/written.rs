//! How may a policy be written? Random policies as lines, each with what it belongs to.

use super::{BROKERS, Dice, FACTS, GROUPS, LIMITS, NETWORKS, PHC, PLACES, SCOPES, USERS};

/// A line, without its end.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) text: String,
    /// Such as `users.alice` or `acl.2`, or `users` where all stand on one line; empty for what belongs to nothing.
    pub(super) owner: String,
}

/// A value, to be written in one of its styles.
#[derive(Clone)]
enum Value {
    Plain(String),
    List(Vec<String>),
    Table(Vec<(String, Value)>),
}

type Named = (String, Vec<(String, Value)>);

struct Writer<'d, 'b> {
    dice: &'d mut Dice<'b>,
    lines: Vec<Line>,
    comments: usize,
}

/// A policy that is good as it stands.
pub(super) fn policy_lines(dice: &mut Dice<'_>) -> Vec<Line> {
    let groups = groups(dice);
    let names: Vec<&str> = groups.iter().map(|(name, _)| name.as_str()).collect();
    let users = users(dice, &names);
    let brokers: Vec<Named> = BROKERS[..dice.roll(4)].iter().map(|name| ((*name).to_owned(), broker(dice))).collect();
    let entries = entries(dice, &names);
    let styles: Vec<usize> = (0..4).map(|_| dice.roll(6)).collect();
    let mut writer = Writer { dice, lines: Vec::new(), comments: 0 };
    // Above all tables.
    writer.space();
    if !brokers.is_empty() && writer.dice.hit(2) {
        writer.line("", "authority = \"noc1\"");
    }
    writer.line("", "asserted = [\"customer\", \"rack\"]");
    writer.space();
    if writer.dice.hit(2) || groups.iter().any(|(_, fields)| fields.iter().any(|(name, _)| name == "shows")) {
        writer.field("hidden", "hidden", &Value::List(FACTS[..3].iter().map(|it| (*it).to_owned()).collect()));
    }
    let kinds = [("brokers", &brokers), ("groups", &groups), ("users", &users)];
    for ((kind, tables), style) in kinds.iter().zip(&styles) {
        writer.at_the_root(kind, tables, *style);
    }
    let listed = styles[3] == 5;
    if listed && !entries.is_empty() {
        writer.space();
        writer.listed(&entries);
    }
    // Tables, in some order.
    let first = writer.dice.roll(3);
    for place in 0..3 {
        let place = (first + place) % 3;
        let (kind, tables) = kinds[place];
        writer.tables(kind, tables, styles[place]);
        if place == 1 {
            let collectives = collectives(writer.dice);
            writer.elements("collective", &collectives);
        }
        if place == 2 && !listed {
            writer.elements("acl", &entries);
        }
    }
    if writer.dice.hit(3) {
        writer.space();
        writer.blank();
        writer.comment("");
    }
    writer.lines
}

fn text(text: &str) -> Value {
    Value::Plain(format!("\"{}\"", text.replace('"', "\\\"")))
}

fn groups(dice: &mut Dice<'_>) -> Vec<Named> {
    let mut groups = Vec::new();
    for name in dice.some_of(&GROUPS) {
        let mut fields = Vec::new();
        if dice.hit(3) {
            fields.push(("scope".to_owned(), text(dice.one_of(&SCOPES))));
        }
        if dice.hit(3) {
            fields.push(("all".to_owned(), Value::Plain("true".to_owned())));
        }
        if dice.hit(3) {
            fields.push(("shows".to_owned(), Value::List(dice.some_of(&FACTS[..2]))));
        }
        for limit in dice.some_of(&LIMITS) {
            fields.push((limit, Value::Plain("0x10".to_owned())));
        }
        groups.push((name, fields));
    }
    groups
}

fn users(dice: &mut Dice<'_>, groups: &[&str]) -> Vec<Named> {
    let mut users = Vec::new();
    for name in dice.some_of(&USERS) {
        let kind = if name == "node-1" { "agent" } else { dice.one_of(&["operator", "service"]) };
        let mut fields = vec![("kind".to_owned(), text(kind)), ("password".to_owned(), text(PHC))];
        if dice.hit(2) || !groups.is_empty() && dice.hit(2) {
            fields.push(("groups".to_owned(), Value::List(dice.some_of(groups))));
        }
        if dice.hit(4) {
            fields.push(("networks".to_owned(), Value::List(dice.some_of(&NETWORKS))));
        }
        if dice.hit(4) {
            fields.push(("expires".to_owned(), Value::Plain("2030-01-02 03:04:05Z".to_owned())));
        }
        if dice.hit(4) {
            fields.push(("revoked-before".to_owned(), text("2026-01-02")));
        }
        if dice.hit(4) {
            fields.push(("disabled".to_owned(), Value::Plain("false".to_owned())));
        }
        if kind == "agent" && dice.hit(2) {
            let mut facts = vec![("customer".to_owned(), text("a"))];
            if dice.hit(2) {
                let row = ("row".to_owned(), Value::Plain("0b1".to_owned()));
                facts.push(("rack".to_owned(), Value::Table(vec![row, ("unit".to_owned(), text("x"))])));
            }
            fields.push(("facts".to_owned(), Value::Table(facts)));
        }
        users.push((name, fields));
    }
    users
}

fn broker(dice: &mut Dice<'_>) -> Vec<(String, Value)> {
    let mut fields = Vec::new();
    if dice.hit(2) {
        fields.push(("link".to_owned(), text("h:9")));
    }
    if dice.hit(2) {
        fields.push(("stomp".to_owned(), Value::List(dice.some_of(&["p:1", "q:2", "r:3"]))));
    }
    fields
}

fn entries(dice: &mut Dice<'_>, groups: &[&str]) -> Vec<Vec<(String, Value)>> {
    let mut entries = Vec::new();
    for _ in 0..dice.roll(5) {
        let mut fields = vec![("destination".to_owned(), text(dice.one_of(&PLACES)))];
        for right in ["read", "write", "admin"] {
            if dice.hit(2) {
                fields.push((right.to_owned(), Value::List(dice.some_of(groups))));
            }
        }
        entries.push(fields);
    }
    entries
}

fn collectives(dice: &mut Dice<'_>) -> Vec<Vec<(String, Value)>> {
    let mut collectives = vec![vec![("name".to_owned(), text("prod"))]];
    if dice.hit(3) {
        collectives
            .push(vec![("name".to_owned(), text("dev")), ("targeted".to_owned(), Value::Plain("false".to_owned()))]);
    }
    collectives
}

/// Tables in these styles stand above all headers.
const DOTTED: usize = 1;
const BRACES: usize = 2;
/// And these below `[users]`.
const DOTTED_BELOW: usize = 3;
const BRACES_BELOW: usize = 4;

impl Writer<'_, '_> {
    fn line(&mut self, owner: &str, text: &str) {
        let text = text.to_owned() + &self.remark();
        self.lines.push(Line { text, owner: owner.to_owned() });
    }

    /// A comment behind something, now and then.
    fn remark(&mut self) -> String {
        if !self.dice.hit(3) {
            return String::new();
        }
        self.comments += 1;
        format!(" # c{}", self.comments)
    }

    /// A comment on a line of its own.
    fn comment(&mut self, owner: &str) {
        self.comments += 1;
        let text = format!("# c{} users.alice = \"noc\" ]", self.comments);
        self.lines.push(Line { text, owner: owner.to_owned() });
    }

    fn blank(&mut self) {
        self.lines.push(Line { text: String::new(), owner: String::new() });
    }

    /// Nothing, blank lines, or a comment between blank lines.
    fn space(&mut self) {
        for _ in 0..self.dice.roll(3) {
            self.blank();
        }
        if self.dice.hit(3) {
            self.blank();
            self.comment("");
            self.blank();
        }
    }

    /// `[owner]` with the comments and fields that belong to it.
    fn section(&mut self, owner: &str, header: &str, fields: &[(String, Value)]) {
        self.space();
        for _ in 0..self.dice.roll(3) {
            self.comment(owner);
        }
        self.line(owner, header);
        for (name, value) in fields {
            if self.dice.hit(4) {
                self.comment(owner);
            }
            if self.dice.hit(6) {
                self.blank();
            }
            self.field(owner, name, value);
        }
        if self.dice.hit(4) {
            self.comment(owner);
            self.blank();
        }
    }

    fn at_the_root(&mut self, kind: &str, tables: &[Named], style: usize) {
        if tables.is_empty() || !matches!(style, DOTTED | BRACES) {
            return;
        }
        self.space();
        if style == DOTTED {
            self.dotted(kind, &format!("{kind}."), tables);
        } else {
            let tables: Vec<String> = tables.iter().map(|(name, fields)| self.within_braces(name, fields)).collect();
            self.line(kind, &format!("{kind} = {{ {} }}", tables.join(", ")));
        }
    }

    fn tables(&mut self, kind: &str, tables: &[Named], style: usize) {
        match style {
            DOTTED | BRACES => {}
            DOTTED_BELOW | BRACES_BELOW => {
                self.space();
                self.line("", &format!("[{kind}]"));
                if style == DOTTED_BELOW {
                    self.dotted(kind, "", tables);
                    return;
                }
                for (name, fields) in tables {
                    let line = format!("{} = {}", key(name), self.table(fields));
                    self.line(&format!("{kind}.{name}"), &line);
                }
            }
            _ => {
                for (name, fields) in tables {
                    let owner = format!("{kind}.{name}");
                    // A table of facts may have a header of its own.
                    let apart = self.dice.hit(2);
                    let is_apart = |value: &Value| apart && matches!(value, Value::Table(_));
                    let own = fields.iter().filter(|(_, value)| !is_apart(value)).cloned();
                    let own: Vec<(String, Value)> = own.collect();
                    self.section(&owner, &format!("[{kind}.{}]", key(name)), &own);
                    for (field, value) in fields {
                        if let (true, Value::Table(inner)) = (is_apart(value), value) {
                            self.section(&owner, &format!("[ {kind} . {} . {field} ]", key(name)), inner);
                        }
                    }
                }
            }
        }
    }

    /// A line for each field; the comments between them belong to nothing.
    fn dotted(&mut self, kind: &str, prefix: &str, tables: &[Named]) {
        for (name, fields) in tables {
            if fields.is_empty() {
                self.line(&format!("{kind}.{name}"), &format!("{prefix}{} = {{}}", key(name)));
            }
            for (field, value) in fields {
                if self.dice.hit(4) {
                    self.comment("");
                }
                self.field(&format!("{kind}.{name}"), &format!("{prefix}{}.{field}", key(name)), value);
            }
        }
    }

    fn elements(&mut self, kind: &str, elements: &[Vec<(String, Value)>]) {
        for (place, fields) in elements.iter().enumerate() {
            self.section(&format!("{kind}.{place}"), &format!("[[{kind}]]"), fields);
        }
    }

    /// Entries as a list of tables.
    fn listed(&mut self, entries: &[Vec<(String, Value)>]) {
        if self.dice.hit(2) {
            let entries: Vec<String> = entries.iter().map(|fields| self.table(fields)).collect();
            self.line("acl", &format!("acl = [{}]", entries.join(", ")));
            return;
        }
        self.line("", "acl = [");
        for (place, fields) in entries.iter().enumerate() {
            let line = format!("    {},", self.table(fields));
            self.line(&format!("acl.{place}"), &line);
        }
        self.line("", "]");
    }

    fn field(&mut self, owner: &str, name: &str, value: &Value) {
        match value {
            Value::Plain(text) => self.line(owner, &format!("{name} = {text}")),
            Value::Table(fields) if self.dice.hit(2) => {
                for (field, value) in fields {
                    self.field(owner, &format!("{name}.{field}"), value);
                }
            }
            Value::Table(fields) => {
                let table = self.table(fields);
                self.line(owner, &format!("{name} = {table}"));
            }
            Value::List(texts) => self.list(owner, name, texts),
        }
    }

    fn list(&mut self, owner: &str, name: &str, texts: &[String]) {
        let texts: Vec<String> = texts.iter().map(|text| self.quoted(text)).collect();
        match self.dice.roll(6) {
            0 | 1 => self.line(owner, &format!("{name} = [{}]", texts.join(", "))),
            2 if !texts.is_empty() => self.line(owner, &format!("{name} = [ {} , ]", texts.join(" ,"))),
            style => {
                self.line(owner, &format!("{name} = ["));
                let last = texts.len().saturating_sub(1);
                let mut texts = texts.iter().enumerate().peekable();
                while let Some((place, text)) = texts.next() {
                    if self.dice.hit(3) {
                        self.comment(owner);
                    }
                    let mut line = format!("  {text}");
                    // Two on a line.
                    if style == 4
                        && let Some((_, text)) = texts.next_if(|(place, _)| *place < last)
                    {
                        line = format!("{line}, {text}");
                    }
                    let comma = if place == last && style == 3 { "" } else { "," };
                    self.line(owner, &format!("{line}{comma}"));
                }
                if self.dice.hit(4) {
                    self.comment(owner);
                }
                self.line(owner, "]");
            }
        }
    }

    fn quoted(&mut self, text: &str) -> String {
        if self.dice.hit(2) { format!("'{text}'") } else { format!("\"{text}\"") }
    }

    /// `name = { … }`, or with dotted keys, for a place within braces.
    fn within_braces(&mut self, name: &str, fields: &[(String, Value)]) -> String {
        if fields.is_empty() || self.dice.hit(2) {
            return format!("{} = {}", key(name), self.table(fields));
        }
        let fields = fields.iter().map(|(field, value)| format!("{}.{field} = {}", key(name), self.value(value)));
        fields.collect::<Vec<_>>().join(", ")
    }

    fn table(&mut self, fields: &[(String, Value)]) -> String {
        let fields: Vec<String> =
            fields.iter().map(|(name, value)| format!("{name} = {}", self.value(value))).collect();
        match (fields.is_empty(), self.dice.roll(2)) {
            (true, _) => "{}".to_owned(),
            (false, 0) => format!("{{ {} }}", fields.join(", ")),
            (false, _) => format!("{{{}}}", fields.join(",")),
        }
    }

    fn value(&mut self, value: &Value) -> String {
        match value {
            Value::Plain(text) => text.clone(),
            Value::Table(fields) => self.table(fields),
            Value::List(texts) => {
                let texts: Vec<String> = texts.iter().map(|text| self.quoted(text)).collect();
                format!("[{}]", texts.join(", "))
            }
        }
    }
}

fn key(name: &str) -> String {
    if name.contains(['.', '@']) { format!("\"{name}\"") } else { name.to_owned() }
}
