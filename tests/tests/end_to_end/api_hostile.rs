//! What must not harm the HTTP API? Pages of other origins, wrong methods and types, odd paths, smuggled and oversize requests, slow ones.

use muster_tests::http::token;
use muster_tests::{Broker, Http, LIMIT, Setup, until};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;

const FIND: &str = "/api/v1/nodes/find";

fn broker() -> Broker {
    Setup::new().with_api().start()
}

fn all() -> Value {
    json!({ "target": "all" })
}

/// The broker lives, and answers a good call.
fn assert_serves(broker: &Broker) {
    Http::login(broker, "noc").post(FIND, &all()).ok();
    assert!(!broker.log().contains("panicked"), "{}", broker.log());
}

#[test]
fn pages_of_other_origins_are_refused_whatever_they_send() {
    let broker = Setup::new().with_api().with("admin.origins", vec!["https://noc.example.net"]).start();
    let mut http = Http::login(&broker, "noc");
    let own = format!("https://{}", broker.admin());
    for fine in [own.as_str(), "https://noc.example.net"] {
        let answer = http.call("POST", FIND, &[("origin", fine)], Some(&all()));
        answer.ok();
        assert!(!answer.headers.keys().any(|name| name.starts_with("access-control")), "{answer:?}");
    }
    for other in [
        "https://evil.example",
        "null",
        "http://noc.example.net",
        "https://noc.example.net:8161",
        &own.replace("https", "http"),
    ] {
        for (method, path, body) in
            [("POST", FIND, Some(all())), ("GET", "/healthz", None), ("OPTIONS", FIND, None), ("GET", "/nothing", None)]
        {
            let answer = http.call(method, path, &[("origin", other)], body.as_ref());
            assert_eq!(answer.refused(403), "cross-origin", "{other} {method} {path}");
        }
    }
    // What a form of another page can send without asking.
    let form = [("origin", "https://evil.example"), ("content-type", "text/plain")];
    assert_eq!(http.call("POST", "/api/v1/login", &form, Some(&all())).refused(403), "cross-origin");
    let image = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")];
    assert_eq!(http.call("GET", "/healthz", &image, None).refused(403), "cross-origin");
    assert_serves(&broker);
}

#[test]
fn every_answer_says_that_it_is_not_to_be_kept_or_run() {
    let broker = broker();
    let mut http = Http::login(&broker, "noc");
    let no_token = Http::dial(&broker).get("/api/v1/mesh");
    let cross = http.call("GET", "/healthz", &[("origin", "null")], None);
    for answer in [
        http.get("/api/v1/mesh"),
        http.get("/healthz"),
        http.get("/nothing"),
        http.call("PUT", FIND, &[], None),
        no_token,
        cross,
    ] {
        let header = |name: &str| answer.headers.get(name).map(String::as_str);
        assert_eq!(header("cache-control"), Some("no-store"), "{answer:?}");
        assert_eq!(header("x-content-type-options"), Some("nosniff"));
        assert!(header("content-security-policy").is_some_and(|policy| policy.starts_with("default-src 'none'")));
        assert_eq!(header("content-type"), Some("application/json"));
        assert_eq!(header("set-cookie"), None);
    }
}

#[test]
fn methods_and_types_that_are_not_taken_are_refused() {
    let broker = broker();
    let mut http = Http::login(&broker, "noc");
    for (method, path, allowed) in [
        ("GET", FIND, "POST"),
        ("PUT", FIND, "POST"),
        ("TRACE", FIND, "POST"),
        ("OPTIONS", FIND, "POST"),
        ("BREW", FIND, "POST"),
        ("POST", "/api/v1/mesh", "GET,HEAD"),
        ("DELETE", "/healthz", "GET,HEAD"),
        ("PATCH", "/api/v1/policy/users/noc", "GET,HEAD,PUT,DELETE"),
    ] {
        let answer = http.call(method, path, &[], None);
        assert_eq!(answer.refused(405), "wrong-method", "{method} {path}");
        let sorted = |list: &str| {
            let mut list: Vec<String> = list.split(',').map(|method| method.trim().to_owned()).collect();
            list.sort();
            list
        };
        assert_eq!(sorted(&answer.headers["allow"]), sorted(allowed), "{method} {path}");
    }
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-16",
        "application/jsonp",
        "",
    ] {
        let answer = http.call("POST", FIND, &[("content-type", kind)], Some(&all()));
        assert_eq!(answer.refused(415), "wrong-type", "{kind}");
    }
    let answer = http.call("POST", FIND, &[("content-type", "Application/JSON; charset=UTF-8")], Some(&all()));
    answer.ok();
    assert_eq!(http.call("GET", "/api/v1/mesh", &[], Some(&all())).refused(400), "bad-body", "it takes none");
    let head = http.call("HEAD", "/healthz", &[], None);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_serves(&broker);
}

#[test]
fn odd_paths_lead_nowhere() {
    let broker = broker();
    let mut http = Http::login(&broker, "noc");
    for path in [
        "/",
        "//",
        "/api/v1",
        "/api/v1/",
        "/api/v1//mesh",
        "/api/v1/mesh/",
        "/API/v1/mesh",
        "/api/v1/../../etc/passwd",
        "/api/v1/../v1/mesh",
        "/api/v1/%2e%2e/%2e%2e/etc/passwd",
        "/api/v1/..%2f..%2fetc%2fpasswd",
        "/api/v1/mesh%00",
        "/api/v1/mesh%2f",
        "/api/v1/./mesh",
        "/api/v1/policy/nothing",
        "/.git/config",
        "/metrics/",
    ] {
        assert_eq!(http.get(path).refused(404), "no-such-path", "{path}");
    }
    let long = format!("/api/v1/nodes/{}", "n".repeat(8_000));
    for path in [
        "/api/v1/nodes/..",
        "/api/v1/nodes/%2e%2e",
        "/api/v1/nodes/..%2f..%2fetc%2fpasswd",
        "/api/v1/nodes/%00",
        "/api/v1/nodes/n-aaaaaaaaaaaaaaaaaaa%00",
        "/api/v1/nodes/%ff",
        &long,
        "/api/v1/requests/%2e%2e%2f",
        "/api/v1/requests/a%20b/events",
        "/api/v1/policy/history/1",
        "/api/v1/policy/history/..",
    ] {
        assert_eq!(http.get(path).refused(400), "bad-header", "{path}");
    }
    assert_eq!(http.get("/api/v1/nodes/n-aaaaaaaaaaaaaaaaaaaa").refused(404), "no-such-node");
    let body = json!({ "reason": "x" });
    for id in ["-1", "x", "+1", "18446744073709551616", "1.0"] {
        let path = format!("/api/v1/sessions/{id}");
        assert_eq!(http.call("DELETE", &path, &[], Some(&body)).refused(400), "bad-header", "{id}");
    }
    assert_serves(&broker);
}

#[test]
fn pages_are_counted_with_care() {
    let broker = broker();
    let mut http = Http::login(&broker, "noc");
    for path in [
        "/api/v1/policy/users",
        "/api/v1/policy/history",
        "/api/v1/sessions",
        "/api/v1/sessions/closed",
        "/api/v1/audit",
    ] {
        for limit in ["0", "-1", "1001", "4294967296", "18446744073709551616", "1e3", "NaN", "", "%00", "%2B1", "1%20"]
        {
            let answer = http.get(&format!("{path}?limit={limit}"));
            assert_eq!(answer.refused(400), "bad-header", "{path} {limit}");
            let text = answer.json()["text"].as_str().expect("text").to_owned();
            assert!(text.starts_with("limit: ") && text.ends_with("is not a whole number from 1 to 1000"), "{text}");
        }
        assert_eq!(http.get(&format!("{path}?limit=1&limit=2")).refused(400), "bad-header", "{path}");
        assert_eq!(http.get(&format!("{path}?Limit=1")).refused(400), "bad-header", "{path}");
        assert_eq!(http.get(&format!("{path}?__proto__=1")).refused(400), "bad-header", "{path}");
    }
    for after in ["-1", "x", "18446744073709551616", ""] {
        assert_eq!(http.get(&format!("/api/v1/sessions?after={after}")).refused(400), "bad-header", "{after}");
    }
    assert_eq!(http.get("/api/v1/policy/history?before=1").refused(400), "bad-header");
    assert_eq!(http.get("/api/v1/sessions?kind=root").refused(400), "bad-header");
    assert_eq!(http.get("/api/v1/audit?decision=maybe").refused(400), "bad-header");
    for limit in [json!(0), json!(1001), json!(-1), json!(1.5), json!("5"), json!(u64::MAX), json!(1e300)] {
        let answer = http.post(FIND, &json!({ "target": "all", "limit": limit }));
        assert_eq!(answer.refused(400), "bad-body", "{limit}");
    }
    for cursor in ["", "x", "noc1/0", "noc1/-1/0", "noc1/4294967296/0", "noc1/0/18446744073709551616", "../../x/0/0"] {
        let answer = http.post(FIND, &json!({ "target": "all", "cursor": cursor }));
        assert_eq!(answer.refused(400), "bad-body", "{cursor}");
    }
    http.post(FIND, &json!({ "target": "all", "cursor": "noc1/-/18446744073709551615" })).ok();
    assert_serves(&broker);
}

#[test]
fn bodies_are_objects_of_known_fields_and_not_too_large_or_deep() {
    let broker = broker();
    let mut http = Http::login(&broker, "noc");
    for body in [
        json!([]),
        json!("all"),
        json!(null),
        json!(["all"]),
        json!({ "target": "all", "more": 1 }),
        json!({ "target": ["all"] }),
        json!({ "target": { "$ne": null } }),
        json!({ "target": "all", "nodes": ["web1"] }),
    ] {
        assert_eq!(http.post(FIND, &body).refused(400), "bad-body", "{body}");
    }
    for edit in [
        json!(["user-remove", { "name": "noc" }]),
        json!("user-remove"),
        json!({ "edit": "user-remove" }),
        json!({ "edit": "drop-all" }),
        json!({ "edit": "user-remove", "name": "noc", "more": 1 }),
    ] {
        assert_eq!(http.post("/api/v1/policy/edit", &json!({ "edit": edit })).refused(400), "bad-body", "{edit}");
    }
    let both = json!({ "kind": "operator", "password": 7 });
    assert_eq!(http.call("PUT", "/api/v1/policy/users/eve", &[], Some(&both)).refused(400), "bad-body");
    let stale = [("if-match", "3.17")];
    assert_eq!(http.call("DELETE", "/api/v1/policy/users/eve", &stale, None).refused(400), "bad-header", "no ETag");

    let raw = |http: &mut Http, body: &[u8]| {
        let head = format!(
            "POST {FIND} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            broker.admin(),
            http.token(),
            body.len()
        );
        http.raw(head.as_bytes());
        http.raw(body);
        http.answer("POST")
    };
    let deep = format!("{{\"target\":{}", "[".repeat(100_000));
    assert_eq!(raw(&mut http, deep.as_bytes()).refused(400), "bad-body");
    assert_eq!(raw(&mut http, b"{\"target\":\"all\",\"target\":\"all\"}").refused(400), "bad-body", "twice");
    assert_eq!(raw(&mut http, b"{\"target\":\"\xff\"}").refused(400), "bad-body");
    assert_eq!(raw(&mut http, b"").refused(400), "bad-body");
    // A filter is a header on its way: neither its length nor what is in it may end the session that others share.
    let long = json!({ "target": format!("os.family=\"{}\"", "x".repeat(20_000)) });
    assert_eq!(http.post(FIND, &long).refused(413), "too-large");
    assert_eq!(http.post(FIND, &json!({ "target": "a=\u{0}" })).refused(400), "bad-header");
    http.post(FIND, &json!({ "target": "os.family=Debian\nor\ros.family=\"a:b\\\\\"" }));
    let many: Vec<String> = (0..501).map(|_| "n-aaaaaaaaaaaaaaaaaaaa".to_owned()).collect();
    assert_eq!(http.post(FIND, &json!({ "target": "all", "nodes": many })).refused(400), "bad-body");
    assert_eq!(broker.count("sessions"), 1, "it is the same session all the time");

    let mut large = Http::dial(&broker).showing(http.token());
    let answer = raw(&mut large, &vec![b' '; 1024 * 1024 + 1]);
    assert_eq!(answer.refused(413), "too-large");
    // What fits HTTP and not the broker's frame is refused too, and harms nobody.
    let text = "# ".to_owned() + &"x".repeat(1024 * 1024 - 100);
    let mut large = Http::dial(&broker).showing(http.token());
    assert_eq!(large.post("/api/v1/policy/lint", &json!({ "policy": text })).refused(413), "too-large");
    let mut large = Http::dial(&broker).showing(http.token());
    let said = format!(
        "POST {FIND} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: 99999999999\r\n\r\n",
        http.token()
    );
    large.raw(said.as_bytes());
    assert_eq!(large.answer("POST").refused(413), "too-large", "before any of it came");
    http.post(FIND, &all()).ok();
    assert_serves(&broker);
}

#[test]
fn a_request_cannot_be_smuggled_behind_another() {
    let broker = broker();
    let token = token(&broker, "noc");
    let head = |more: &str| {
        format!(
            "POST {FIND} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n{more}\r\n"
        )
    };
    let body = "{\"target\":\"all\"}";
    let hidden = "GET /api/v1/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n";
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let cases = [
        format!("{}{chunked}{hidden}", head("transfer-encoding: chunked\r\ncontent-length: 4\r\n")),
        format!("{}{chunked}{hidden}", head("content-length: 4\r\ntransfer-encoding: chunked\r\n")),
        format!("{}{chunked}", head("transfer-encoding: chunked\r\n")),
        format!("{}{chunked}", head("transfer-encoding: xchunked\r\n")),
        format!("{}{chunked}", head("transfer-encoding: chunked, identity\r\n")),
        format!("{}{chunked}", head("Transfer-Encoding : chunked\r\n")),
        format!("{}{chunked}", head("transfer-encoding:\u{b}chunked\r\n")),
        format!("{}{body}{hidden}", head(&format!("content-length: {}\r\ncontent-length: 0\r\n", body.len()))),
        format!("{}{body}{hidden}", head(&format!("content-length: {}, 0\r\n", body.len()))),
        format!("{}{body}{hidden}", head(&format!("content-length: +{}\r\n", body.len()))),
        format!("{}{body}{hidden}", head(&format!("content-length: 0x{:x}\r\n", body.len()))),
        format!("{}{body}{hidden}", head("content-length: -1\r\n")),
        format!("{}{body}{hidden}", head("host: y\r\ncontent-length: 16\r\n")),
        format!("{}{body}{hidden}", head("x: a\rtransfer-encoding: chunked\r\ncontent-length: 16\r\n")),
        format!("{}{body}{hidden}", head("x: a\u{0}b\r\ncontent-length: 16\r\n")),
        format!("{}{body}{hidden}", head(" folded\r\ncontent-length: 16\r\n")),
        format!("POST {FIND}  HTTP/1.1\r\nhost: x\r\n\r\n{hidden}"),
        format!("POST {FIND} HTTP/1.1\nHTTP/1.1\r\n\r\n{hidden}"),
        format!("\u{0}{hidden}"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ];
    for case in cases {
        let mut http = Http::dial(&broker);
        http.raw(case.as_bytes());
        let mut answers = Vec::new();
        while let Some(answer) = http.try_answer("POST") {
            answers.push(answer);
            if answers.len() > 1 {
                break;
            }
        }
        let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        assert!(statuses.len() <= 1, "{case:?}: a second request was found in it: {statuses:?}");
        assert!(statuses.iter().all(|status| (400..500).contains(status)), "{case:?}: {statuses:?}");
    }
    assert_serves(&broker);
}

#[test]
fn heads_that_are_too_large_or_have_too_many_lines_are_refused() {
    let broker = broker();
    let large = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx-large: {}\r\n\r\n", "x".repeat(100_000));
    let many = format!(
        "GET /healthz HTTP/1.1\r\nhost: x\r\n{}\r\n",
        (0..100).map(|n| format!("x-{n}: 1\r\n")).collect::<String>()
    );
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(100_000));
    for case in [large, many, long] {
        let mut http = Http::dial(&broker);
        http.raw(case.as_bytes());
        let status = http.try_answer("GET").map(|answer| answer.status);
        assert!(matches!(status, None | Some(414 | 431)), "{status:?}");
        assert!(http.ends_within(LIMIT));
    }
    assert_serves(&broker);
}

#[test]
fn whoever_is_slow_or_says_nothing_is_let_go() {
    let broker =
        Setup::new().with_api().with("limits.login-time", "300ms").with("limits.pending-per-address", 4).start();
    // Nothing at all, a head that does not end, an h2 connection without a call: each has a time to show who it is.
    let mut silent = Http::dial(&broker);
    let mut slow = Http::dial(&broker);
    slow.raw(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: ");
    let mut h2 = Http::over_tls(broker.admin(), &broker.ca(), &["h2"]).expect("TLS");
    h2.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    let mut plain = TcpStream::connect(broker.admin()).expect("TCP");
    plain.set_read_timeout(Some(LIMIT)).expect("a timeout");
    // All places of those who have not shown who they are may be taken: whoever comes now is not even answered.
    until("the fifth is turned away", || Http::over_tls(broker.admin(), &broker.ca(), &[]).is_err().then_some(()));
    assert!(silent.ends_within(LIMIT) && slow.ends_within(LIMIT) && h2.ends_within(LIMIT));
    assert_eq!(plain.read(&mut [0; 16]).unwrap_or(0), 0);
    // Answers without a login do not count as one.
    let mut stranger = until("there is room again", || Http::over_tls(broker.admin(), &broker.ca(), &[]).ok());
    assert_eq!(stranger.get("/api/v1/openapi.json").status, 200);
    assert!(stranger.ends_within(LIMIT));
    let mut known = until("there is room again", || Http::over_tls(broker.admin(), &broker.ca(), &[]).ok());
    assert_eq!(known.get("/healthz").status, 200);
    until("a place is free", || (broker.status()["admin"]["connections"] == 1).then_some(()));
    assert_eq!(known.get("/healthz").status, 200, "whoever may look stays");
}

#[test]
fn connections_are_bounded() {
    let broker = Setup::new().with_api().with("admin.connections-per-address", 3).start();
    let token = token(&broker, "noc");
    // The login had a connection of its own, which may not be gone yet.
    let mut held: Vec<Http> = Vec::new();
    until("all three are in", || {
        let http = Http::over_tls(broker.admin(), &broker.ca(), &[]).ok()?;
        held.push(http.showing(&token));
        (held.len() == 3).then_some(())
    });
    for http in &mut held {
        http.post(FIND, &all()).ok();
    }
    assert!(Http::over_tls(broker.admin(), &broker.ca(), &[]).is_err(), "a fourth one");
    drop(held);
    until("they are gone", || Http::over_tls(broker.admin(), &broker.ca(), &[]).ok());
}

#[test]
fn the_port_speaks_http_over_tls_in_both_versions_and_nothing_else() {
    let broker = broker();
    let protocol = |offers: &[&str]| {
        Http::over_tls(broker.admin(), &broker.ca(), offers).map(|http| http.protocol()).ok().flatten()
    };
    assert_eq!(protocol(&["h2", "http/1.1"]).as_deref(), Some("h2"));
    assert_eq!(protocol(&["http/1.1"]).as_deref(), Some("http/1.1"));
    assert!(Http::over_tls(broker.admin(), &broker.ca(), &["spdy/1"]).is_err());
    let mut plain = TcpStream::connect(broker.admin()).expect("TCP");
    plain.set_read_timeout(Some(LIMIT)).expect("a timeout");
    plain.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").expect("written");
    let mut said = String::new();
    plain.read_to_string(&mut said).expect("an answer");
    assert!(said.starts_with("HTTP/1.1 400 ") && said.contains("this port speaks HTTP over TLS"), "{said}");
    assert_serves(&broker);
}
