//! What does a client see that sends whatever it likes? A raw STOMP connection: any bytes out, frames in.

use crate::{Broker, LIMIT};
use bytes::BytesMut;
use muster_protocol::frame::{self, Command, Decoded, Decoder, Frame, Limits, Version};
use muster_protocol::tls;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::Value;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The reply queue that [`Stomp::operator`] subscribes to.
pub const REPLIES: &str = "/temp-queue/replies";

/// A connection to a broker.
#[derive(Debug)]
pub struct Stomp {
    wire: Wire,
    decoder: Decoder,
    buffer: BytesMut,
    version: Version,
    /// Frames that came while another one was waited for.
    stash: VecDeque<Frame>,
    asked: u32,
}

#[derive(Debug)]
enum Wire {
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    Plain(TcpStream),
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As it should: the stream was closed.
    Closed,
    /// By a reset, which may have destroyed what was under way.
    Reset,
    /// It has not: nothing came in time.
    Silent,
}

/// An ERROR frame, or a `refused` event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// `muster-code`.
    pub code: String,
    /// `message`.
    pub text: String,
    /// `muster-retry-after`, ms.
    pub retry_after: Option<u64>,
    /// `muster-count`.
    pub count: Option<u64>,
}

impl Refused {
    /// Of a frame that says no.
    pub fn of(frame: &Frame) -> Refused {
        let text = |name| frame.headers.get(name).map(str::to_owned);
        let number = |name| frame.headers.get(name).and_then(|n| n.parse().ok());
        Refused {
            code: text("muster-code").unwrap_or_else(|| panic!("no muster-code in {}", show(frame))),
            text: text("message").unwrap_or_else(|| panic!("no message in {}", show(frame))),
            retry_after: number("muster-retry-after"),
            count: number("muster-count"),
        }
    }
}

/// A frame as people read it.
pub fn show(frame: &Frame) -> String {
    let headers: Vec<String> = frame.headers.iter().map(|(name, value)| format!("{name}:{value}")).collect();
    format!("{} [{}] {}", frame.command, headers.join(" | "), String::from_utf8_lossy(&frame.body))
}

/// A request to an action topic, answered on [`REPLIES`].
pub fn request(topic: &str, id: &str, target: &str) -> Frame {
    Frame::new(Command::Send)
        .header("destination", &format!("/topic/{topic}"))
        .header("muster-request", id)
        .header("muster-target", target)
        .header("reply-to", REPLIES)
        .with_body("{}")
}

impl Stomp {
    /// TLS to a broker; nothing of STOMP is sent.
    pub fn dial(broker: &Broker) -> Stomp {
        Stomp::over_tls(broker.address(), &broker.ca()).unwrap_or_else(|e| panic!("TLS to the broker: {e}"))
    }

    /// TLS to an address that must present a certificate of this CA for `127.0.0.1`.
    pub fn over_tls(address: SocketAddr, ca: &Path) -> io::Result<Stomp> {
        Stomp::over(address, tls::client_config(ca, None).map_err(io::Error::other)?)
    }

    /// TLS to an address, as this configuration has it.
    pub fn over(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<Stomp> {
        let name = ServerName::from(address.ip());
        let mut tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut tcp = tcp(address)?;
        tls.complete_io(&mut tcp)?;
        Ok(Stomp::new(Wire::Tls(Box::new(StreamOwned::new(tls, tcp)))))
    }

    /// TCP and nothing else.
    pub fn plain(address: SocketAddr) -> Stomp {
        Stomp::new(Wire::Plain(tcp(address).expect("TCP to the broker")))
    }

    fn new(wire: Wire) -> Stomp {
        let decoder = Decoder::new(Limits { body: 64 << 20, headers: 1000, ..Limits::default() });
        Stomp { wire, decoder, buffer: BytesMut::new(), version: Version::V1_2, stash: VecDeque::new(), asked: 0 }
    }

    /// Logs in as a user of the test policy.
    pub fn login(broker: &Broker, user: &str) -> Stomp {
        let mut stomp = Stomp::dial(broker);
        stomp.send(connect(user));
        stomp.connected();
        stomp
    }

    /// As [`Stomp::login`], with a reply queue at [`REPLIES`].
    pub fn operator(broker: &Broker, user: &str) -> Stomp {
        let mut stomp = Stomp::login(broker, user);
        stomp.subscribe(REPLIES, "replies");
        stomp
    }

    /// Sends a CONNECT: the connection with its CONNECTED frame, or what the broker says instead.
    pub fn try_login(mut self, connect: Frame) -> Result<(Stomp, Frame), Refused> {
        self.send(connect);
        let answer = self.frame();
        if answer.command == Command::Error {
            return Err(Refused::of(&answer));
        }
        assert_eq!(answer.command, Command::Connected, "{}", show(&answer));
        self.decoder.set_version(self.version);
        Ok((self, answer))
    }

    /// Waits for CONNECTED.
    pub fn connected(&mut self) -> Frame {
        let frame = self.frame();
        assert_eq!(frame.command, Command::Connected, "{}", show(&frame));
        self.decoder.set_version(self.version);
        frame
    }

    /// The version that this side speaks from now on.
    pub fn speaks(&mut self, version: Version) {
        self.version = version;
    }

    /// Sends bytes as they are. A broken connection is no error: what the broker said before is still to be read.
    pub fn raw(&mut self, bytes: &[u8]) {
        let _ = self.try_raw(bytes);
    }

    /// Sends bytes as they are.
    pub fn try_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        let write = match &mut self.wire {
            Wire::Tls(stream) => stream as &mut dyn Write,
            Wire::Plain(stream) => stream,
        };
        write.write_all(bytes)?;
        write.flush()
    }

    /// Sends a frame.
    pub fn send(&mut self, frame: Frame) {
        let mut out = BytesMut::new();
        frame::encode(&frame, self.version, &mut out);
        self.raw(&out);
    }

    /// Sends a frame with a receipt, and waits until the broker has dealt with it.
    pub fn send_and_wait(&mut self, frame: Frame) {
        self.asked += 1;
        let id = format!("receipt-{}", self.asked);
        self.send(frame.header("receipt", &id));
        self.wait_for(&format!("receipt {id}"), |frame| {
            assert_ne!(frame.command, Command::Error, "{}", show(frame));
            frame.command == Command::Receipt && frame.headers.get("receipt-id") == Some(&id)
        });
    }

    /// Subscribes, and waits until the subscription holds.
    pub fn subscribe(&mut self, destination: &str, id: &str) {
        self.send_and_wait(subscription(destination, id));
    }

    /// The next frame.
    pub fn frame(&mut self) -> Frame {
        match self.stash.pop_front() {
            Some(frame) => frame,
            None => self.receive(LIMIT).unwrap_or_else(|end| panic!("a frame was expected, the connection is {end:?}")),
        }
    }

    /// The next frame, if one comes within this time.
    pub fn next_within(&mut self, limit: Duration) -> Result<Frame, End> {
        self.stash.pop_front().map_or_else(|| self.receive(limit), Ok)
    }

    /// The first frame that fits; others are kept for [`Stomp::frame`].
    pub fn wait_for(&mut self, what: &str, mut fits: impl FnMut(&Frame) -> bool) -> Frame {
        if let Some(at) = self.stash.iter().position(&mut fits) {
            return self.stash.remove(at).expect("just found");
        }
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let frame = self.receive(left).unwrap_or_else(|end| {
                let others: Vec<String> = self.stash.iter().map(show).collect();
                panic!("{what}: the connection is {end:?}; what came instead: {others:#?}")
            });
            if fits(&frame) {
                return frame;
            }
            self.stash.push_back(frame);
        }
    }

    /// Nothing has come that was not read: proven by a receipt that the broker gives after all it had to say.
    pub fn assert_quiet(&mut self) {
        self.send_and_wait(subscription("/temp-queue/barrier", "barrier"));
        self.send_and_wait(Frame::new(Command::Unsubscribe).header("id", "barrier"));
        let left: Vec<String> = self.stash.iter().map(show).collect();
        assert!(left.is_empty(), "nothing was expected, these came: {left:#?}");
    }

    /// The next frame must be this event of a request.
    pub fn event(&mut self, event: &str) -> Frame {
        let frame = self.frame();
        assert_eq!(frame.headers.get("muster-event"), Some(event), "{}", show(&frame));
        frame
    }

    /// The next frame must be a `refused` event.
    pub fn refused(&mut self) -> Refused {
        Refused::of(&self.event("refused"))
    }

    /// Asks a system destination: the JSON of the answer, or the refusal.
    pub fn ask(&mut self, destination: &str, target: Option<&str>, body: &Value) -> Result<Value, Refused> {
        self.asked += 1;
        let id = format!("query-{}", self.asked);
        let mut frame = Frame::new(Command::Send)
            .header("destination", destination)
            .header("muster-request", &id)
            .header("reply-to", REPLIES);
        if let Some(target) = target {
            frame = frame.header("muster-target", target);
        }
        self.send(frame.with_body(body.to_string()));
        let answer = self.wait_for(destination, |frame| {
            assert_ne!(frame.command, Command::Error, "{}", show(frame));
            frame.headers.get("muster-request") == Some(&id)
        });
        match answer.headers.get("muster-event") {
            Some("answer") => Ok(json(&answer)),
            Some("refused") => Err(Refused::of(&answer)),
            _ => panic!("neither answer nor refusal: {}", show(&answer)),
        }
    }

    /// `/muster/find`: the ids of the nodes that match, in order.
    pub fn find(&mut self, target: &str) -> Vec<String> {
        let answer = self.ask("/muster/find", Some(target), &serde_json::json!({})).expect("find is answered");
        let nodes = answer["nodes"].as_array().expect("a list of nodes");
        let mut ids: Vec<String> =
            nodes.iter().map(|node| node["id"].as_str().unwrap_or_default().to_owned()).collect();
        assert_eq!(answer["count"], ids.len(), "{answer}");
        ids.sort();
        ids
    }

    /// An ERROR frame must come, whatever else comes before it, and then the end of the stream: no reset.
    pub fn error(&mut self) -> Refused {
        self.error_within(LIMIT)
    }

    /// As [`Stomp::error`], with another limit.
    pub fn error_within(&mut self, limit: Duration) -> Refused {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.next_within(left) {
                Ok(frame) if frame.command == Command::Error => {
                    let refused = Refused::of(&frame);
                    assert_eq!(self.end(), End::Closed, "after {refused:?}");
                    return refused;
                }
                Ok(_) => {}
                Err(end) => panic!("an ERROR frame was expected, the connection is {end:?}"),
            }
        }
    }

    /// Reads whatever still comes, until the end.
    pub fn end(&mut self) -> End {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.receive(deadline.saturating_duration_since(Instant::now())) {
                Ok(_) => {}
                Err(end) => return end,
            }
        }
    }

    /// Ends the connection without a word: as a machine that loses its power, but at once.
    pub fn cut(self) {
        let tcp = match &self.wire {
            Wire::Tls(stream) => &stream.sock,
            Wire::Plain(stream) => stream,
        };
        let _ = tcp.shutdown(Shutdown::Both);
    }

    fn receive(&mut self, limit: Duration) -> Result<Frame, End> {
        let deadline = Instant::now() + limit;
        loop {
            match self.decoder.decode(&mut self.buffer) {
                Ok(Some(Decoded::Frame(frame))) => return Ok(frame),
                Ok(Some(Decoded::HeartBeat)) => continue,
                Ok(None) => {}
                Err(error) => {
                    panic!("the broker sent no STOMP: {error}; {:?}", &self.buffer[..self.buffer.len().min(200)])
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(End::Silent);
            }
            self.read(left)?;
        }
    }

    fn read(&mut self, limit: Duration) -> Result<(), End> {
        let mut bytes = [0; 16 * 1024];
        let count = match &mut self.wire {
            Wire::Tls(stream) => stream.sock.set_read_timeout(Some(limit)).and_then(|()| stream.read(&mut bytes)),
            Wire::Plain(stream) => stream.set_read_timeout(Some(limit)).and_then(|()| stream.read(&mut bytes)),
        };
        match count {
            Ok(0) => Err(End::Closed),
            Ok(count) => {
                self.buffer.extend_from_slice(&bytes[..count]);
                Ok(())
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {
                Ok(())
            }
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Err(End::Reset),
            // TCP's end without TLS's: the broker closed without saying so, which a client cannot tell from a cut.
            Err(_) => Err(End::Closed),
        }
    }
}

/// The same CONNECT with another password or a token.
pub fn with_passcode(mut connect: Frame, passcode: &str) -> Frame {
    connect.headers.set("passcode", passcode);
    connect
}

/// CONNECT of a user of the test policy, with its password.
pub fn connect(user: &str) -> Frame {
    Frame::new(Command::Connect)
        .header("accept-version", "1.2")
        .header("host", "muster")
        .header("login", user)
        .header("passcode", crate::policy::PASSWORD)
}

/// SUBSCRIBE.
pub fn subscription(destination: &str, id: &str) -> Frame {
    Frame::new(Command::Subscribe).header("destination", destination).header("id", id)
}

/// A message to a destination.
pub fn message(destination: &str) -> Frame {
    Frame::new(Command::Send).header("destination", destination)
}

/// The JSON body of a frame.
pub fn json(frame: &Frame) -> Value {
    serde_json::from_slice(&frame.body).unwrap_or_else(|e| panic!("no JSON: {e}: {}", show(frame)))
}

fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect_timeout(&address, LIMIT)?;
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(LIMIT))?;
    tcp.set_write_timeout(Some(LIMIT))?;
    Ok(tcp)
}
