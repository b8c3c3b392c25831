//! Are the parts that decide still plain? `broker/` and `protocol/` (but for tls, dial, session) hold no async, no I/O, no clock,
//! no randomness and no threads of their own, and `broker/` has no path to the layers above it.
//!
//! What decides can then be tested as arithmetic: `now` and random bits are passed in.

use std::fs;
use std::path::{Path, PathBuf};

/// Words that bring the world in, and why each must stay out.
const WORLD: &[(&str, &str)] = &[
    ("async", "async belongs to hub and session"),
    ("await", "async belongs to hub and session"),
    ("tokio", "the runtime belongs to hub and session"),
    ("tokio_rustls", "TLS belongs to listener and dial"),
    ("rustls", "TLS belongs to listener and dial"),
    ("socket2", "sockets belong to listener and dial"),
    ("rustix", "system calls belong to the edges"),
    ("TcpStream", "sockets belong to listener and dial"),
    ("TcpListener", "sockets belong to listener and dial"),
    ("UdpSocket", "sockets belong to listener and dial"),
    ("UnixStream", "sockets belong to listener and dial"),
    ("UnixListener", "sockets belong to listener and dial"),
    ("ToSocketAddrs", "this resolves names"),
    ("std::fs", "files belong to the edges"),
    ("std::io", "I/O belongs to the edges"),
    ("std::env", "the environment belongs to main"),
    ("std::process", "processes belong to the agent"),
    ("std::os", "the system belongs to the edges"),
    ("thread", "threads belong to the runtime"),
    ("Instant", "time is passed in"),
    ("SystemTime", "time is passed in"),
    ("Timestamp::now", "time is passed in"),
    ("Zoned::now", "time is passed in"),
    ("rand", "random bits are passed in"),
    ("getrandom", "random bits are passed in"),
    ("println!", "printing is I/O"),
    ("eprintln!", "printing is I/O"),
    ("print!", "printing is I/O"),
    ("eprint!", "printing is I/O"),
    ("dbg!", "printing is I/O"),
    ("tracing", "the broker leaves notes, the hub logs them"),
];

/// Of `std::net`, what is a value and no socket.
const ADDRESSES: &[&str] =
    &["IpAddr", "Ipv4Addr", "Ipv6Addr", "SocketAddr", "SocketAddrV4", "SocketAddrV6", "AddrParseError"];

/// A line that breaks the rule.
#[derive(Debug, PartialEq)]
struct Breach {
    line: usize,
    what: String,
}

#[test]
fn the_broker_is_plain_and_knows_nothing_above_it() {
    let root = workspace().join("server/src/broker");
    let mut breaches = Vec::new();
    for file in sources(&root) {
        let text = fs::read_to_string(&file).expect("a source");
        let depth = file.strip_prefix(&root).expect("below broker/");
        for breach in world(&text).into_iter().chain(paths_upward(&text, depth_of(depth))) {
            breaches.push(format!("{}:{}: {}", file.display(), breach.line, breach.what));
        }
    }
    assert!(sources(&root).len() > 30, "{}: where are its sources?", root.display());
    assert!(breaches.is_empty(), "broker/ is not plain any more:\n{}", breaches.join("\n"));
}

#[test]
fn the_protocol_is_plain_but_for_its_three_files_of_io() {
    let root = workspace().join("protocol/src");
    let mut breaches = Vec::new();
    for file in sources(&root) {
        let below = file.strip_prefix(&root).expect("below protocol/src").to_owned();
        if ["tls.rs", "dial.rs", "session.rs"].iter().any(|io| below == Path::new(io)) {
            continue;
        }
        let text = fs::read_to_string(&file).expect("a source");
        let mut found = world(&text);
        if below == Path::new("message.rs") {
            // `RequestId::random`, for clients: the one place that makes its own bits.
            let bits = |breach: &&Breach| breach.what.starts_with("rand:");
            assert!(
                found.iter().filter(bits).count() <= 1,
                "message.rs has more than one place with randomness: {found:?}"
            );
            found.retain(|breach| !bits(&breach));
        }
        breaches.extend(found.iter().map(|breach| format!("{}:{}: {}", file.display(), breach.line, breach.what)));
    }
    assert!(sources(&root).len() > 20, "{}: where are its sources?", root.display());
    assert!(breaches.is_empty(), "protocol/ is not plain any more:\n{}", breaches.join("\n"));
}

#[test]
fn the_checker_finds_what_it_must() {
    for (line, word) in [
        ("async fn f() {}", "async"),
        ("let x = f().await;", "await"),
        ("use tokio::sync::mpsc;", "tokio"),
        ("use std::net::TcpStream;", "TcpStream"),
        ("use std::net::{SocketAddr, UdpSocket};", "UdpSocket"),
        ("use std::net::*;", "std::net"),
        ("std::net::lookup();", "std::net"),
        ("let t = std::fs::read(\"x\");", "std::fs"),
        ("use std::{fs, fmt};", "std::fs"),
        ("use std::{collections::HashMap, io::{self, Read}};", "std::io"),
        ("use std::io::Read as _;", "std::io"),
        ("let now = Instant::now();", "Instant"),
        ("let now = std::time::SystemTime::now();", "SystemTime"),
        ("let bits: u64 = rand::random();", "rand"),
        ("std::thread::spawn(|| {});", "thread"),
        ("println!(\"x\");", "println!"),
        ("/* fine */ async move {}", "async"),
        ("let s = \"\\\"\"; std::fs::read(s);", "std::fs"),
    ] {
        let found = world(&format!("fn before() {{}}\n{line}\n"));
        assert!(found.iter().any(|b| b.line == 2 && b.what.starts_with(word)), "{line}: {found:?}");
    }
    for (line, depth) in [
        ("use crate::hub::Hub;", 0),
        ("let c: crate::config::Config;", 1),
        ("use crate::{broker, hub};", 0),
        ("use super::login;", 0),
        ("use super::super::login;", 1),
        ("use super::super::super::login;", 2),
    ] {
        assert_eq!(paths_upward(line, depth).len(), 1, "{line} at depth {depth}");
    }
}

#[test]
fn the_checker_lets_pass_what_it_may() {
    let fine = r##"
//! No async, no tokio, no std::fs in here.
/* Instant::now() */
use std::net::{IpAddr, SocketAddr};
use std::collections::HashMap; // std::fs
use std::{fmt, sync::Arc};
let text = "async std::fs::read tokio";
let raw = r#"thread "rand" "#;
let c = '"'; let asynchronous = 1; let randomness = random();
let address: std::net::SocketAddr = x;
#[cfg(test)]
mod tests {
    use std::time::Instant;
    fn f() { let braces = "}"; std::thread::spawn(|| {}); }
}
"##;
    assert_eq!(world(fine), []);
    for (line, depth) in [
        ("use crate::broker::event::Event;", 0),
        ("use super::Broker;", 1),
        ("use super::super::Broker;", 2),
        ("// use crate::hub::Hub;", 0),
        ("#[cfg(test)]\nmod tests {\n    use super::super::x;\n}", 0),
    ] {
        assert_eq!(paths_upward(line, depth), [], "{line} at depth {depth}");
    }
    let after = "#[cfg(test)]\nmod tests {\n}\nasync fn f() {}\n";
    assert_eq!(world(after).len(), 1, "what follows a test module is checked again");
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// All sources below a folder, but for files and folders of tests and the simulation: these need the intake of the edge, and a
/// seed from the environment to play a run again.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("an entry").path();
        if path.file_stem().is_some_and(|stem| stem == "simulation" || stem == "tests") {
            continue;
        }
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// How many `super::` lead from a file to `broker` itself: 0 in `broker/mod.rs`, 1 in `broker/send.rs`.
fn depth_of(below: &Path) -> usize {
    below.components().count() - usize::from(below.file_name().is_some_and(|name| name == "mod.rs"))
}

fn world(text: &str) -> Vec<Breach> {
    let code = code_of(text);
    let mut found = Vec::new();
    for (word, why) in WORLD {
        for at in words(&code, word) {
            found.push(breach(&code, at, format!("{word}: {why}")));
        }
    }
    for at in words(&code, "std::net") {
        let rest = code[at + "std::net".len()..].trim_start();
        let names = rest.strip_prefix("::").map(str::trim_start).unwrap_or_default();
        let names = names.strip_prefix('{').map_or_else(
            || names.split(|c: char| !is_word(c)).next().unwrap_or_default(),
            |list| list.split('}').next().unwrap_or_default(),
        );
        let only_addresses = !names.is_empty() && names.split(',').all(|name| ADDRESSES.contains(&name.trim()));
        if !only_addresses {
            found.push(breach(&code, at, format!("std::net ({}): only addresses are values", names.trim())));
        }
    }
    // `use std::{fs, io::Read}`: the words above do not stand together there.
    for at in words(&code, "std::{") {
        let list = braced(&code[at..]);
        for module in ["fs", "io", "env", "process", "os"] {
            if words(list, module).iter().any(|place| is_head(list, *place)) {
                found.push(breach(&code, at, format!("std::{module}: I/O belongs to the edges")));
            }
        }
    }
    found
}

/// Whether the word at this place begins a path: nothing but braces, commas and space before it.
fn is_head(list: &str, at: usize) -> bool {
    matches!(list[..at].trim_end().chars().last(), Some('{' | ','))
}

/// The text from the first brace to the one that closes it.
fn braced(text: &str) -> &str {
    let start = text.find('{').unwrap_or(0);
    let mut depth = 0;
    for (at, c) in text[start..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return &text[start..start + at + 1],
            '}' => depth -= 1,
            _ => {}
        }
    }
    &text[start..]
}

fn paths_upward(text: &str, depth: usize) -> Vec<Breach> {
    let code = code_of(text);
    let mut found = Vec::new();
    for at in words(&code, "crate::") {
        let next = code[at + "crate::".len()..].split(|c: char| !is_word(c)).next().unwrap_or_default();
        // `pub(crate)` has no `::`; a brace gives an empty word.
        if next != "broker" {
            found.push(breach(&code, at, format!("crate::{next}: broker/ knows nothing above it")));
        }
    }
    let mut after = 0;
    for at in words(&code, "super::") {
        if at < after {
            continue;
        }
        let count = code[at..].split("super::").take_while(|between| between.is_empty()).count();
        after = at + count * "super::".len();
        if count > depth {
            found.push(breach(&code, at, format!("{}: broker/ knows nothing above it", "super::".repeat(count))));
        }
    }
    found
}

fn breach(code: &str, at: usize, what: String) -> Breach {
    Breach { line: code[..at].matches('\n').count() + 1, what }
}

/// Places where `word` stands, and not as part of another word.
fn words(code: &str, word: &str) -> Vec<usize> {
    let starts = |at: usize| !code[..at].chars().last().is_some_and(is_word);
    let ends = |at: usize| {
        !word.chars().last().is_some_and(is_word) || !code[at + word.len()..].chars().next().is_some_and(is_word)
    };
    code.match_indices(word).map(|(at, _)| at).filter(|at| starts(*at) && ends(*at)).collect()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The code alone: comments, texts and test modules are blanked, lines stay where they are.
fn code_of(text: &str) -> String {
    without_tests(&without_texts(text))
}

fn without_texts(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let blank = |c: char| if c == '\n' { '\n' } else { ' ' };
    while at < chars.len() {
        let end = match (chars[at], chars.get(at + 1)) {
            ('/', Some('/')) => line_end(&chars, at),
            ('/', Some('*')) => comment_end(&chars, at),
            ('"', _) => text_end(&chars, at),
            ('r', Some('"' | '#')) if !(at > 0 && is_word(chars[at - 1])) => raw_end(&chars, at),
            ('\'', Some('\\')) => char_end(&chars, at),
            ('\'', Some(_)) if chars.get(at + 2) == Some(&'\'') => at + 3,
            _ => at,
        };
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(chars[at..end].iter().map(|c| blank(*c)));
            at = end;
        }
    }
    out
}

fn line_end(chars: &[char], at: usize) -> usize {
    chars[at..].iter().position(|c| *c == '\n').map_or(chars.len(), |n| at + n)
}

fn comment_end(chars: &[char], at: usize) -> usize {
    let mut depth = 0;
    let mut here = at;
    while here + 1 < chars.len() {
        match (chars[here], chars[here + 1]) {
            ('/', '*') => (depth, here) = (depth + 1, here + 2),
            ('*', '/') if depth == 1 => return here + 2,
            ('*', '/') => (depth, here) = (depth - 1, here + 2),
            _ => here += 1,
        }
    }
    chars.len()
}

fn text_end(chars: &[char], at: usize) -> usize {
    let mut here = at + 1;
    while here < chars.len() {
        match chars[here] {
            '\\' => here += 2,
            '"' => return here + 1,
            _ => here += 1,
        }
    }
    chars.len()
}

fn raw_end(chars: &[char], at: usize) -> usize {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    let open = at + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return at;
    }
    let closes = |here: &usize| {
        chars[*here] == '"' && chars[here + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    (open + 1..chars.len()).find(closes).map_or(chars.len(), |here| here + 1 + hashes)
}

fn char_end(chars: &[char], at: usize) -> usize {
    chars[at + 3..].iter().position(|c| *c == '\'').map_or(at, |n| at + 3 + n + 1)
}

fn without_tests(code: &str) -> String {
    let mut code = code.to_owned();
    while let Some(start) = code.find("#[cfg(test)]") {
        let rest = &code[start..];
        // `mod tests;` names a file, which is left out by its name.
        let end = match (rest.find('{'), rest.find(';')) {
            (Some(brace), semicolon) if semicolon.is_none_or(|s| brace < s) => {
                start + brace + braced(&rest[brace..]).len()
            }
            (_, Some(semicolon)) => start + semicolon + 1,
            _ => code.len(),
        };
        let blank: String = code[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        code.replace_range(start..end, &blank);
    }
    code
}
