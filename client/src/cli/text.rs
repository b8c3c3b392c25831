//! How is what others sent shown? As text and nothing else: no control character or terminal escape gets through.

use serde::Serialize;
use serde_json::{Map, Value};
use std::fmt::Write;

/// Text as one line. Control characters become their visible pictures, what reverses or hides text a replacement mark.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(visible).collect()
}

/// Text as lines, each cleaned; a tab becomes blanks, the CR of CR LF goes.
pub(crate) fn lines(text: &str) -> Vec<String> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.split('\n').map(|line| clean(&line.strip_suffix('\r').unwrap_or(line).replace('\t', "    "))).collect()
}

fn visible(c: char) -> char {
    match c {
        '\u{0}'..='\u{1f}' => char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}'), // ␛ for ESC, and so on
        '\u{7f}' => '␡',
        '\u{80}'..='\u{9f}' => '\u{fffd}', // C1: some terminals take U+009B as the start of an escape
        // Marks that reorder or hide what stands beside them, and line breaks of another kind.
        '\u{ad}'
        | '\u{61c}'
        | '\u{200b}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}' => '\u{fffd}',
        other => other,
    }
}

/// JSON on one line that is safe on a terminal too: serde_json leaves DEL, C1 and direction marks as they are.
pub(crate) fn json(value: &impl Serialize) -> String {
    escaped(serde_json::to_string(value).unwrap_or_default())
}

/// The same over several lines.
pub(crate) fn pretty_json(value: &impl Serialize) -> String {
    escaped(serde_json::to_string_pretty(value).unwrap_or_default())
}

/// Such characters stand only inside JSON strings, where an escape means the same.
fn escaped(json: String) -> String {
    if json.bytes().all(|byte| matches!(byte, b'\n' | b' '..=b'~')) {
        return json;
    }
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c != '\n' && visible(c) != c {
            let _ = write!(out, "\\u{:04x}", c as u32); // all of them are below U+10000
        } else {
            out.push(c);
        }
    }
    out
}

/// A value in a cell or beside a name: texts without quotes, the rest as JSON.
pub(crate) fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => clean(text),
        other => clean(&other.to_string()),
    }
}

/// Display facts on one line: `datacenter=a os.family=Debian`.
pub(crate) fn facts(display: &Map<String, Value>) -> String {
    let parts: Vec<String> = display.iter().map(|(path, value)| format!("{}={}", clean(path), scalar(value))).collect();
    parts.join(" ")
}

/// An answer over lines that are indented by `indent` blanks; empty for null and `{}`.
pub(crate) fn body(value: &Value, indent: usize) -> String {
    let mut out = String::new();
    match value {
        Value::Null => {}
        Value::Object(map) if map.is_empty() => {}
        other => block(other, indent, &mut out),
    }
    out
}

fn block(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match inline(value) {
                    Some(text) => line(out, indent, &format!("{}: {text}", clean(name))),
                    None => {
                        line(out, indent, &format!("{}:", clean(name)));
                        block(value, indent + 2, out);
                    }
                }
            }
        }
        Value::Array(items) if is_table(items) => {
            let table = rows(items);
            table.lines().for_each(|row| line(out, indent, row));
        }
        Value::Array(items) => {
            for item in items {
                match inline(item) {
                    Some(text) => line(out, indent, &format!("- {text}")),
                    None => {
                        line(out, indent, "-");
                        block(item, indent + 2, out);
                    }
                }
            }
        }
        Value::String(text) => lines(text).iter().for_each(|text| line(out, indent, text)),
        other => line(out, indent, &scalar(other)),
    }
}

fn line(out: &mut String, indent: usize, text: &str) {
    let _ = writeln!(out, "{:indent$}{text}", "");
}

/// What fits behind a name.
fn inline(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if text.contains('\n') => None,
        Value::Array(items) if items.is_empty() => Some("[]".into()),
        Value::Object(map) if map.is_empty() => Some("{}".into()),
        Value::Array(_) | Value::Object(_) => None,
        other => Some(scalar(other)),
    }
}

/// A list of flat objects is easier to read as a table.
fn is_table(items: &[Value]) -> bool {
    let flat = |value: &Value| {
        value.as_object().is_some_and(|map| !map.is_empty() && map.values().all(|v| inline(v).is_some()))
    };
    items.len() > 1 && items.iter().all(flat)
}

fn rows(items: &[Value]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for map in items.iter().filter_map(Value::as_object) {
        for name in map.keys() {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
    }
    let mut table = super::output::Table::new(names.iter().map(|name| clean(name)));
    for item in items {
        table.row(names.iter().map(|name| item.get(name).and_then(inline).unwrap_or_else(|| "-".into())));
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_that_moves_a_cursor_gets_through() {
        assert_eq!(clean("a\u{1b}[31mred\u{7}\r\nb\u{9b}2J\u{202e}x\u{7f}"), "a␛[31mred␇␍␊b\u{fffd}2J\u{fffd}x␡");
        assert_eq!(lines("one\r\n\ttwo\u{1b}\n"), ["one", "    two␛"]);
        let text = json(&json!({"a": "\u{1b}[0m\u{9b}\u{7f}\u{202e}é"}));
        assert_eq!(text, r#"{"a":"\u001b[0m\u009b\u007f\u202eé"}"#);
        assert_eq!(serde_json::from_str::<Value>(&text).expect("still JSON")["a"], "\u{1b}[0m\u{9b}\u{7f}\u{202e}é");
    }

    #[test]
    fn bodies_read_like_notes() {
        let value = json!({"name": "nginx", "log": "one\ntwo\u{1b}[2J\n", "ports": [80, 443], "empty": {}, "unit": {"active": true}});
        let expected = "  empty: {}\n  log:\n    one\n    two␛[2J\n  name: nginx\n  ports:\n    - 80\n    - 443\n  unit:\n    active: true\n";
        assert_eq!(body(&value, 2), expected);
        assert_eq!(body(&json!({}), 2), "");
        assert_eq!(body(&json!("plain"), 0), "plain\n");
    }

    #[test]
    fn a_list_of_like_objects_is_a_table() {
        let value = json!({"processes": [{"pid": 1, "name": "init"}, {"pid": 22, "name": "a\u{1b}b"}]});
        assert_eq!(body(&value, 0), "processes:\n  name  pid\n  init  1\n  a␛b   22\n");
    }
}
