//! How does a frame become bytes, so that no text in it can pose as a header or a frame?

use bytes::{BufMut, BytesMut};

use super::{Command, Frame, Headers, Version};

/// Appends the frame to `out`, as [`Encoder`] says. `content-length` is always the encoder's own.
pub fn encode(frame: &Frame, version: Version, out: &mut BytesMut) {
    out.reserve(frame.encoded_len_hint());
    let mut encoder = Encoder::start(frame.command, version, out);
    for (name, value) in frame.headers.iter_bytes() {
        encoder.line(name, value);
    }
    encoder.finish(&frame.body);
}

/// Appends a heart-beat: one line feed.
pub fn encode_heart_beat(out: &mut BytesMut) {
    out.put_u8(b'\n');
}

/// Writes one frame straight into a buffer, for those who have its parts but no [`Frame`]. Dropped before `finish`, it leaves half a frame.
///
/// What a version cannot express becomes a space, so that nobody injects a header or a frame through a value:
/// NUL everywhere; CR below 1.2; LF, and a colon in a name, where nothing is escaped (1.0, and CONNECT, STOMP and
/// CONNECTED in all versions); control characters in names. A header with an empty name is left out.
#[derive(Debug)]
pub struct Encoder<'a> {
    out: &'a mut BytesMut,
    command: Command,
    escapes: Escapes,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Escapes {
    None,
    /// `\n \c \\`
    V1_1,
    /// `\n \c \\ \r`
    V1_2,
}

impl<'a> Encoder<'a> {
    /// Begins a frame behind what `out` holds already.
    pub fn start(command: Command, version: Version, out: &'a mut BytesMut) -> Self {
        out.extend_from_slice(command.as_str().as_bytes());
        out.put_u8(b'\n');
        Self::behind(command, version, out)
    }

    /// Goes on with a frame whose beginning was made before, by an encoder of the same command and version that was dropped: many
    /// frames may begin alike.
    pub fn resume(command: Command, version: Version, beginning: &[u8], out: &'a mut BytesMut) -> Self {
        out.extend_from_slice(beginning);
        Self::behind(command, version, out)
    }

    fn behind(command: Command, version: Version, out: &'a mut BytesMut) -> Self {
        let escapes = match version {
            _ if command.is_handshake() => Escapes::None,
            Version::V1_0 => Escapes::None,
            Version::V1_1 => Escapes::V1_1,
            Version::V1_2 => Escapes::V1_2,
        };
        Self { out, command, escapes }
    }

    /// Adds a header. `content-length` is ignored: [`Encoder::finish`] writes the true one, since a wrong one would turn the body into frames.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.line(name.as_bytes(), value.as_bytes());
        self
    }

    /// Adds all of these but those of that name.
    #[must_use]
    pub fn headers_but(mut self, headers: &Headers, but: &str) -> Self {
        for (name, value) in headers.iter_bytes().filter(|(name, _)| *name != but.as_bytes()) {
            self.line(name, value);
        }
        self
    }

    /// Adds a header whose value is a number.
    #[must_use]
    pub fn number(self, name: &str, value: u64) -> Self {
        self.out.extend_from_slice(name.as_bytes());
        put_number(value, b"\n", self.out);
        self
    }

    /// Ends the headers, and the frame. `content-length` goes with every body, and with every SEND, MESSAGE and ERROR.
    pub fn finish(self, body: &[u8]) {
        use Command::{Error, Message, Send};
        self.out.reserve(body.len() + 40);
        if !body.is_empty() || matches!(self.command, Send | Message | Error) {
            self.out.extend_from_slice(b"content-length");
            put_number(body.len() as u64, b"\n\n", self.out);
        } else {
            self.out.put_u8(b'\n');
        }
        self.out.extend_from_slice(body);
        self.out.put_u8(0);
    }

    fn line(&mut self, name: &[u8], value: &[u8]) {
        if name.is_empty() || name == b"content-length" {
            return;
        }
        self.text(name, true);
        self.out.put_u8(b':');
        self.text(value, false);
        self.out.put_u8(b'\n');
    }

    fn text(&mut self, text: &[u8], is_name: bool) {
        let mut rest = text;
        while let Some((clean, special, tail)) = split_at_special(rest) {
            self.out.extend_from_slice(clean);
            self.special(special, is_name);
            rest = tail;
        }
        self.out.extend_from_slice(rest);
    }

    fn special(&mut self, byte: u8, is_name: bool) {
        let escaped = self.escapes != Escapes::None;
        let written: &[u8] = match byte {
            b'\\' if escaped => b"\\\\",
            b':' if escaped => b"\\c",
            b':' if is_name => b" ",
            0 => b" ",
            _ if is_name && byte.is_ascii_control() => b" ",
            b'\n' if escaped => b"\\n",
            b'\r' if self.escapes == Escapes::V1_2 => b"\\r",
            b'\n' | b'\r' => b" ",
            _ => return self.out.put_u8(byte),
        };
        self.out.extend_from_slice(written);
    }
}

/// Bytes that may need care.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let mut byte = 0;
    while byte < special.len() {
        special[byte] = byte < 0x20 || byte == b':' as usize || byte == b'\\' as usize || byte == 0x7f;
        byte += 1;
    }
    special
};

/// Splits at the first byte that may need care. Almost no text has one, so first all of it is looked at without a branch.
fn split_at_special(text: &[u8]) -> Option<(&[u8], u8, &[u8])> {
    let special = |byte: &u8| SPECIAL[usize::from(*byte)];
    if !text.iter().fold(false, |any, byte| any | special(byte)) {
        return None;
    }
    let at = text.iter().position(special)?;
    let (clean, rest) = text.split_at(at);
    let (first, tail) = rest.split_first()?;
    Some((clean, *first, tail))
}

/// A colon, a number, and what ends it (at most two bytes). `write!` would take longer than all the headers.
fn put_number(mut number: u64, end: &[u8], out: &mut BytesMut) {
    // The longest number has 20 digits.
    let mut text = [b':'; 24];
    let behind = text.len() - end.len();
    let (rest, place) = text.split_at_mut(behind);
    place.copy_from_slice(end);
    let mut first = behind;
    loop {
        first -= 1;
        rest[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    // Before the first digit the colons are left.
    out.extend_from_slice(&text[first - 1..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use Version::{V1_0, V1_1, V1_2};

    fn wire(frame: &Frame, version: Version) -> String {
        let mut out = BytesMut::new();
        encode(frame, version, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn a_frame_in_full() {
        let frame = Frame::new(Command::Send).header("destination", "/queue/a").with_body("hi\0!");
        let expected = "SEND\ndestination:/queue/a\ncontent-length:4\n\nhi\0!\0";
        assert_eq!(wire(&frame, V1_2), expected);
        assert!(frame.encoded_len_hint() >= expected.len());
    }

    #[test]
    fn content_length_is_written_where_a_body_may_be() {
        let length = |command| wire(&Frame::new(command), V1_2).contains("content-length:0\n");
        assert!(length(Command::Send) && length(Command::Message) && length(Command::Error));
        assert!(!length(Command::Subscribe) && !length(Command::Receipt));
        let odd = Frame::new(Command::Receipt).with_body("x");
        assert_eq!(wire(&odd, V1_2), "RECEIPT\ncontent-length:1\n\nx\0");
    }

    #[test]
    fn a_wrong_content_length_is_not_believed() {
        let frame = Frame::new(Command::Send).header("content-length", "1").with_body("abc");
        assert_eq!(wire(&frame, V1_2), "SEND\ncontent-length:3\n\nabc\0");
    }

    #[test]
    fn each_version_escapes_what_it_can() {
        let frame = Frame::new(Command::Receipt).header("a:b\\\n", "1\n2\r3:4\\5\x006\t");
        assert_eq!(wire(&frame, V1_0), "RECEIPT\na b\\ :1 2 3:4\\5 6\t\n\n\0");
        assert_eq!(wire(&frame, V1_1), "RECEIPT\na\\cb\\\\ :1\\n2 3\\c4\\\\5 6\t\n\n\0");
        assert_eq!(wire(&frame, V1_2), "RECEIPT\na\\cb\\\\ :1\\n2\\r3\\c4\\\\5 6\t\n\n\0");
    }

    #[test]
    fn handshakes_are_never_escaped_and_never_injected_into() {
        for command in [Command::Connect, Command::Stomp, Command::Connected] {
            for version in [V1_0, V1_1, V1_2] {
                let frame = Frame::new(command).header("a", "\\c:x\nlogin:root\r\n\n\0");
                let expected = format!("{command}\na:\\c:x login:root    \n\n\0");
                assert_eq!(wire(&frame, version), expected);
            }
        }
    }

    #[test]
    fn a_header_without_a_name_is_left_out() {
        assert_eq!(wire(&Frame::new(Command::Ack).header("", "x"), V1_2), "ACK\n\n\0");
    }

    #[test]
    fn numbers() {
        for number in [0, 9, 10, 1_048_576, u64::MAX] {
            let mut out = BytesMut::new();
            put_number(number, b"\n\n", &mut out);
            assert_eq!(out, format!(":{number}\n\n"));
        }
    }
}
