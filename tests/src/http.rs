//! What does a caller of the HTTP API see that sends whatever it likes? A raw connection: any bytes out, answers of HTTP/1.1 in.

use crate::policy::PASSWORD;
use crate::{Broker, LIMIT};
use muster_protocol::tls;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A connection to the API of a broker.
#[derive(Debug)]
pub struct Http {
    stream: StreamOwned<ClientConnection, TcpStream>,
    buffer: Vec<u8>,
    host: String,
    token: Option<String>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Such as 200.
    pub status: u16,
    /// By their names in lowercase; of several of one name the last.
    pub headers: BTreeMap<String, String>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Answer {
    /// Its JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("no JSON: {e}: {self:?}"))
    }

    /// Its text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The code of a refusal of this status.
    pub fn refused(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{} {:?}", self.text(), self.headers);
        let problem = self.json();
        for field in ["code", "text", "cure"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "no {field}: {problem}");
        }
        problem["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The JSON of an answer that must be 200.
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }
}

impl Http {
    /// TLS to a broker's API.
    pub fn dial(broker: &Broker) -> Http {
        Http::over_tls(broker.admin(), &broker.ca(), &[]).unwrap_or_else(|e| panic!("TLS to the API: {e}"))
    }

    /// TLS with these protocols to choose from.
    pub fn over_tls(address: SocketAddr, ca: &Path, protocols: &[&str]) -> io::Result<Http> {
        Http::over(address, tls::client_config(ca, None).map_err(io::Error::other)?.as_ref(), protocols)
    }

    /// TLS as this configuration has it, with these protocols to choose from.
    pub fn over(address: SocketAddr, config: &ClientConfig, protocols: &[&str]) -> io::Result<Http> {
        let mut config = config.clone();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::from(address.ip());
        let mut tls = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        let mut tcp = TcpStream::connect_timeout(&address, LIMIT)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(LIMIT))?;
        tcp.set_write_timeout(Some(LIMIT))?;
        tls.complete_io(&mut tcp)?;
        let stream = StreamOwned::new(tls, tcp);
        Ok(Http { stream, buffer: Vec::new(), host: address.to_string(), token: None })
    }

    /// A connection that shows the token of a user of the test policy.
    pub fn login(broker: &Broker, user: &str) -> Http {
        let mut http = Http::dial(broker);
        http.token = Some(token(broker, user));
        http
    }

    /// What both sides have agreed to speak.
    pub fn protocol(&self) -> Option<String> {
        self.stream.conn.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned())
    }

    /// Shows this token from now on; none if it is empty.
    #[must_use]
    pub fn showing(mut self, token: &str) -> Http {
        self.token = Some(token.to_owned()).filter(|token| !token.is_empty());
        self
    }

    /// The token that it shows.
    pub fn token(&self) -> &str {
        self.token.as_deref().unwrap_or_default()
    }

    /// GET.
    pub fn get(&mut self, path: &str) -> Answer {
        self.call("GET", path, &[], None)
    }

    /// GET; none if the connection ends instead of an answer.
    pub fn try_answer_to(&mut self, path: &str) -> Option<Answer> {
        self.send("GET", path, &[], None);
        self.try_answer("GET")
    }

    /// POST of a JSON body.
    pub fn post(&mut self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, &[], Some(body))
    }

    /// Any method, more headers, and a JSON body if there is one.
    pub fn call(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Answer {
        self.send(method, path, headers, body);
        self.answer(method)
    }

    /// As [`Http::call`], without waiting for the answer.
    pub fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.host);
        if let Some(token) = &self.token {
            head.push_str(&format!("authorization: Bearer {token}\r\n"));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let body = body.map(Value::to_string);
        if let Some(body) = &body {
            let typed = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
            if !typed {
                head.push_str("content-type: application/json\r\n");
            }
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        self.raw(format!("{head}\r\n{}", body.unwrap_or_default()).as_bytes());
    }

    /// Sends bytes as they are; a broken connection is no error: what was said before is still to be read.
    pub fn raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).and_then(|()| self.stream.flush());
    }

    /// The next answer.
    pub fn answer(&mut self, method: &str) -> Answer {
        self.try_answer(method).unwrap_or_else(|| panic!("the connection ended instead of an answer to {method}"))
    }

    /// The next answer; none if the connection ends instead.
    pub fn try_answer(&mut self, method: &str) -> Option<Answer> {
        let (status, headers) = self.head()?;
        let body = if method == "HEAD" || status == 204 {
            Vec::new()
        } else if let Some(length) = headers.get("content-length") {
            self.exactly(length.parse().expect("a length"))
        } else if headers.get("transfer-encoding").is_some_and(|encoding| encoding == "chunked") {
            let mut whole = Vec::new();
            while let Some(chunk) = self.chunk() {
                whole.extend(chunk);
            }
            whole
        } else {
            Vec::new()
        };
        Some(Answer { status, headers, body })
    }

    /// Status and headers of an answer whose body is read piece by piece.
    pub fn head(&mut self) -> Option<(u16, BTreeMap<String, String>)> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no HTTP: {first:?}"));
        let mut headers = BTreeMap::new();
        loop {
            let line = self.line().expect("a header");
            if line.is_empty() {
                return Some((status, headers));
            }
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no header: {line:?}"));
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }

    /// The next chunk of a body; none at its end.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let length = self.line().expect("the length of a chunk");
        let length = usize::from_str_radix(&length, 16).unwrap_or_else(|_| panic!("no length: {length:?}"));
        let chunk = self.exactly(length);
        assert_eq!(self.line().as_deref(), Some(""), "after a chunk");
        Some(chunk).filter(|chunk| !chunk.is_empty())
    }

    /// The next frame of HTTP/2: kind, stream and payload; none if the connection has ended.
    pub fn h2_frame(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        while self.buffer.len() < 9 {
            if !matches!(self.more(), Ok(count) if count > 0) {
                return None;
            }
        }
        let head = self.exactly(9);
        let number = |bytes: &[u8]| bytes.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
        let payload = self.exactly(usize::try_from(number(&head[..3])).expect("a length"));
        Some((head[3], number(&head[5..]), payload))
    }

    /// Whether the connection ends within this time, whatever comes before that.
    pub fn ends_within(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.stream.sock.set_read_timeout(Some(left)).expect("a timeout");
            match self.more() {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return true,
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            match self.more() {
                Ok(count) if count > 0 => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("nothing came within {LIMIT:?}")
                }
                _ => return None,
            }
        }
    }

    fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            let more = self.more().unwrap_or_else(|e| panic!("{} of {count} bytes: {e}", self.buffer.len()));
            assert!(more > 0, "{} of {count} bytes, then the end", self.buffer.len());
        }
        self.buffer.drain(..count).collect()
    }

    fn more(&mut self) -> io::Result<usize> {
        let mut bytes = [0; 16 * 1024];
        let count = self.stream.read(&mut bytes)?;
        self.buffer.extend_from_slice(&bytes[..count]);
        Ok(count)
    }
}

/// A token of a user of the test policy, by its password.
pub fn token(broker: &Broker, user: &str) -> String {
    let login = json!({ "user": user, "password": PASSWORD });
    let answer = Http::dial(broker).post("/api/v1/login", &login).ok();
    answer["token"].as_str().expect("a token").to_owned()
}
