//! What do a NATS client and its server say? The few verbs that are needed here; headers are not asked for.

use super::Event;
use bytes::{Buf, BufMut, BytesMut};
use memchr::memchr;
use std::fmt::Write as _;

/// Bytes of the longest line that is read; a server's own INFO is the longest.
const LINE: usize = 32 * 1024;
/// Bytes of the longest body that is read: what a server takes unless told.
const BODY: usize = 1024 * 1024;
/// Each connection has one subscription.
const SUBSCRIPTION: u32 = 1;

/// What came is not of this protocol.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NatsError {
    #[error("a line has more than {LINE} bytes")]
    LongLine,
    #[error("a body has {0} bytes, more than {BODY}")]
    LongBody(usize),
    #[error("a line is not understood: {0:?}")]
    Line(String),
    #[error("a body does not end where it should")]
    Body,
}

/// Logs in. Answered by PONG when it worked.
pub(super) fn connect(user: &str, password: &str, out: &mut BytesMut) {
    let options = serde_json::json!({
        "verbose": false, "pedantic": false, "tls_required": true, "lang": "rust", "version": env!("CARGO_PKG_VERSION"),
        "protocol": 1, "echo": true, "user": user, "pass": password,
    });
    write(out, format_args!("CONNECT {options}\r\nPING\r\n"));
}

/// Subscribes. Answered by PONG, behind which it is in place.
pub(super) fn subscribe(subject: &str, out: &mut BytesMut) {
    write(out, format_args!("SUB {subject} {SUBSCRIPTION}\r\nPING\r\n"));
}

/// Sends a message.
pub(super) fn publish(subject: &str, reply_to: Option<&str>, body: &[u8], out: &mut BytesMut) {
    out.reserve(body.len() + 64);
    match reply_to {
        Some(reply_to) => write(out, format_args!("PUB {subject} {reply_to} {}\r\n", body.len())),
        None => write(out, format_args!("PUB {subject} {}\r\n", body.len())),
    }
    out.extend_from_slice(body);
    out.put_slice(b"\r\n");
}

fn write(out: &mut BytesMut, text: std::fmt::Arguments<'_>) {
    // A buffer takes whatever there is room for, and it grows.
    let _ = out.write_fmt(text);
}

/// Takes the next event from the front of the buffer; `None`: there must be more first, and nothing was taken.
pub(super) fn decode(buffer: &mut BytesMut) -> Result<Option<Event>, NatsError> {
    let end = match memchr(b'\n', &buffer[..buffer.len().min(LINE)]) {
        Some(end) => end,
        None if buffer.len() >= LINE => return Err(NatsError::LongLine),
        None => return Ok(None),
    };
    let line = buffer[..end].strip_suffix(b"\r").unwrap_or(&buffer[..end]);
    let text = std::str::from_utf8(line).map_err(|_| not_understood(line))?;
    let (verb, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    let event = match verb {
        "MSG" => {
            let (reply_to, length) = message(rest).ok_or_else(|| not_understood(line))?;
            if length > BODY {
                return Err(NatsError::LongBody(length));
            }
            let body = end + 1;
            if buffer.len() < body + length + 2 {
                return Ok(None);
            }
            let reply_to = reply_to.map(str::to_owned);
            buffer.advance(body);
            let body = buffer.split_to(length).freeze();
            if buffer[..2] != *b"\r\n" {
                return Err(NatsError::Body);
            }
            buffer.advance(2);
            return Ok(Some(Event::Message { reply_to, body }));
        }
        "PING" => Event::Ping,
        "PONG" => Event::Done,
        "INFO" | "+OK" => Event::Other,
        "-ERR" => Event::Refused(rest.trim().trim_matches('\'').to_owned()),
        _ => return Err(not_understood(line)),
    };
    buffer.advance(end + 1);
    Ok(Some(event))
}

/// `SUBJECT SID [REPLY-TO] LENGTH`: where an answer goes, and the length.
fn message(arguments: &str) -> Option<(Option<&str>, usize)> {
    let words: Vec<&str> = arguments.split_ascii_whitespace().collect();
    match words[..] {
        [_, _, length] => Some((None, length.parse().ok()?)),
        [_, _, reply_to, length] => Some((Some(reply_to), length.parse().ok()?)),
        _ => None,
    }
}

fn not_understood(line: &[u8]) -> NatsError {
    const SHOWN: usize = 60;
    NatsError::Line(String::from_utf8_lossy(&line[..line.len().min(SHOWN)]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(reply_to: Option<&str>, body: &'static str) -> Event {
        Event::Message { reply_to: reply_to.map(str::to_owned), body: body.into() }
    }

    fn all(buffer: &mut BytesMut) -> Vec<Event> {
        std::iter::from_fn(|| decode(buffer).expect("NATS")).collect()
    }

    const STREAM: &str = "INFO {\"server_id\":\"x\"}\r\n+OK\r\nMSG a.b 1 5\r\nhello\r\nPING\r\nMSG a 1 _INBOX.q  0\r\n\r\nPONG\r\n\
                          MSG a 1 4\r\n\r\n\r\n\r\n-ERR 'Authorization Violation'\r\n";

    fn events() -> Vec<Event> {
        vec![
            Event::Other,
            Event::Other,
            message(None, "hello"),
            Event::Ping,
            message(Some("_INBOX.q"), ""),
            Event::Done,
            message(None, "\r\n\r\n"),
            Event::Refused("Authorization Violation".into()),
        ]
    }

    #[test]
    fn a_stream_is_read_the_same_however_it_is_cut() {
        let mut whole = BytesMut::from(STREAM);
        assert_eq!(all(&mut whole), events());
        assert!(whole.is_empty());
        let (mut buffer, mut seen) = (BytesMut::new(), Vec::new());
        for byte in STREAM.bytes() {
            buffer.put_u8(byte);
            seen.extend(all(&mut buffer));
        }
        assert_eq!((seen, buffer.len()), (events(), 0));
    }

    #[test]
    fn what_is_incomplete_is_left_for_later() {
        for part in ["", "MSG a 1 5", "MSG a 1 5\r\n", "MSG a 1 5\r\nhello", "MSG a 1 5\r\nhello\r", "PIN", "PING"] {
            let mut buffer = BytesMut::from(part);
            assert_eq!(decode(&mut buffer), Ok(None), "{part:?}");
            assert_eq!(buffer, part);
        }
    }

    #[test]
    fn what_is_not_the_protocol_is_an_error() {
        let error = |text: &[u8]| decode(&mut BytesMut::from(text)).expect_err("an error");
        for line in [
            "HTTP/1.1 400 Bad Request\r\n",
            "\r\n",
            "MSG a 1\r\n",
            "MSG a 1 -1\r\n",
            "MSG a 1 r 5 x\r\n",
            "MSG a 1 five\r\n",
        ] {
            assert!(matches!(error(line.as_bytes()), NatsError::Line(_)), "{line:?}");
        }
        assert!(matches!(error(b"\xff\xfe\r\n"), NatsError::Line(_)));
        assert_eq!(error(b"MSG a 1 1048577\r\n"), NatsError::LongBody(1_048_577));
        assert_eq!(error(b"MSG a 1 2\r\nhello\r\n"), NatsError::Body);
        assert_eq!(error(&[b'x'; LINE]), NatsError::LongLine);
        let Err(NatsError::Line(shown)) = decode(&mut BytesMut::from(&[&[b'x'; 500][..], b"\n"].concat()[..])) else {
            panic!("a line that is not understood")
        };
        assert_eq!(shown.len(), 60);
    }

    #[test]
    fn what_is_sent_reads_as_a_server_expects_it() {
        let mut out = BytesMut::new();
        publish("a.b", Some("_INBOX.q"), b"hello", &mut out);
        publish("a.b", None, b"", &mut out);
        subscribe("a.b", &mut out);
        assert_eq!(out, "PUB a.b _INBOX.q 5\r\nhello\r\nPUB a.b 0\r\n\r\nSUB a.b 1\r\nPING\r\n");
        out.clear();
        connect("me", "a \"word\"", &mut out);
        let text = String::from_utf8_lossy(&out);
        let options =
            text.strip_prefix("CONNECT ").and_then(|text| text.strip_suffix("\r\nPING\r\n")).expect("CONNECT and PING");
        let options: serde_json::Value = serde_json::from_str(options).expect("JSON");
        assert_eq!((&options["user"], &options["pass"]), (&"me".into(), &"a \"word\"".into()));
        assert_eq!((&options["verbose"], &options["echo"]), (&false.into(), &true.into()));
    }
}
