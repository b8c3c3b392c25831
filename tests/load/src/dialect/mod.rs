//! How is the same thing said in the protocols of the brokers that are compared? Plain: bytes out, events in.

mod nats;

use bytes::{Bytes, BytesMut};
use muster_protocol::frame::{Command, Decoded, Decoder, Encoder, FrameError, Limits, Version};
use nats::NatsError;
use serde::{Deserialize, Serialize};

/// What a broker speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Dialect {
    /// STOMP 1.2, as Muster and ActiveMQ do.
    Stomp,
    /// The text protocol of NATS clients.
    Nats,
}

/// What a broker has said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The login, or the subscription, is in place; one for each.
    Done,
    Message {
        /// Where an answer goes.
        reply_to: Option<String>,
        body: Bytes,
    },
    /// It wants [`Dialect::PONG`] back.
    Ping,
    /// Its last word.
    Refused(String),
    /// Nothing that matters here.
    Other,
}

/// What came is not the protocol.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialectError {
    #[error(transparent)]
    Stomp(#[from] FrameError),
    #[error(transparent)]
    Nats(#[from] NatsError),
}

impl Dialect {
    /// What answers a ping; of STOMP none comes, since no heart-beats are asked for.
    pub(crate) const PONG: &[u8] = b"PONG\r\n";

    /// What a broker says before TLS, as it begins.
    pub(crate) fn greeting(self) -> Option<&'static [u8]> {
        match self {
            Dialect::Stomp => None,
            Dialect::Nats => Some(b"INFO "),
        }
    }

    /// What all sessions hear.
    pub(crate) fn everybody(self) -> &'static str {
        match self {
            Dialect::Stomp => "/topic/stream.everybody",
            Dialect::Nats => "stream.everybody",
        }
    }

    /// What goes from one client to those few that subscribe for a stream.
    pub(crate) fn stream(self) -> &'static str {
        match self {
            Dialect::Stomp => "/topic/stream.load",
            Dialect::Nats => "stream.load",
        }
    }

    /// Where replies go, for the one who asks.
    pub(crate) fn reply_queue(self) -> &'static str {
        match self {
            Dialect::Stomp => "/temp-queue/load",
            Dialect::Nats => "_INBOX.load",
        }
    }

    /// A ping, in bytes that are not decoded.
    pub(crate) fn ping(self) -> Option<&'static [u8]> {
        match self {
            Dialect::Stomp => None,
            Dialect::Nats => Some(b"PING\r\n"),
        }
    }

    /// How a last word begins, in bytes that are not decoded.
    pub(crate) fn last_word(self) -> &'static [u8] {
        match self {
            Dialect::Stomp => b"ERROR\n",
            Dialect::Nats => b"-ERR ",
        }
    }

    /// Logs in; the answer is [`Event::Done`].
    pub(crate) fn log_in(self, user: &str, password: &str, out: &mut BytesMut) {
        match self {
            Dialect::Stomp => Encoder::start(Command::Connect, Version::V1_2, out)
                .header("accept-version", "1.2")
                .header("host", "muster")
                .header("heart-beat", "0,0")
                .header("login", user)
                .header("passcode", password)
                .finish(b""),
            Dialect::Nats => nats::connect(user, password, out),
        }
    }

    /// Subscribes; the answer is [`Event::Done`].
    pub(crate) fn subscribe(self, destination: &str, out: &mut BytesMut) {
        match self {
            Dialect::Stomp => Encoder::start(Command::Subscribe, Version::V1_2, out)
                .header("destination", destination)
                .header("id", "1")
                .header("receipt", "1")
                .finish(b""),
            Dialect::Nats => nats::subscribe(destination, out),
        }
    }

    /// Sends a message. There is no answer.
    pub(crate) fn publish(self, destination: &str, reply_to: Option<&str>, body: &[u8], out: &mut BytesMut) {
        match self {
            Dialect::Stomp => {
                let encoder = Encoder::start(Command::Send, Version::V1_2, out).header("destination", destination);
                match reply_to {
                    Some(reply_to) => encoder.header("reply-to", reply_to).finish(body),
                    None => encoder.finish(body),
                }
            }
            Dialect::Nats => nats::publish(destination, reply_to, body, out),
        }
    }
}

/// Finds events in the bytes of one connection.
#[derive(Debug)]
pub(crate) enum Reader {
    Stomp(Box<Decoder>),
    Nats,
}

impl Reader {
    /// Of a connection that begins.
    pub(crate) fn new(dialect: Dialect) -> Reader {
        match dialect {
            Dialect::Stomp => {
                let mut decoder = Decoder::new(Limits::default());
                // No other is asked for.
                decoder.set_version(Version::V1_2);
                Reader::Stomp(Box::new(decoder))
            }
            Dialect::Nats => Reader::Nats,
        }
    }

    /// Takes the next event from the front of `buffer`, which only grows in between; `None`: there must be more first.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Event>, DialectError> {
        let decoder = match self {
            Reader::Stomp(decoder) => decoder,
            Reader::Nats => return Ok(nats::decode(buffer)?),
        };
        Ok(decoder.decode(buffer)?.map(|decoded| match decoded {
            Decoded::HeartBeat => Event::Other,
            Decoded::Frame(frame) => match frame.command {
                Command::Connected | Command::Receipt => Event::Done,
                Command::Message => {
                    let reply_to = frame.headers.get("reply-to").map(str::to_owned);
                    Event::Message { reply_to, body: frame.body }
                }
                Command::Error => Event::Refused(frame.headers.get("message").unwrap_or("no reason").to_owned()),
                _ => Event::Other,
            },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stomp_is_spoken_as_the_protocol_crate_reads_it() {
        let mut bytes = BytesMut::new();
        Dialect::Stomp.subscribe("/topic/a", &mut bytes);
        Dialect::Stomp.publish("/topic/a", Some("/temp-queue/q"), b"hi", &mut bytes);
        let mut decoder = Decoder::new(Limits::default());
        let mut next = || match decoder.decode(&mut bytes).expect("STOMP") {
            Some(Decoded::Frame(frame)) => frame,
            other => panic!("{other:?}"),
        };
        assert_eq!(next().command, Command::Subscribe);
        let send = next();
        assert_eq!(
            (send.headers.get("destination"), send.headers.get("reply-to")),
            (Some("/topic/a"), Some("/temp-queue/q"))
        );
        assert_eq!(send.body, "hi");
    }

    #[test]
    fn what_a_stomp_broker_says_becomes_events() {
        let mut buffer = BytesMut::from(
            &b"CONNECTED\nversion:1.2\n\n\0MESSAGE\nreply-to:/remote-temp-queue/x\ncontent-length:2\n\nhi\0ERROR\nmessage:no\n\n\0MESS"[..],
        );
        let mut reader = Reader::new(Dialect::Stomp);
        let mut next = || reader.next(&mut buffer).expect("STOMP");
        assert_eq!(next(), Some(Event::Done));
        let reply_to = Some("/remote-temp-queue/x".to_owned());
        assert_eq!(next(), Some(Event::Message { reply_to, body: "hi".into() }));
        assert_eq!(next(), Some(Event::Refused("no".into())));
        assert_eq!(next(), None);
    }
}
