//! How are a frame's headers kept, so that receiving them costs no copy?

use std::fmt;

use bytestring::ByteString;
use smallvec::SmallVec;

/// Values that must never get into a log, by header name.
const SECRET: [&str; 3] = ["passcode", "muster-token", "muster-node-key"];

/// The headers of a frame, in order. Names may repeat; the first one counts, as STOMP 1.2 says.
///
/// Received headers are places in the received bytes; added ones are kept in a text beside. A clone shares the former.
#[derive(Clone, Default)]
pub struct Headers {
    /// The head of a frame as it was received.
    wire: ByteString,
    /// The text of headers that were added, or had to be unescaped.
    added: String,
    spans: Spans,
}

/// As many as most messages have stand in the headers themselves; a connection that waits for a frame has room for them too.
pub(super) type Spans = SmallVec<[Span; 4]>;

/// One header: its name is `start..colon`, its value `colon + 1..end`. Places at or beyond `wire.len()` are in `added`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) colon: u32,
    pub(super) end: u32,
}

impl Headers {
    /// No headers, no memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Room for so many headers (not bytes).
    pub fn with_capacity(headers: usize) -> Self {
        Self { spans: Spans::with_capacity(headers), ..Self::default() }
    }

    /// Makes room to add so many headers of so many bytes in all, without the signs between them.
    pub fn reserve(&mut self, headers: usize, bytes: usize) {
        self.added.reserve(bytes + headers);
        self.spans.reserve(headers);
    }

    /// Adds a header at the end. If the name is there already, the earlier one still counts: see [`Headers::set`].
    pub fn push(&mut self, name: &str, value: &str) {
        let span = self.append(name, value);
        self.spans.push(span);
    }

    /// Gives the header this value: in the place of the first of that name, or at the end. Repetitions go, since some peers take the last.
    pub fn set(&mut self, name: &str, value: &str) {
        let Some(first) = self.position(name) else {
            return self.push(name, value);
        };
        let span = self.append(name, value);
        self.remove(name);
        self.spans.insert(first, span);
    }

    /// Removes the header, with all its repetitions.
    pub fn remove(&mut self, name: &str) {
        let mut spans = std::mem::take(&mut self.spans);
        spans.retain(|span| self.name(*span) != name.as_bytes());
        self.spans = spans;
    }

    /// The value of the first header of that name. Case matters.
    pub fn get(&self, name: &str) -> Option<&str> {
        let span = self.spans[self.position(name)?];
        Some(self.text(span.colon + 1, span.end))
    }

    /// Whether there is a header of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    /// Names and values in order, repetitions included.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.spans.iter().map(|span| {
            let name = self.text(span.start, span.colon);
            (name, self.text(span.colon + 1, span.end))
        })
    }

    /// How many headers, repetitions included.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// From the head of a frame and the places in it.
    pub(super) fn from_wire(wire: ByteString, spans: Spans) -> Self {
        let added = String::new();
        Self { wire, added, spans }
    }

    /// From a text and the places in it.
    pub(super) fn from_text(added: String, spans: Spans) -> Self {
        let wire = ByteString::new();
        Self { wire, added, spans }
    }

    /// As [`Headers::iter`], in bytes.
    pub(super) fn iter_bytes(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let spans = self.spans.iter();
        spans.map(|span| (self.name(*span), self.bytes(span.colon + 1, span.end)))
    }

    /// The bytes that the headers take on the wire, escapes not counted.
    pub fn wire_len(&self) -> usize {
        let line = |span: &Span| (span.end - span.start) as usize + 1;
        self.spans.iter().map(line).sum()
    }

    fn append(&mut self, name: &str, value: &str) -> Span {
        let start = self.end();
        self.added.push_str(name);
        let colon = self.end();
        self.added.push(':');
        self.added.push_str(value);
        let end = self.end();
        Span { start, colon, end }
    }

    /// The place behind all text. Beyond 4 GiB, which no limit lets in, headers would read as empty.
    fn end(&self) -> u32 {
        u32::try_from(self.wire.len() + self.added.len()).unwrap_or(u32::MAX)
    }

    fn position(&self, name: &str) -> Option<usize> {
        let name = name.as_bytes();
        self.spans.iter().position(|span| self.name(*span) == name)
    }

    fn name(&self, span: Span) -> &[u8] {
        self.bytes(span.start, span.colon)
    }

    fn bytes(&self, from: u32, to: u32) -> &[u8] {
        let (text, from, to) = self.place(from, to);
        text.as_bytes().get(from..to).unwrap_or_default()
    }

    fn text(&self, from: u32, to: u32) -> &str {
        let (text, from, to) = self.place(from, to);
        text.get(from..to).unwrap_or_default()
    }

    /// The text in which something stands, and where there.
    fn place(&self, from: u32, to: u32) -> (&str, usize, usize) {
        let (from, to, wire) = (from as usize, to as usize, self.wire.len());
        if from < wire { (&self.wire, from, to) } else { (&self.added, from - wire, to - wire) }
    }
}

/// Names and values, with the secret ones blanked: a frame gets into logs by accident.
impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.iter().map(|(name, value)| {
            let secret = SECRET.iter().any(|it| it.eq_ignore_ascii_case(name));
            (name, if secret { "[redacted]" } else { value })
        });
        f.debug_map().entries(shown).finish()
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.iter_bytes().eq(other.iter_bytes())
    }
}

impl Eq for Headers {}

impl<'a> Extend<(&'a str, &'a str)> for Headers {
    fn extend<T: IntoIterator<Item = (&'a str, &'a str)>>(&mut self, headers: T) {
        for (name, value) in headers {
            self.push(name, value);
        }
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Headers {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a str)>>(headers: T) -> Self {
        let mut all = Self::new();
        all.extend(headers);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a:1`, `b:2`, `a:3` as the decoder leaves them.
    fn received() -> Headers {
        let span = |start| Span { start, colon: start + 1, end: start + 3 };
        let wire = ByteString::from_static("SEND\na:1\nb:2\na:3\n\n");
        Headers::from_wire(wire, [span(5), span(9), span(13)].into_iter().collect())
    }

    fn list(headers: &Headers) -> Vec<(&str, &str)> {
        headers.iter().collect()
    }

    #[test]
    fn the_first_of_a_name_counts() {
        let headers = received();
        assert_eq!(headers.get("a"), Some("1"));
        assert_eq!(headers.get("c"), None);
        assert_eq!(headers.get("A"), None, "case matters");
        assert_eq!(list(&headers), [("a", "1"), ("b", "2"), ("a", "3")]);
    }

    #[test]
    fn added_headers_stand_beside_received_ones() {
        let mut headers = received();
        headers.push("b", "4");
        headers.push("c", "");
        assert_eq!(headers.get("b"), Some("2"));
        assert_eq!(headers.get("c"), Some(""));
        assert_eq!(headers.len(), 5);
    }

    #[test]
    fn what_there_is_room_for_makes_nothing_grow() {
        let mut headers = received();
        headers.push("c", "5");
        let before = headers.clone();
        headers.reserve(2, "d6ee7".len());
        assert_eq!(headers, before);
        let room = (headers.added.capacity(), headers.spans.capacity());
        headers.push("d", "6");
        headers.push("ee", "7");
        assert_eq!(list(&headers)[4..], [("d", "6"), ("ee", "7")]);
        assert_eq!((headers.added.capacity(), headers.spans.capacity()), room);
    }

    #[test]
    fn set_replaces_in_place_and_drops_repetitions() {
        let mut headers = received();
        headers.set("a", "é");
        headers.set("z", "5");
        assert_eq!(list(&headers), [("a", "é"), ("b", "2"), ("z", "5")]);
    }

    #[test]
    fn remove_takes_all_repetitions() {
        let mut headers = received();
        headers.remove("a");
        headers.remove("nothing");
        assert_eq!(list(&headers), [("b", "2")]);
        headers.remove("b");
        assert!(headers.is_empty() && !headers.contains("b"));
    }

    #[test]
    fn debug_blanks_secrets() {
        let headers: Headers = [
            ("login", "ops"),
            ("passcode", "s3cret"),
            ("Passcode", "s3cret"),
            ("muster-token", "s3cret"),
            ("muster-node-key", "s3cret"),
        ]
        .into_iter()
        .collect();
        let shown = format!("{headers:?}");
        assert!(shown.contains("ops") && !shown.contains("s3cret"), "{shown}");
    }
}
