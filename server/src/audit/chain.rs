//! What makes a line of the audit log hold? Its number, the hash of the line before, and the hash over both.
//!
//! A line is a JSON object. `hash`, always the last field, is the SHA-256 over the 64 hex digits of `prev` and the exact bytes of
//! the line without `hash`; so no byte of any line can change, and no line go, come or move, without breaking the chain there.

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// What the first line of all names as the hash before it.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A line that is longer is none: no record comes near it. Bytes.
pub const MAX_LINE: usize = 1024 * 1024;

/// From this length on, texts and lists in a line are cut: whoever is refused may choose what the reason quotes. Bytes.
const LONG: usize = 64 * 1024;
/// What is left of a text then. Characters.
const TEXT: usize = 256;
/// What is left of a list. Elements.
const LIST: usize = 64;

/// `,"hash":"` and 64 digits and `"}`.
const SEAL: usize = 9 + 64 + 2;

/// The last line of a chain: what the next one builds on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tail {
    /// Its number; 0 before the first.
    pub n: u64,
    /// Its hash, 64 hex digits.
    pub hash: String,
}

impl Default for Tail {
    fn default() -> Tail {
        Tail { n: 0, hash: GENESIS.to_owned() }
    }
}

/// What a sound line says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub n: u64,
    /// When, RFC 3339.
    pub at: String,
    /// Whose log it is.
    pub broker: String,
    /// What happened.
    pub event: String,
    /// The hash of the line before.
    pub prev: String,
    /// Its own.
    pub hash: String,
}

#[derive(Serialize)]
struct Line<'a, T> {
    n: u64,
    at: &'a str,
    broker: &'a str,
    #[serde(flatten)]
    what: &'a T,
    prev: &'a str,
}

#[derive(Deserialize)]
struct Known {
    n: u64,
    at: String,
    broker: String,
    event: String,
    prev: String,
}

/// Appends a line with its newline to `out`, and moves the tail to it. `what` has a field `event`, and none of the names of
/// this module. `at` is Unix ms.
pub fn append<T: Serialize>(
    out: &mut String,
    tail: &mut Tail,
    at: u64,
    broker: &str,
    what: &T,
) -> serde_json::Result<()> {
    let at = i64::try_from(at).ok().and_then(|at| jiff::Timestamp::from_millisecond(at).ok()).unwrap_or_default();
    let n = tail.n + 1;
    let (at, prev) = (at.to_string(), tail.hash.as_str());
    let mut line = serde_json::to_string(&Line { n, at: &at, broker, what, prev })?;
    if line.len() > LONG {
        let mut what = serde_json::to_value(what)?;
        cut(&mut what);
        line = serde_json::to_string(&Line { n, at: &at, broker, what: &what, prev })?;
    }
    let hash = hash(&tail.hash, line.as_bytes());
    line.pop();
    *out += &format!("{line},\"hash\":\"{hash}\"}}\n");
    *tail = Tail { n, hash };
    Ok(())
}

/// Cuts what is long, and says how long it was.
fn cut(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some((end, _)) = text.char_indices().nth(TEXT) {
                *text = format!("{}… ({} bytes)", &text[..end], text.len());
            }
        }
        Value::Array(list) => {
            if list.len() > LIST {
                let more = list.len() - LIST;
                list.truncate(LIST);
                list.push(format!("… and {more} more").into());
            }
            list.iter_mut().for_each(cut);
        }
        Value::Object(members) => members.values_mut().for_each(cut),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Reads a line, without its newline, if nothing in it was changed; else says what is wrong. Whether it is in its place is for
/// who knows the line before.
pub fn read(line: &[u8]) -> Result<Link, &'static str> {
    let at = line.len().checked_sub(SEAL).ok_or("it is no line of an audit log")?;
    let (body, seal) = line.split_at(at);
    let digits = seal.strip_prefix(b",\"hash\":\"").and_then(|rest| rest.strip_suffix(b"\"}"));
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let claimed = digits.filter(|digits| digits.iter().all(is_digit));
    let claimed = claimed.and_then(|digits| std::str::from_utf8(digits).ok()).ok_or("it does not end with its hash")?;
    let body = [body, b"}"].concat();
    let known: Known = serde_json::from_slice(&body).map_err(|_| "it is no line of an audit log, or was edited")?;
    if hash(&known.prev, &body) != claimed {
        return Err("it was edited: its hash does not fit");
    }
    let Known { n, at, broker, event, prev } = known;
    Ok(Link { n, at, broker, event, prev, hash: claimed.to_owned() })
}

/// Of a line, given without its hash and closed with `}`.
pub(super) fn hash(prev: &str, body: &[u8]) -> String {
    let mut sum = Sha256::new();
    sum.update(prev.as_bytes());
    sum.update(body);
    HEXLOWER.encode(&sum.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_line_reads_as_it_was_written_and_the_next_builds_on_it() {
        let (mut out, mut tail) = (String::new(), Tail::default());
        append(&mut out, &mut tail, 1_700_000_000_123, "noc1", &json!({ "event": "login", "user": "a\"\n\u{1}é" }))
            .unwrap();
        append(&mut out, &mut tail, 1_700_000_000_124, "noc1", &json!({ "event": "stopped" })).unwrap();
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines.len(), 2, "what is in a field breaks no line: {out}");
        let (first, second) = (read(lines[0].as_bytes()).unwrap(), read(lines[1].as_bytes()).unwrap());
        assert_eq!((first.n, &*first.at, &*first.event), (1, "2023-11-14T22:13:20.123Z", "login"));
        assert_eq!((&*first.prev, &second.prev), (GENESIS, &first.hash));
        assert_eq!(tail, Tail { n: 2, hash: second.hash });
        let value: serde_json::Value = serde_json::from_str(lines[0]).unwrap();
        assert_eq!((&value["user"], &value["broker"]), (&json!("a\"\n\u{1}é"), &json!("noc1")));
    }

    #[test]
    fn what_others_chose_makes_no_line_too_long() {
        let (mut out, mut tail) = (String::new(), Tail::default());
        let long = json!({ "event": "refused", "reason": "\u{1}é".repeat(MAX_LINE), "nodes": vec!["n"; 100_000], "user": "a" });
        append(&mut out, &mut tail, 0, "noc1", &long).unwrap();
        append(&mut out, &mut tail, 0, "noc1", &json!({ "event": "stopped" })).unwrap();
        let lines: Vec<&str> = out.lines().collect();
        assert!(lines[0].len() < LONG, "{}", lines[0].len());
        assert_eq!(read(lines[1].as_bytes()).unwrap().prev, read(lines[0].as_bytes()).unwrap().hash);
        let value: Value = serde_json::from_str(lines[0]).unwrap();
        assert_eq!((&value["user"], value["nodes"].as_array().unwrap().len()), (&json!("a"), LIST + 1));
        assert_eq!(value["nodes"][LIST], "… and 99936 more");
        assert!(value["reason"].as_str().unwrap().ends_with("é… (3145728 bytes)"), "{}", value["reason"]);
        // Half of that is nobody's to cut.
        let whole = json!({ "event": "request", "target": "x".repeat(LONG / 2) });
        append(&mut out, &mut tail, 0, "noc1", &whole).unwrap();
        assert!(out.contains(whole["target"].as_str().unwrap()));
    }

    proptest! {
        #[test]
        fn no_byte_can_change(user in ".{0,12}", place in any::<prop::sample::Index>(), other in 1u8..) {
            let (mut out, mut tail) = (String::new(), Tail::default());
            append(&mut out, &mut tail, 0, "noc1", &json!({ "event": "login", "user": user })).unwrap();
            let mut line = out.trim_end().as_bytes().to_vec();
            let place = place.index(line.len());
            line[place] ^= other;
            prop_assert!(read(&line).is_err(), "{}", String::from_utf8_lossy(&line));
        }

        #[test]
        fn whatever_is_read_is_answered(line in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(read(&line).is_err());
        }
    }
}
