//! Which frames are in the bytes received so far?

use bytes::{Buf, Bytes, BytesMut};
use bytestring::ByteString;
use memchr::{memchr, memchr2};

use super::headers::{Span, Spans};
use super::{Command, Frame, FrameError, Headers, Speaks, Version};

/// How much a peer may send. All are checked before memory is taken for what they limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the command and all headers, with the empty line that ends them.
    pub head: usize,
    /// Bytes of one header line, without its line feed.
    pub header_line: usize,
    /// Header lines.
    pub headers: usize,
    /// Bytes of the body.
    pub body: usize,
}

impl Limits {
    /// For those who have not logged in: 4 KiB in all with the closing NUL, no body.
    pub const PRE_AUTH: Self = Self { head: 4 * 1024 - 1, header_line: 4 * 1024 - 1, headers: 64, body: 0 };
}

/// Frames of 1 MiB in all, of which the head may take 64 KiB.
impl Default for Limits {
    fn default() -> Self {
        Self { head: 64 * 1024, header_line: 16 * 1024, headers: 64, body: 1024 * 1024 - 64 * 1024 - 1 }
    }
}

/// What the bytes held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// One whole frame.
    Frame(Frame),
    /// One line end between frames, or a run of them.
    HeartBeat,
}

/// Takes frames out of a growing buffer. It remembers how far it looked, so that a peer that sends byte by byte costs no more than any other.
///
/// Hand it the same buffer again and again, only ever appended to in between. It never reserves memory: a buffer
/// grows with the bytes that came, not with those that were announced.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    /// Not known until CONNECT or CONNECTED; until then other frames are read as 1.2, the most lenient about line ends.
    version: Option<Version>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Between,
    Head(Head),
    Body(Body),
    Failed(FrameError),
}

/// A head of which some lines are read; it is still at the front of the buffer, and all places count from there.
#[derive(Debug)]
struct Head {
    command: Command,
    /// Where the line begins that is being read.
    line: usize,
    /// Everything before holds no further line end.
    scanned: usize,
    spans: Spans,
    escaped: bool,
}

/// A frame whose head is taken out of the buffer, so that the body is at its front.
#[derive(Debug)]
struct Body {
    command: Command,
    headers: Headers,
    /// As announced; without it a NUL ends the body.
    length: Option<usize>,
    /// Everything before holds no NUL.
    scanned: usize,
}

impl Decoder {
    /// For a connection whose version is not known yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, version: None, phase: Phase::Between }
    }

    /// From the next frame on, read this version. To be called once CONNECT or CONNECTED was decoded, before the next frame is.
    pub fn set_version(&mut self, version: Version) {
        self.version = Some(version);
    }

    /// From now on, other limits; to be called after a login, before the next frame is decoded.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Takes the next frame, or heart-beats, from the front of `buf`. `None`: incomplete, read more and come again.
    ///
    /// After an error the connection cannot go on; every further call gives the same error.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Decoded>, FrameError> {
        if let Phase::Failed(error) = &self.phase {
            return Err(error.clone());
        }
        let result = self.step(buf);
        if let Err(error) = &result {
            self.phase = Phase::Failed(error.clone());
        }
        result
    }

    fn step(&mut self, buf: &mut BytesMut) -> Result<Option<Decoded>, FrameError> {
        if matches!(self.phase, Phase::Between) {
            if skip_line_ends(buf) {
                return Ok(Some(Decoded::HeartBeat));
            }
            let Some(head) = Head::start(buf, self.version)? else {
                return Ok(None);
            };
            self.phase = Phase::Head(head);
        }
        if let Phase::Head(head) = &mut self.phase {
            if !head.read(buf, &self.limits, self.version)? {
                return Ok(None);
            }
            let body = head.finish(buf, &self.limits, self.version)?;
            self.phase = Phase::Body(body);
        }
        let Phase::Body(body) = &mut self.phase else {
            return Ok(None);
        };
        let Some(frame) = body.read(buf, &self.limits)? else {
            return Ok(None);
        };
        self.phase = Phase::Between;
        Ok(Some(Decoded::Frame(frame)))
    }
}

/// Takes line ends off the front; says whether there were any.
fn skip_line_ends(buf: &mut BytesMut) -> bool {
    let mut run = 0;
    loop {
        match &buf[run..] {
            [b'\n', ..] => run += 1,
            [b'\r', b'\n', ..] => run += 2,
            _ => break,
        }
    }
    buf.advance(run);
    run > 0
}

impl Head {
    /// Reads the command's line. `None`: it isn't complete.
    fn start(buf: &[u8], version: Option<Version>) -> Result<Option<Self>, FrameError> {
        /// Longer than any command and any HTTP method.
        const LONGEST: usize = 16;
        let shown = &buf[..buf.len().min(LONGEST)];
        let letters = shown.iter().take_while(|it| it.is_ascii_alphabetic()).count();
        let (word, rest) = shown.split_at(letters);
        let known = Command::from_bytes(word);
        let line_end = match rest {
            [b'\n', ..] => 1,
            [b'\r', b'\n', ..] if known.is_none_or(|it| may_end_in_cr(it, version)) => 2,
            [b'\r', _, ..] => return Err(FrameError::BareCr),
            [b' ', ..] if is_http_method(word) => return Err(FrameError::NotStomp(Speaks::Http)),
            [0x16, 0x03, ..] if word.is_empty() => return Err(FrameError::NotStomp(Speaks::Tls)),
            [] if word.len() < LONGEST => return Ok(None),
            [b'\r'] if shown.len() < LONGEST => return Ok(None),
            [0x16] if word.is_empty() => return Ok(None),
            [] => return Err(unknown(word)),
            _ => return Err(FrameError::NotStomp(Speaks::Garbage)),
        };
        let command = known.ok_or_else(|| unknown(word))?;
        Ok(Some(Self {
            command,
            line: letters + line_end,
            scanned: letters + line_end,
            spans: Spans::new(),
            escaped: false,
        }))
    }

    /// Reads lines up to the empty one. `false`: it hasn't come yet.
    fn read(&mut self, buf: &[u8], limits: &Limits, version: Option<Version>) -> Result<bool, FrameError> {
        // Places are kept in 32 bits, and a larger head makes no sense.
        let head_end = limits.head.min(i32::MAX as usize);
        loop {
            // Only what is within the limits is looked at, so that an error doesn't depend on how the bytes were split.
            let line_end = self.line.saturating_add(limits.header_line).saturating_add(1);
            let end = buf.len().min(head_end).min(line_end);
            let fresh = buf.get(self.scanned..end).unwrap_or_default();
            let Some(found) = memchr2(b'\n', 0, fresh) else {
                self.scanned = self.scanned.max(end);
                let Limits { head, header_line, .. } = *limits;
                if end >= head_end {
                    return Err(FrameError::HeadTooLarge { limit: head });
                }
                if end >= line_end {
                    return Err(FrameError::HeaderTooLong { limit: header_line });
                }
                return Ok(false);
            };
            let stop = self.scanned + found;
            if buf[stop] == 0 {
                return Err(FrameError::NulInHeader);
            }
            self.scanned = stop + 1;
            let line = match &buf[self.line..stop] {
                [text @ .., b'\r'] if may_end_in_cr(self.command, version) => text,
                text => text,
            };
            if line.is_empty() {
                return Ok(true);
            }
            if self.spans.len() >= limits.headers {
                let limit = limits.headers;
                return Err(FrameError::TooManyHeaders { limit });
            }
            self.header(line)?;
            self.line = self.scanned;
        }
    }

    fn header(&mut self, line: &[u8]) -> Result<(), FrameError> {
        if memchr2(b'\\', b'\r', line).is_some() {
            self.escaped = true;
            if memchr(b'\r', line).is_some() {
                return Err(FrameError::BareCr);
            }
        }
        let stop = |byte: &u8| *byte == b':' || byte.is_ascii_control();
        let colon = match line.iter().position(stop) {
            Some(0) if line[0] == b':' => return Err(FrameError::EmptyHeaderName),
            Some(at) if line[at] == b':' => at,
            Some(_) => return Err(FrameError::ControlInName),
            None => return Err(FrameError::HeaderWithoutColon),
        };
        // No truncation: `read` stays below 2 GiB.
        self.spans.push(Span {
            start: self.line as u32,
            colon: (self.line + colon) as u32,
            end: (self.line + line.len()) as u32,
        });
        Ok(())
    }

    /// Takes the head out of the buffer.
    fn finish(&mut self, buf: &mut BytesMut, limits: &Limits, version: Option<Version>) -> Result<Body, FrameError> {
        let wire = buf.split_to(self.scanned.min(buf.len())).freeze();
        let wire = ByteString::try_from(wire).map_err(|_| FrameError::BadUtf8)?;
        let spans = std::mem::take(&mut self.spans);
        let plain = self.command.is_handshake() || version == Some(Version::V1_0);
        let headers = if self.escaped && !plain {
            unescape_all(&wire, &spans, version.unwrap_or(Version::V1_2))?
        } else {
            Headers::from_wire(wire, spans)
        };
        let length = match headers.get("content-length") {
            Some(digits) => Some(content_length(digits, limits.body)?),
            None => None,
        };
        Ok(Body { command: self.command, headers, length, scanned: 0 })
    }
}

impl Body {
    fn read(&mut self, buf: &mut BytesMut, limits: &Limits) -> Result<Option<Frame>, FrameError> {
        let length = match self.length {
            Some(length) => match buf.get(length) {
                Some(0) => length,
                Some(_) => return Err(FrameError::MissingNul),
                None => return Ok(None),
            },
            None => {
                let limit = limits.body;
                let end = buf.len().min(limit.saturating_add(1));
                let fresh = buf.get(self.scanned..end).unwrap_or_default();
                match memchr(0, fresh) {
                    Some(found) => self.scanned + found,
                    None if end > limit => return Err(FrameError::BodyWithoutEnd { limit }),
                    None => {
                        self.scanned = end;
                        return Ok(None);
                    }
                }
            }
        };
        let body = match length {
            0 => Bytes::new(), // nothing that would keep the buffer alive
            _ => buf.split_to(length).freeze(),
        };
        buf.advance(1);
        Ok(Some(Frame { command: self.command, headers: std::mem::take(&mut self.headers), body }))
    }
}

fn may_end_in_cr(command: Command, version: Option<Version>) -> bool {
    command.is_handshake() || version.is_none_or(|it| it == Version::V1_2)
}

fn is_http_method(word: &[u8]) -> bool {
    let methods = "GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH PRI";
    methods.split(' ').any(|method| method.as_bytes() == word)
}

/// The word is ASCII letters, at most 16 of them.
fn unknown(word: &[u8]) -> FrameError {
    if word.is_empty() {
        return FrameError::NotStomp(Speaks::Garbage);
    }
    FrameError::UnknownCommand(String::from_utf8_lossy(word).into_owned())
}

fn content_length(digits: &str, limit: usize) -> Result<usize, FrameError> {
    if digits.is_empty() || !digits.bytes().all(|it| it.is_ascii_digit()) {
        return Err(FrameError::BadContentLength);
    }
    // They are digits, so that it can only fail because they are too many.
    let announced = digits.parse::<u64>().unwrap_or(u64::MAX);
    match usize::try_from(announced) {
        Ok(length) if length <= limit => Ok(length),
        _ => Err(FrameError::BodyTooLarge { announced, limit }),
    }
}

/// Copies all headers, since a text is in one piece.
fn unescape_all(text: &str, spans: &[Span], version: Version) -> Result<Headers, FrameError> {
    let mut plain = String::with_capacity(text.len());
    let mut places = Spans::with_capacity(spans.len());
    let part = |from: u32, to: u32| text.get(from as usize..to as usize).unwrap_or_default();
    for span in spans {
        let start = plain.len();
        unescape(part(span.start, span.colon), version, &mut plain)?;
        let colon = plain.len();
        if plain.bytes().skip(start).any(|it| it.is_ascii_control()) {
            return Err(FrameError::ControlInName);
        }
        plain.push(':');
        unescape(part(span.colon + 1, span.end), version, &mut plain)?;
        // No truncation: it only gets shorter.
        places.push(Span { start: start as u32, colon: colon as u32, end: plain.len() as u32 });
    }
    Ok(Headers::from_text(plain, places))
}

fn unescape(text: &str, version: Version, into: &mut String) -> Result<(), FrameError> {
    let mut rest = text;
    while let Some(at) = memchr(b'\\', rest.as_bytes()) {
        into.push_str(&rest[..at]);
        into.push(match rest.as_bytes().get(at + 1) {
            Some(b'n') => '\n',
            Some(b'c') => ':',
            Some(b'\\') => '\\',
            Some(b'r') if version == Version::V1_2 => '\r',
            _ => return Err(FrameError::BadEscape),
        });
        rest = &rest[at + 2..];
    }
    into.push_str(rest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use Version::{V1_0, V1_1, V1_2};

    const SMALL: Limits = Limits { head: 100, header_line: 20, headers: 3, body: 8 };

    fn decoder(version: Option<Version>, limits: Limits) -> Decoder {
        let mut decoder = Decoder::new(limits);
        decoder.version = version;
        decoder
    }

    fn first(version: Option<Version>, wire: &[u8]) -> Result<Option<Decoded>, FrameError> {
        decoder(version, SMALL).decode(&mut BytesMut::from(wire))
    }

    #[track_caller]
    fn frame(version: Option<Version>, wire: &[u8]) -> Frame {
        match first(version, wire) {
            Ok(Some(Decoded::Frame(frame))) => frame,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn error(version: Option<Version>, wire: &str) -> FrameError {
        first(version, wire.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_frame_in_full() {
        let got = frame(Some(V1_2), b"SEND\r\na:1\r\na:2\ncontent-length:3\r\n\r\nx\0y\0");
        assert_eq!(got.command, Command::Send);
        assert_eq!(got.headers.get("a"), Some("1"));
        assert_eq!(got.headers.len(), 3);
        assert_eq!(got.body, &b"x\0y"[..]);
    }

    #[test]
    fn without_content_length_the_body_ends_at_a_nul() {
        assert_eq!(frame(None, b"SEND\n\nhello\0").body, "hello");
        assert_eq!(frame(None, b"SEND\n\n\0").body, "");
        assert_eq!(first(None, b"SEND\n\nhello"), Ok(None));
    }

    #[test]
    fn text_and_body_are_slices_of_the_buffer() {
        let mut buf = BytesMut::from("SEND\nname:value\n\nbody\0");
        let place = buf.as_ptr() as usize;
        let Ok(Some(Decoded::Frame(frame))) = decoder(None, SMALL).decode(&mut buf) else { panic!("no frame") };
        assert_eq!(frame.headers.get("name").unwrap().as_ptr() as usize, place + 10);
        assert_eq!(frame.body.as_ptr() as usize, place + 17);
    }

    #[test]
    fn a_run_of_line_ends_is_one_heart_beat() {
        let mut decoder = decoder(Some(V1_1), SMALL);
        let mut buf = BytesMut::from("\n\r\n\n\r");
        assert_eq!(decoder.decode(&mut buf), Ok(Some(Decoded::HeartBeat)));
        assert_eq!(decoder.decode(&mut buf), Ok(None), "half a CR LF");
        buf.extend_from_slice(b"\n");
        assert_eq!(decoder.decode(&mut buf), Ok(Some(Decoded::HeartBeat)));
        buf.extend_from_slice(b"\rSEND");
        assert_eq!(decoder.decode(&mut buf), Err(FrameError::BareCr));
    }

    #[test]
    fn other_protocols_are_recognised() {
        let speaks = |wire: &[u8]| match first(None, wire) {
            Err(FrameError::NotStomp(it)) => it,
            other => panic!("{other:?}"),
        };
        for request in ["GET / HTTP/1.1\r\n", "POST ", "PRI * HTTP/2.0", "CONNECT a:443 HTTP/1.1"] {
            assert_eq!(speaks(request.as_bytes()), Speaks::Http, "{request}");
        }
        assert_eq!(speaks(&[0x16, 3, 1, 2, 0, 1]), Speaks::Tls);
        assert_eq!(first(None, &[0x16]), Ok(None));
        for garbage in [&b"\x16x"[..], b"\0", b"{\"op\"", b"SEND x", b"SEND:", "é".as_bytes(), b"GETS /"] {
            assert_eq!(speaks(garbage), Speaks::Garbage, "{garbage:?}");
        }
        assert_eq!(first(None, b"GET"), Ok(None));
    }

    #[test]
    fn commands_are_a_closed_set() {
        let unknown = |word: &str| FrameError::UnknownCommand(word.to_owned());
        assert_eq!(error(None, "send\n"), unknown("send"));
        assert_eq!(error(Some(V1_1), "HELLO\r\n"), unknown("HELLO"));
        assert_eq!(error(None, "ABCDEFGHIJKLMNOPQ"), unknown("ABCDEFGHIJKLMNOP"));
        assert_eq!(first(None, b"ABCDEFGHIJKLMNO"), Ok(None));
    }

    #[test]
    fn carriage_returns_as_the_version_says() {
        for version in [V1_0, V1_1] {
            assert_eq!(error(Some(version), "SEND\r\n\n\0"), FrameError::BareCr);
            assert_eq!(error(Some(version), "SEND\na:1\r\n\n\0"), FrameError::BareCr);
            assert_eq!(error(Some(version), "SEND\n\r\n\0"), FrameError::BareCr);
            frame(Some(version), b"CONNECT\r\na:1\r\n\r\n\0");
        }
        for version in [None, Some(V1_2)] {
            assert_eq!(frame(version, b"SEND\r\na:1\r\n\r\n\0").headers.get("a"), Some("1"));
            assert_eq!(error(version, "SEND\na:1\r2\n\n\0"), FrameError::BareCr);
            assert_eq!(error(version, "SEND\na:1\r\r\n\n\0"), FrameError::BareCr);
            assert_eq!(error(version, "SEND\rx"), FrameError::BareCr);
        }
    }

    #[test]
    fn escapes_as_the_version_says() {
        let value = |version, text: &str| {
            let wire = format!("SEND\nk:{text}\n\n\0");
            let frame = first(Some(version), wire.as_bytes())?;
            let Some(Decoded::Frame(frame)) = frame else { panic!("{frame:?}") };
            Ok(frame.headers.get("k").unwrap().to_owned())
        };
        assert_eq!(value(V1_0, r"\n\c\\\r\x\"), Ok(r"\n\c\\\r\x\".to_owned()));
        for version in [V1_1, V1_2] {
            assert_eq!(value(version, r"a\nb\cc\\n"), Ok("a\nb:c\\n".to_owned()));
            assert_eq!(value(version, " x:y "), Ok(" x:y ".to_owned()), "exact");
            for bad in [r"\t", r"\", r"\N", r"\é", r"a\\\"] {
                assert_eq!(value(version, bad), Err(FrameError::BadEscape), "{bad}");
            }
        }
        assert_eq!(value(V1_1, r"\r"), Err(FrameError::BadEscape));
        assert_eq!(value(V1_2, r"\r"), Ok("\r".to_owned()));
    }

    #[test]
    fn names_are_unescaped_too() {
        let got = frame(Some(V1_1), b"SEND\na\\cb:\\c\nc:2\n\n\0");
        let list: Vec<_> = got.headers.iter().collect();
        assert_eq!(list, [("a:b", ":"), ("c", "2")]);
        assert_eq!(error(Some(V1_1), "SEND\na\\nb:1\n\n\0"), FrameError::ControlInName);
    }

    #[test]
    fn handshakes_are_not_unescaped() {
        for version in [None, Some(V1_0), Some(V1_1), Some(V1_2)] {
            for command in ["CONNECT", "STOMP", "CONNECTED"] {
                let wire = format!("{command}\npasscode:a\\x\\n:b\n\n\0");
                let got = frame(version, wire.as_bytes());
                assert_eq!(got.headers.get("passcode"), Some("a\\x\\n:b"));
            }
        }
    }

    #[test]
    fn malformed_heads() {
        let of = |head: &str| error(None, &format!("SEND\n{head}\n\n\0"));
        assert_eq!(of("no colon"), FrameError::HeaderWithoutColon);
        assert_eq!(of(":x"), FrameError::EmptyHeaderName);
        assert_eq!(of("a\tb:x"), FrameError::ControlInName);
        assert_eq!(of("a\x7f:x"), FrameError::ControlInName);
        assert_eq!(of("a:b\0"), FrameError::NulInHeader);
        assert_eq!(error(None, "SEND\n\0"), FrameError::NulInHeader);
        assert_eq!(first(None, b"SEND\na:\xff\n\n\0"), Err(FrameError::BadUtf8));
        assert_eq!(frame(None, b"SEND\na:x\ty\x1b\n\n\0").headers.get("a"), Some("x\ty\x1b"));
    }

    #[test]
    fn content_length_is_digits_and_within_the_limit() {
        let of = |value: &str| error(None, &format!("SEND\ncontent-length:{value}\n\n"));
        for bad in ["", "+1", "-1", " 1", "1 ", "0x1", "1.0", "١"] {
            let text = of(bad);
            assert_eq!(text, FrameError::BadContentLength, "{bad:?}");
        }
        let too_large = |announced| FrameError::BodyTooLarge { announced, limit: 8 };
        assert_eq!(of("9"), too_large(9));
        let wide = Limits { header_line: 100, ..SMALL };
        let wire = format!("SEND\ncontent-length:{}\n\n", "9".repeat(40));
        let got = decoder(None, wide).decode(&mut BytesMut::from(wire.as_str()));
        assert_eq!(got, Err(too_large(u64::MAX)));
        assert_eq!(frame(None, b"SEND\ncontent-length:02\n\n\0\0\0").body.len(), 2);
        let repeated = frame(None, b"SEND\ncontent-length:1\ncontent-length:3\n\nx\0");
        assert_eq!(repeated.body, "x", "the first counts");
        assert_eq!(error(None, "SEND\ncontent-length:1\n\nxy\0"), FrameError::MissingNul);
        assert_eq!(first(None, b"SEND\ncontent-length:1\n\nx"), Ok(None));
    }

    #[test]
    fn limits_hold_to_the_byte() {
        let limits = Limits { headers: 2, header_line: 5, head: 16, body: 3 };
        let of = |wire: &str| decoder(None, limits).decode(&mut BytesMut::from(wire));
        assert!(of("ACK\na:345\nb:34\n\n").is_ok(), "a head of 16 bytes");
        assert_eq!(of("ACK\na:345\nb:345\n"), Err(FrameError::HeadTooLarge { limit: 16 }));
        assert_eq!(of("ACK\na:3456"), Err(FrameError::HeaderTooLong { limit: 5 }));
        assert_eq!(of("ACK\na:\nb:\nc:\n"), Err(FrameError::TooManyHeaders { limit: 2 }));
        assert_eq!(of("ACK\n\nabc"), Ok(None));
        assert_eq!(of("ACK\n\nabcd"), Err(FrameError::BodyWithoutEnd { limit: 3 }));
    }

    #[test]
    fn before_login_4_kib_are_the_end() {
        let connect = "CONNECT\nlogin:";
        let of = |bytes: usize| {
            let fill = "x".repeat(bytes - connect.len() - 3);
            let wire = format!("{connect}{fill}\n\n\0");
            assert_eq!(wire.len(), bytes);
            Decoder::new(Limits::PRE_AUTH).decode(&mut BytesMut::from(wire.as_str()))
        };
        assert!(of(4096).is_ok());
        assert_eq!(of(4097), Err(FrameError::HeadTooLarge { limit: 4095 }));
    }

    #[test]
    fn after_an_error_nothing_is_decoded() {
        let mut decoder = decoder(None, SMALL);
        let mut buf = BytesMut::from("what?\nSEND\n\n\0");
        let error = decoder.decode(&mut buf).unwrap_err();
        buf.clear();
        buf.extend_from_slice(b"SEND\n\n\0");
        assert_eq!(decoder.decode(&mut buf), Err(error));
    }

    #[test]
    fn a_trickle_is_never_looked_at_twice() {
        let mut decoder = decoder(None, Limits::default());
        let mut buf = BytesMut::from("SEND\nk:");
        for _ in 0..1_000 {
            buf.extend_from_slice(b"x");
            assert_eq!(decoder.decode(&mut buf), Ok(None));
            assert!(matches!(&decoder.phase, Phase::Head(head) if head.scanned == buf.len()));
        }
        buf.extend_from_slice(b"\n\n");
        for _ in 0..1_000 {
            buf.extend_from_slice(b"x");
            assert_eq!(decoder.decode(&mut buf), Ok(None));
            assert!(matches!(&decoder.phase, Phase::Body(body) if body.scanned == buf.len()));
        }
    }
}
