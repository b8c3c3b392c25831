//! What is a STOMP frame, and what of it do we accept?
//!
//! [`Decoder`] turns received bytes into frames, [`encode()`] and [`Encoder`] turn frames into bytes; neither does I/O.
//! Where STOMP leaves room, or its versions differ:
//!
//! - Header values are taken exactly as they stand: nothing is trimmed, in 1.0 neither.
//! - CONNECT, STOMP and CONNECTED are never escaped, in any version: the version is agreed on only with them.
//! - CR LF ends a line in 1.2 and wherever the version isn't known yet; in 1.0 and 1.1 a CR in a head is an error.
//!   Between frames CR LF is a heart-beat in every version.
//! - A body is accepted with any command, within its limit: clients in the field send such frames.

mod decode;
mod encode;
mod headers;

use std::fmt;

use bytes::Bytes;

pub use decode::{Decoded, Decoder, Limits};
pub use encode::{Encoder, encode, encode_heart_beat};
pub use headers::Headers;

/// A version of STOMP. Later versions are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// No escapes, no heart-beats, no NACK.
    V1_0,
    /// Escapes `\n`, `\c` and `\\`.
    V1_1,
    /// Escapes `\r` too, and lines may end in CR LF.
    V1_2,
}

impl Version {
    /// As it stands in `accept-version` and `version`: `1.0`, `1.1`, `1.2`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1_0 => "1.0",
            Self::V1_1 => "1.1",
            Self::V1_2 => "1.2",
        }
    }

    /// The highest version that the value of `accept-version` (`1.0,1.1,1.2`) names and that we speak.
    ///
    /// Without the header the peer speaks 1.0, which had none. `None`: no version in common, refuse the connection.
    pub fn negotiate(accept_version: Option<&str>) -> Option<Self> {
        let Some(offered) = accept_version else {
            return Some(Self::V1_0);
        };
        let ours = [Self::V1_2, Self::V1_1, Self::V1_0];
        ours.into_iter().find(|version| offered.split(',').any(|offer| offer.trim() == version.as_str()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a frame asks for or tells. The set is closed: any other word ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // they are STOMP's own words
pub enum Command {
    Connect,
    Stomp,
    Connected,
    Send,
    Subscribe,
    Unsubscribe,
    Ack,
    Nack,
    Begin,
    Commit,
    Abort,
    Disconnect,
    Message,
    Receipt,
    Error,
}

impl Command {
    /// As it stands on the wire, in capitals.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Stomp => "STOMP",
            Self::Connected => "CONNECTED",
            Self::Send => "SEND",
            Self::Subscribe => "SUBSCRIBE",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::Ack => "ACK",
            Self::Nack => "NACK",
            Self::Begin => "BEGIN",
            Self::Commit => "COMMIT",
            Self::Abort => "ABORT",
            Self::Disconnect => "DISCONNECT",
            Self::Message => "MESSAGE",
            Self::Receipt => "RECEIPT",
            Self::Error => "ERROR",
        }
    }

    /// The command of this name. Case matters, as STOMP says.
    pub fn parse(word: &str) -> Option<Self> {
        Self::from_bytes(word.as_bytes())
    }

    fn from_bytes(word: &[u8]) -> Option<Self> {
        Some(match word {
            b"CONNECT" => Self::Connect,
            b"STOMP" => Self::Stomp,
            b"CONNECTED" => Self::Connected,
            b"SEND" => Self::Send,
            b"SUBSCRIBE" => Self::Subscribe,
            b"UNSUBSCRIBE" => Self::Unsubscribe,
            b"ACK" => Self::Ack,
            b"NACK" => Self::Nack,
            b"BEGIN" => Self::Begin,
            b"COMMIT" => Self::Commit,
            b"ABORT" => Self::Abort,
            b"DISCONNECT" => Self::Disconnect,
            b"MESSAGE" => Self::Message,
            b"RECEIPT" => Self::Receipt,
            b"ERROR" => Self::Error,
            _ => return None,
        })
    }

    /// True for the frames that agree on a version, and so cannot depend on one.
    fn is_handshake(self) -> bool {
        matches!(self, Self::Connect | Self::Stomp | Self::Connected)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One frame. A clone shares the body, and of received frames the text of the headers too.
///
/// A received frame keeps the whole read buffer alive that it came in; what is kept for long is better copied.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it asks for or tells.
    pub command: Command,
    /// In the order of the wire.
    pub headers: Headers,
    /// Any bytes, NULs included.
    pub body: Bytes,
}

impl Frame {
    /// A frame with neither headers nor a body.
    pub fn new(command: Command) -> Self {
        Self { command, headers: Headers::new(), body: Bytes::new() }
    }

    /// Adds a header at the end.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push(name, value);
        self
    }

    /// Replaces the body. `content-length` is the encoder's business.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// About how many bytes it takes on the wire; exact enough to reserve memory or to count an outbox (escapes are not counted).
    pub fn encoded_len_hint(&self) -> usize {
        const REST: usize = "content-length:1048576\n\n\n\0".len();
        self.command.as_str().len() + self.headers.wire_len() + self.body.len() + REST
    }
}

/// Shows the length of the body only: bodies are large, and may be secret.
impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("command", &self.command)
            .field("headers", &self.headers)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish()
    }
}

/// Why received bytes are not a frame. The text is meant for the peer; it quotes no header, since that may hold a password.
///
/// None can be recovered from: where the next frame begins is unknown. Send ERROR, then close.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Another protocol, most often on a wrong port.
    #[error("not STOMP: {0}")]
    NotStomp(Speaks),
    /// A word where a command is expected; its first letters.
    #[error("unknown command {0:?}; STOMP commands are in capitals, such as SEND")]
    UnknownCommand(String),
    /// Command and headers together.
    #[error("command and headers take more than {limit} bytes; send fewer or shorter headers")]
    HeadTooLarge {
        /// In bytes, the empty line included.
        limit: usize,
    },
    /// One header line.
    #[error("a header line is longer than {limit} bytes; put long text into the body")]
    HeaderTooLong {
        /// In bytes, without the line feed.
        limit: usize,
    },
    /// More lines than allowed.
    #[error("more than {limit} headers; send fewer")]
    TooManyHeaders {
        /// In header lines.
        limit: usize,
    },
    /// `content-length` says more than is allowed.
    #[error("content-length announces {announced} bytes, at most {limit} are accepted; split the message")]
    BodyTooLarge {
        /// In bytes; the greatest number if it has more digits than we count.
        announced: u64,
        /// In bytes.
        limit: usize,
    },
    /// Without `content-length` the body ends at a NUL, and none came in time.
    #[error("no NUL ended the body within {limit} bytes; split the message, and send content-length")]
    BodyWithoutEnd {
        /// In bytes.
        limit: usize,
    },
    /// A backslash with a letter that this version doesn't define.
    #[error(r"undefined escape in a header; \n, \c and \\ are defined, in STOMP 1.2 \r too")]
    BadEscape,
    /// Header text in another encoding.
    #[error("a header is not UTF-8; send header text as UTF-8")]
    BadUtf8,
    /// A NUL before the empty line that ends the headers.
    #[error("a NUL among the headers; an empty line must end the headers, also where there is no body")]
    NulInHeader,
    /// A CR that doesn't end a line, or a CR LF where the version knows LF only.
    #[error(r"a carriage return in the head of a frame; end lines with LF, or CR LF in STOMP 1.2, and escape it as \r in 1.2")]
    BareCr,
    /// Anything but digits.
    #[error("content-length is not a number; send decimal digits only")]
    BadContentLength,
    /// The byte after the announced body is not NUL.
    #[error("no NUL after the body; content-length must count the body's bytes, not characters")]
    MissingNul,
    /// A line that isn't `name:value`.
    #[error("a header line without a colon; send name:value")]
    HeaderWithoutColon,
    /// A line that begins with a colon.
    #[error("a header without a name; send name:value")]
    EmptyHeaderName,
    /// A control character, raw or escaped, in a name.
    #[error("a control character in the name of a header; use printable characters")]
    ControlInName,
}

/// What a peer that doesn't speak STOMP seems to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// A request line came.
    Http,
    /// A TLS ClientHello came, and nobody had decrypted it.
    Tls,
    /// Nothing that we know.
    Garbage,
}

impl fmt::Display for Speaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "this is an HTTP request; the admin API and the console have a port of their own",
            Self::Tls => "this is a TLS handshake on a port without TLS; use the TLS port, or connect without TLS",
            Self::Garbage => "the first line is no command; use a STOMP client, with TLS on both sides or on neither",
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const VERSIONS: [Version; 3] = [Version::V1_0, Version::V1_1, Version::V1_2];
    const COMMANDS: [Command; 15] = [
        Command::Connect,
        Command::Stomp,
        Command::Connected,
        Command::Send,
        Command::Subscribe,
        Command::Unsubscribe,
        Command::Ack,
        Command::Nack,
        Command::Begin,
        Command::Commit,
        Command::Abort,
        Command::Disconnect,
        Command::Message,
        Command::Receipt,
        Command::Error,
    ];

    #[test]
    fn the_highest_common_version_is_taken() {
        let negotiate = |offer| Version::negotiate(Some(offer));
        assert_eq!(Version::negotiate(None), Some(Version::V1_0));
        assert_eq!(negotiate("1.2,1.0"), Some(Version::V1_2));
        assert_eq!(negotiate("1.0, 1.1"), Some(Version::V1_1));
        assert_eq!(negotiate("1.0,2.0"), Some(Version::V1_0));
        assert_eq!(negotiate("2.0"), None);
        assert_eq!(negotiate(""), None);
        assert!(VERSIONS.is_sorted());
    }

    #[test]
    fn commands_are_parsed_as_they_are_printed() {
        for command in COMMANDS {
            assert_eq!(Command::parse(command.as_str()), Some(command));
        }
        assert_eq!(Command::parse("send"), None);
    }

    #[test]
    fn debug_shows_no_body() {
        let frame = Frame::new(Command::Send).with_body("s3cret");
        let shown = format!("{frame:?}");
        assert!(shown.contains("6 bytes") && !shown.contains("s3cret"), "{shown}");
    }

    /// Text in which all that is special to STOMP is frequent.
    fn text() -> impl Strategy<Value = String> {
        let special = prop::sample::select("\n\r\0:\\ nrc\t\x7f".chars().collect::<Vec<_>>());
        let char = prop_oneof![2 => special, 1 => prop::char::range('a', 'e'), 1 => any::<char>()];
        vec(char, 0..12).prop_map(String::from_iter)
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let headers = vec((text().prop_filter("empty", |name| !name.is_empty()), text()), 0..8);
        let body = vec(prop_oneof![Just(0), Just(b'\n'), any::<u8>()], 0..64);
        (prop::sample::select(&COMMANDS[..]), headers, body).prop_map(|(command, headers, body)| {
            let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            Frame { command, headers: headers.collect(), body: body.into() }
        })
    }

    /// What is left of a header once it was on the wire: see [`Encoder`].
    fn expressible(text: &str, is_name: bool, command: Command, version: Version) -> String {
        let escaped = version > Version::V1_0 && !command.is_handshake();
        let lost = |char: char| match char {
            '\0' => true,
            _ if is_name && char.is_ascii_control() => true,
            ':' => is_name && !escaped,
            '\n' => !escaped,
            '\r' => !escaped || version < Version::V1_2,
            _ => false,
        };
        text.chars().map(|char| if lost(char) { ' ' } else { char }).collect()
    }

    #[track_caller]
    fn check(sent: &Frame, got: &Frame, version: Version) {
        assert_eq!(got.command, sent.command);
        assert_eq!(got.body, sent.body);
        let expected: Vec<_> = sent
            .headers
            .iter()
            .map(|(name, value)| {
                let part = |text, is_name| expressible(text, is_name, sent.command, version);
                (part(name, true), part(value, false))
            })
            .collect();
        let received: Vec<_> = got
            .headers
            .iter()
            .filter(|(name, _)| *name != "content-length")
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        assert_eq!(received, expected);
    }

    /// Feeds pieces of these lengths, over and over; gives the frames, whether there were heart-beats between them, and the error.
    fn feed(
        wire: &[u8],
        pieces: &[usize],
        version: Option<Version>,
        limits: Limits,
    ) -> (Vec<Decoded>, Option<FrameError>) {
        let mut decoder = Decoder::new(limits);
        if let Some(version) = version {
            decoder.set_version(version);
        }
        let (mut buf, mut all, mut rest) = (BytesMut::new(), Vec::new(), wire);
        for piece in pieces.iter().cycle() {
            let (now, later) = rest.split_at((*piece).min(rest.len()));
            buf.extend_from_slice(now);
            rest = later;
            loop {
                match decoder.decode(&mut buf) {
                    Ok(Some(Decoded::HeartBeat)) if all.last() == Some(&Decoded::HeartBeat) => {}
                    Ok(Some(decoded)) => all.push(decoded),
                    Ok(None) => break,
                    Err(error) => return (all, Some(error)),
                }
            }
            assert!(buf.len() <= limits.head.max(limits.body), "waits beyond its limits");
            if rest.is_empty() {
                break;
            }
        }
        (all, None)
    }

    const SMALL: Limits = Limits { head: 64, header_line: 24, headers: 4, body: 16 };

    const TOKENS: &[&[u8]] = &[
        b"SEND\n",
        b"CONNECT\r\n",
        b"MESSAGE",
        b"GET ",
        b"\x16\x03",
        b"a:b",
        b"content-length:",
        b"3",
        b"17",
        b"\n",
        b"\n",
        b"\n\n",
        b"\r\n",
        b"\r",
        b"\0",
        b"\0",
        b"\\",
        b"\\c",
        b":",
        b"xyz",
        b"\xff",
        b"\nlong:0123456789012345678901234",
    ];

    /// Bytes that get far into the decoder: pieces of frames, in any order.
    fn nearly_stomp() -> impl Strategy<Value = Vec<u8>> {
        let token = prop::sample::select(TOKENS);
        let token = prop_oneof![8 => token.prop_map(<[u8]>::to_vec), 1 => vec(any::<u8>(), 0..8)];
        vec(token, 0..16).prop_map(|tokens| tokens.concat())
    }

    fn pieces() -> impl Strategy<Value = Vec<usize>> {
        prop_oneof![Just(vec![1]), vec(1..40_usize, 1..6)]
    }

    proptest! {
        #[test]
        fn frames_come_back_as_they_were_sent(
            frames in vec(frame(), 1..6),
            version in prop::sample::select(&VERSIONS[..]),
            beats in any::<bool>(),
            pieces in pieces(),
        ) {
            let mut wire = BytesMut::new();
            for frame in &frames {
                encode(frame, version, &mut wire);
                if beats {
                    encode_heart_beat(&mut wire);
                }
            }
            let (mut got, error) = feed(&wire, &pieces, Some(version), Limits::default());
            prop_assert_eq!(error, None);
            prop_assert_eq!(got.contains(&Decoded::HeartBeat), beats);
            got.retain(|it| *it != Decoded::HeartBeat);
            prop_assert_eq!(got.len(), frames.len());
            for (sent, got) in frames.iter().zip(&got) {
                let Decoded::Frame(got) = got else { unreachable!() };
                check(sent, got, version);
            }
        }

        #[test]
        fn it_does_not_matter_how_bytes_are_split(
            wire in nearly_stomp(),
            version in prop::option::of(prop::sample::select(&VERSIONS[..])),
            pieces in pieces(),
        ) {
            let whole = feed(&wire, &[usize::MAX], version, SMALL);
            prop_assert_eq!(feed(&wire, &pieces, version, SMALL), whole);
        }

        #[test]
        fn decoded_frames_are_within_the_limits(
            wire in prop_oneof![nearly_stomp(), vec(any::<u8>(), 0..200)],
            pieces in pieces(),
        ) {
            for decoded in feed(&wire, &pieces, None, SMALL).0 {
                let Decoded::Frame(frame) = decoded else { continue };
                prop_assert!(frame.body.len() <= SMALL.body);
                prop_assert!(frame.headers.len() <= SMALL.headers);
                prop_assert!(frame.headers.wire_len() <= SMALL.head);
            }
        }

        #[test]
        fn what_was_decoded_can_be_passed_on(wire in nearly_stomp(), version in prop::sample::select(&VERSIONS[..])) {
            for decoded in feed(&wire, &[usize::MAX], None, SMALL).0 {
                let Decoded::Frame(frame) = decoded else { continue };
                let mut again = BytesMut::new();
                encode(&frame, version, &mut again);
                let (got, error) = feed(&again, &[usize::MAX], Some(version), Limits::default());
                prop_assert_eq!(error, None);
                prop_assert_eq!(got.len(), 1, "one frame stays one frame");
            }
        }
    }
}
