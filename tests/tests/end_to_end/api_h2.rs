//! What do many calls at once on one connection of HTTP/2 get? No more tries at a login, and no more memory, than one after the other.

use muster_tests::http::token;
use muster_tests::{Broker, Http, LIMIT, Setup, until};
use serde_json::{Value, json};

const HEADERS: u8 = 1;
const DATA: u8 = 0;
const RESET: u8 = 3;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A connection that speaks HTTP/2, greeted.
fn dial(broker: &Broker) -> Http {
    let mut http = Http::over_tls(broker.admin(), &broker.ca(), &["h2"]).expect("TLS");
    http.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    http
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The head of a call, every field as it is: HPACK literals that no table remembers.
fn head(broker: &Broker, fields: &[(&str, &str)]) -> Vec<u8> {
    let host = broker.admin().to_string();
    let mut block = Vec::new();
    for (name, value) in [(":scheme", "https"), (":authority", host.as_str())].iter().chain(fields) {
        block.push(0);
        for text in [name, value] {
            // Seven bits, then the rest in seven bits each.
            let length = text.len();
            if length < 127 {
                block.push(u8::try_from(length).expect("short"));
            } else {
                block.extend([127, u8::try_from((length - 127) % 128).expect("a byte") | 128]);
                block.push(u8::try_from((length - 127) / 128).expect("shorter than 16 KiB"));
            }
            block.extend(text.as_bytes());
        }
    }
    block
}

/// The next body that comes, of whatever stream.
fn body(http: &mut Http) -> Option<(u32, Value)> {
    loop {
        let (kind, stream, payload) = http.h2_frame()?;
        if kind == DATA && !payload.is_empty() {
            return Some((stream, serde_json::from_slice(&payload).expect("JSON")));
        }
    }
}

#[test]
fn one_connection_tries_one_login_whatever_it_sends_at_once() {
    let broker = Setup::new().with_api().start();
    let mut http = dial(&broker);
    let login = json!({ "user": "noc", "password": "wrong" }).to_string();
    let fields = [(":method", "POST"), (":path", "/api/v1/login"), ("content-type", "application/json")];
    let mut bytes = Vec::new();
    for stream in (1..64).step_by(2) {
        bytes.extend(frame(HEADERS, END_HEADERS, stream, &head(&broker, &fields)));
        bytes.extend(frame(DATA, END_STREAM, stream, login.as_bytes()));
    }
    http.raw(&bytes);
    while let Some((_, answer)) = body(&mut http) {
        assert_eq!(answer["code"], "auth-failed", "{answer}");
    }
    let denied = || {
        let metrics = broker.ctl("metrics").stdout;
        let line = metrics.lines().find(|line| line.starts_with("muster_logins_total{outcome=\"denied\"}"));
        line.expect("a sample").to_owned()
    };
    assert!(denied().ends_with(" 1"), "{}", denied());
}

#[test]
fn floods_of_one_connection_harm_nobody() {
    let broker = Setup::new().with_api().start();
    let fields = [(":method", "GET"), (":path", "/api/v1/openapi.json")];
    let block = head(&broker, &fields);
    // Calls that are taken back at once; heads that do not end; empty frames without end.
    let resets: Vec<u8> = (1..20_000)
        .step_by(2)
        .flat_map(|stream| {
            let begun = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
            [begun, frame(RESET, 0, stream, &8_u32.to_be_bytes())].concat()
        })
        .collect();
    let field = [&[0, 1, b'x', 127, 0xe1, 0x7e][..], &vec![b'x'; 16_352]].concat();
    let heads = [frame(HEADERS, 0, 1, &block), frame(CONTINUATION, 0, 1, &field[..16_000]).repeat(200)].concat();
    let empty = [frame(HEADERS, 0, 1, &block), frame(CONTINUATION, 0, 1, b"").repeat(100_000)].concat();
    for (what, flood) in [("resets", resets), ("heads", heads), ("empty", empty)] {
        let mut http = dial(&broker);
        http.raw(&flood);
        assert!(http.ends_within(LIMIT), "{what}");
    }
    Http::login(&broker, "noc").get("/api/v1/mesh").ok();
    assert!(!broker.log().contains("panicked"), "{}", broker.log());
}

#[test]
fn before_it_is_known_who_calls_a_body_is_short() {
    let broker = Setup::new().with_api().start();
    let long = json!({ "user": "noc", "password": "x".repeat(20_000) });
    assert_eq!(Http::dial(&broker).post("/api/v1/login", &long).refused(413), "too-large");
    // As long as user and password can be, each character escaped.
    let escaped = format!("{{\"user\":\"{}\",\"password\":\"{}\"}}", "\\u0061".repeat(128), "\\u0062".repeat(1024));
    let mut http = Http::dial(&broker);
    http.raw(
        format!(
            "POST /api/v1/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{escaped}",
            escaped.len()
        )
        .as_bytes(),
    );
    assert_eq!(http.answer("POST").refused(401), "auth-failed");
}

#[test]
fn bodies_of_one_connection_are_bounded_together() {
    let broker = Setup::new().with_api().start();
    let shown = format!("Bearer {}", token(&broker, "noc"));
    let mut http = dial(&broker);
    let mesh = head(&broker, &[(":method", "GET"), (":path", "/api/v1/mesh"), ("authorization", &shown)]);
    http.raw(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &mesh));
    let (stream, answer) = body(&mut http).expect("an answer");
    assert_eq!((stream, &answer["broker"]), (1, &json!("noc1")));
    let large = [
        (":method", "POST"),
        (":path", "/api/v1/nodes/find"),
        ("authorization", &shown),
        ("content-type", "application/json"),
        ("content-length", "1048576"),
    ];
    for stream in (3..21).step_by(2) {
        http.raw(&frame(HEADERS, END_HEADERS, stream, &head(&broker, &large)));
    }
    let (stream, answer) = body(&mut http).expect("an answer");
    assert_eq!((stream, &answer["code"]), (19, &json!("busy")), "the ninth");
    // Short ones have room beside them once one has gone.
    http.raw(&frame(RESET, 0, 3, &8_u32.to_be_bytes()));
    let short = "{\"target\":\"all\"}";
    let length = short.len().to_string();
    let find = [large[0], large[1], large[2], large[3], ("content-length", &length)];
    let mut stream = 21;
    let found = until("there is room", || {
        http.raw(&frame(HEADERS, END_HEADERS, stream, &head(&broker, &find)));
        http.raw(&frame(DATA, END_STREAM, stream, short.as_bytes()));
        let (of, answer) = body(&mut http).expect("an answer");
        assert_eq!(of, stream);
        stream += 2;
        (answer["count"] == 0).then_some(answer)
    });
    assert_eq!(found["nodes"], json!([]));
    drop(http);
    assert!(Http::login(&broker, "noc").get("/api/v1/mesh").status == 200, "within {LIMIT:?}");
}
