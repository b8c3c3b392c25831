//! What does a broker see that is not what it says? A raw link: any certificate, any frames, any bytes.

use crate::LIMIT;
use crate::made::Family;
use bytes::{Bytes, BytesMut};
use muster_protocol::link::codec::{Decoder, Limits, Sending};
use muster_protocol::link::{Head, Hello, NEWEST, OLDEST, Refused};
use muster_protocol::message::BrokerName;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Longest body that this side takes.
const BODY: usize = 1 << 20;

/// Who we say that we are at the level of TLS, and whom we believe.
#[derive(Debug)]
pub struct Papers {
    config: Arc<ClientConfig>,
}

/// A link to a broker.
#[derive(Debug)]
pub struct Link {
    stream: StreamOwned<ClientConnection, TcpStream>,
    decoder: Decoder,
    buffer: BytesMut,
}

impl Papers {
    /// The certificate and key in a broker's folder.
    pub fn in_folder(folder: &Path) -> Papers {
        let chain = CertificateDer::pem_file_iter(folder.join("broker.pem")).expect("broker.pem");
        let chain = chain.collect::<Result<Vec<_>, _>>().expect("certificates");
        let key = PrivateKeyDer::from_pem_file(folder.join("broker.key")).expect("broker.key");
        Papers { config: config(Some((chain, key))) }
    }

    /// No certificate at all.
    pub fn none() -> Papers {
        Papers { config: config(None) }
    }

    /// A new certificate of the CA of `family` for these names: a broker's, or (without `server`) a mere client's.
    pub fn signed(family: Family, names: &[&str], server: bool) -> Papers {
        let ca_key = String::from_utf8(family.file("ca.key").to_vec()).expect("PEM");
        let ca_key = KeyPair::from_pem(&ca_key).expect("the CA's key");
        let mut ca = CertificateParams::new(Vec::new()).expect("no names");
        ca.distinguished_name = rcgen::DistinguishedName::new();
        ca.distinguished_name.push(DnType::CommonName, format!("Muster CA of {}", family.cluster()));
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let issuer = Issuer::new(ca, ca_key);
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        Papers { config: config(Some((vec![certificate.der().clone()], key))) }
    }
}

/// Brokers are verified against the CA of [`Family::Ours`].
fn config(papers: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(Family::Ours.file("ca.pem")).expect("a certificate")).expect("a CA");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
    let builder = builder.expect("TLS 1.3").with_root_certificates(roots);
    Arc::new(match papers {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).expect("certificate and key agree"),
        None => builder.with_no_client_auth(),
    })
}

/// A HELLO as a broker of cluster `demo` says it.
pub fn hello(name: &str) -> Hello {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    Hello {
        cluster: "demo".into(),
        name: BrokerName::parse(name).expect("a broker's name"),
        instance: 1,
        incarnation: 4711,
        nonce: 1,
        oldest: OLDEST,
        newest: NEWEST,
        clock: clock.try_into().expect("a clock"),
        max_body: BODY as u64,
    }
}

impl Link {
    /// TLS to the broker `name`; nothing of the link's own protocol is sent. With TLS 1.3 a certificate that is refused shows at
    /// the first read only.
    pub fn dial(address: SocketAddr, name: &str, papers: &Papers) -> io::Result<Link> {
        let name = ServerName::try_from(format!("{name}.demo.muster")).map_err(io::Error::other)?;
        let mut tls = ClientConnection::new(papers.config.clone(), name).map_err(io::Error::other)?;
        let mut tcp = TcpStream::connect_timeout(&address, LIMIT)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(LIMIT))?;
        tcp.set_write_timeout(Some(LIMIT))?;
        tls.complete_io(&mut tcp)?;
        let decoder = Decoder::new(Limits::after_hello(BODY));
        Ok(Link { stream: StreamOwned::new(tls, tcp), decoder, buffer: BytesMut::new() })
    }

    /// Sends a frame. A broken connection is no error: what the broker said before is still to be read.
    pub fn send(&mut self, head: &Head, body: &[u8]) {
        let mut out = BytesMut::new();
        let mut sending = Sending::new(head, Bytes::copy_from_slice(body)).expect("a frame");
        while sending.next_unit(&mut out) {}
        self.raw(&out);
    }

    /// Sends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).and_then(|()| self.stream.flush());
    }

    /// The next frame; `None` at the end of the connection, however it came.
    pub fn frame(&mut self) -> Option<(Head, Bytes)> {
        let deadline = Instant::now() + LIMIT;
        let mut bytes = [0; 16 * 1024];
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.buffer).expect("the broker speaks its own protocol") {
                return Some(frame);
            }
            let left = deadline.checked_duration_since(Instant::now()).expect("a frame, or the end, within the limit");
            self.stream.sock.set_read_timeout(Some(left)).expect("a timeout");
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => self.buffer.extend_from_slice(&bytes[..count]),
                Err(e) if [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted].contains(&e.kind()) => {}
                Err(_) => return None,
            }
        }
    }

    /// The first frame that fits; panics at the end of the connection.
    pub fn wait_for(&mut self, what: &str, fits: impl Fn(&Head) -> bool) -> (Head, Bytes) {
        loop {
            let frame = self.frame().unwrap_or_else(|| panic!("{what}: the connection has ended"));
            if fits(&frame.0) {
                return frame;
            }
        }
    }

    /// Says HELLO, and waits for the broker's.
    pub fn greet(&mut self, ours: Hello) -> Hello {
        self.send(&Head::Hello(ours), &[]);
        match self.wait_for("HELLO", |head| matches!(head, Head::Hello(_))).0 {
            Head::Hello(hello) => hello,
            _ => unreachable!("just looked"),
        }
    }

    /// Reads until the end: the refusal that came before it, if one did.
    pub fn refusal(&mut self) -> Option<Refused> {
        let mut refused = None;
        while let Some((head, _)) = self.frame() {
            if let Head::Refused(said) = head {
                refused = Some(said);
            }
        }
        refused
    }

    /// Ends the connection without a word.
    pub fn cut(self) {
        let _ = self.stream.sock.shutdown(Shutdown::Both);
    }
}
