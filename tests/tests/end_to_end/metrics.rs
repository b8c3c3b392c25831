//! Do the metrics count what happened, in Prometheus's own format, and do the samples in ext/monitoring ask for what there is?

use muster_protocol::frame::Frame;
use muster_protocol::tls;
use muster_tests::exposition::Page;
use muster_tests::policy::POLICY;
use muster_tests::stomp::{connect, message};
use muster_tests::{Broker, Cluster, Node, Setup, Stomp, request, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

/// What `musterd ctl metrics` prints.
fn metrics(broker: &Broker) -> Page {
    let said = broker.ctl("metrics");
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:?}");
    Page::parse(&said.stdout).unwrap_or_else(|why| panic!("{why}\n{}", said.stdout))
}

/// A sample by its name as it stands on the page, such as `muster_nodes{state="gone"}`.
fn at(page: &Page, sample: &str) -> f64 {
    let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
    let labels: Vec<(&str, &str)> = labels
        .trim_end_matches('}')
        .split(',')
        .filter_map(|label| label.split_once('='))
        .map(|(name, text)| (name, text.trim_matches('"')))
        .collect();
    page.value(name, &labels).unwrap_or_else(|| panic!("no {sample}"))
}

/// By how much each of these is more than before.
fn assert_rise(before: &Page, after: &Page, rises: &[(&str, f64)]) {
    for (sample, by) in rises {
        assert_eq!(at(after, sample) - at(before, sample), *by, "{sample}");
    }
}

fn with_passcode(mut frame: Frame, passcode: &str) -> Frame {
    frame.headers.set("passcode", passcode);
    frame
}

#[test]
fn logins_are_counted_by_how_they_came_out() {
    let broker = Setup::new().with("limits.login-time", "3s").start();
    let before = metrics(&broker);
    for (sample, value) in [
        ("muster_build_info{name=\"noc1\",version=\"0.1.0\"}", 1.0),
        ("muster_hub_answers", 1.0),
        ("muster_sessions{kind=\"agent\"}", 0.0),
        ("muster_logins_total{outcome=\"token\"}", 0.0),
        ("muster_refusals_total{code=\"internal\"}", 0.0),
        ("muster_audit_enabled", 1.0),
        ("muster_policy_term", 1.0),
        ("muster_alarms{source=\"links\"}", 0.0),
        ("muster_alarms{source=\"policy\"}", 0.0),
    ] {
        assert_eq!(at(&before, sample), value, "{sample}");
    }
    let until_end = tls::valid_until(&broker.folder().join("broker.pem")).expect("a certificate");
    assert_eq!(at(&before, "muster_certificate_expiry_timestamp_seconds"), until_end as f64);

    let mut first = Stomp::dial(&broker);
    first.send(connect("noc"));
    let token = first.connected().headers.get("muster-token").expect("a token").to_owned();
    let _again = Stomp::login(&broker, "noc");
    let mut by_token = Stomp::dial(&broker);
    by_token.send(with_passcode(connect("noc"), &token));
    by_token.connected();
    for (user, passcode) in [("acme", "wrong"), ("nobody-at-all", "wrong"), ("noc", &token[..token.len() - 4])] {
        let mut stomp = Stomp::dial(&broker);
        stomp.send(with_passcode(connect(user), passcode));
        assert_eq!(stomp.error().code, "auth-failed");
    }
    let mut http = Stomp::dial(&broker);
    http.raw(b"GET /metrics HTTP/1.1\r\n\r\n");
    assert_eq!(http.error().code, "bad-frame");
    Stomp::plain(broker.address()).raw(b"CONNECT\n\n\0");
    let mut no_hello = TcpStream::connect(broker.address()).expect("TCP");
    no_hello.write_all(&[0x16, 3, 1, 0, 5, 0, 0, 0, 0, 0]).expect("room");
    // Whatever TLS says to that, or a reset.
    let _ = no_hello.read_to_end(&mut Vec::new());
    let mut silent = Stomp::dial(&broker);
    assert_eq!(silent.error().code, "auth-timeout");

    let after = until("every login is counted", || {
        let page = metrics(&broker);
        let all: f64 = page.0["muster_logins_total"].samples.iter().map(|sample| sample.value).sum();
        (all >= 10.0).then_some(page)
    });
    assert_rise(
        &before,
        &after,
        &[
            ("muster_logins_total{outcome=\"password\"}", 1.0),
            ("muster_logins_total{outcome=\"cache\"}", 1.0),
            ("muster_logins_total{outcome=\"token\"}", 1.0),
            ("muster_logins_total{outcome=\"denied\"}", 3.0),
            ("muster_logins_total{outcome=\"busy\"}", 0.0),
            ("muster_logins_total{outcome=\"malformed\"}", 2.0),
            ("muster_logins_total{outcome=\"tls\"}", 1.0),
            ("muster_logins_total{outcome=\"timeout\"}", 1.0),
            ("muster_sessions_opened_total", 3.0),
            ("muster_sessions_refused_total", 0.0),
            ("muster_sessions{kind=\"operator\"}", 3.0),
            ("muster_sessions{kind=\"agent\"}", 0.0),
        ],
    );
    until("only those that are in have a connection", || {
        let page = metrics(&broker);
        let open = (at(&page, "muster_connections"), at(&page, "muster_connections_pending"));
        (open == (3.0, 0.0)).then_some(())
    });
}

#[test]
fn sessions_that_are_not_opened_and_connections_without_a_place_are_counted() {
    let broker = Setup::new().with("limits.sessions-per-user", 1).with("limits.connections", 2).start();
    let mut node = Node::connect_again(&broker, "node-acme", 1, 5);
    let mut older = Stomp::dial(&broker);
    older.send(muster_tests::node::hello("node-acme", 1, 4));
    assert_eq!(older.error().code, "moved");
    until("its place is free again", || (at(&metrics(&broker), "muster_connections") == 1.0).then_some(()));
    // No operator: for the address of one there is room beyond the others.
    let _other = Node::connect(&broker, "node-beta", 2);
    let mut third = Stomp::plain(broker.address());
    third.end();
    let page = metrics(&broker);
    for (sample, value) in [
        ("muster_sessions_opened_total", 2.0),
        ("muster_sessions_refused_total", 1.0),
        ("muster_connections_turned_away_total", 1.0),
        ("muster_nodes{state=\"registering\"}", 2.0),
        ("muster_sessions_moved_total", 0.0),
    ] {
        assert_eq!(at(&page, sample), value, "{sample}");
    }
    node.publish(&muster_tests::node::document(json!({})));
    node.stomp.cut();
    until("the node is gone", || {
        let page = metrics(&broker);
        let nodes = (at(&page, "muster_nodes{state=\"registered\"}"), at(&page, "muster_nodes{state=\"gone\"}"));
        (nodes == (0.0, 1.0)).then_some(())
    });
}

#[test]
fn a_request_is_counted_with_its_nodes_replies_and_deliveries() {
    let broker = Broker::start();
    let mut nodes: Vec<Node> =
        (1..=3).map(|number| Node::register(&broker, "node-acme", number, json!({ "n": number }))).collect();
    let mut noc = Stomp::operator(&broker, "noc");
    let before = metrics(&broker);
    assert_eq!(
        (at(&before, "muster_nodes{state=\"registered\"}"), at(&before, "muster_sessions{kind=\"agent\"}")),
        (3.0, 3.0)
    );
    noc.send(request("prod.node.ping", "r1", "n<3"));
    noc.event("accepted");
    assert_eq!(at(&metrics(&broker), "muster_requests_open"), 1.0);
    let asked = [nodes[0].request(), nodes[1].request()];
    nodes[0].reply(&asked[0], "ok", &json!({}));
    nodes[0].reply(&asked[0], "ok", &json!({}));
    nodes[1].reply(&asked[1], "failed", &json!({}));
    noc.event("reply");
    noc.event("reply");
    noc.event("done");
    let done = metrics(&broker);
    assert_rise(
        &before,
        &done,
        &[
            ("muster_requests_total{outcome=\"accepted\"}", 1.0),
            ("muster_requests_total{outcome=\"refused\"}", 0.0),
            ("muster_requests_stopped_total", 0.0),
            ("muster_request_nodes_total{state=\"ok\"}", 1.0),
            ("muster_request_nodes_total{state=\"failed\"}", 1.0),
            ("muster_request_nodes_total{state=\"lost\"}", 0.0),
            ("muster_replies_total", 2.0),
            ("muster_stray_replies_total", 1.0),
            // To two nodes; accepted, two replies and the end to the caller.
            ("muster_deliveries_total", 6.0),
            ("muster_requests_open", 0.0),
            ("muster_requests_owed", 0.0),
        ],
    );
    let mut viewer = Stomp::operator(&broker, "viewer");
    viewer.send(request("prod.service.restart", "r2", "n=1"));
    assert_eq!(viewer.refused().code, "denied");
    noc.send(request("prod.node.ping", "r3", "n<4").header("muster-max-targets", "2"));
    assert_eq!(noc.refused().code, "too-many-targets");
    noc.send(request("prod.node.ping", "r4", "n=3"));
    nodes[2].request();
    nodes.pop().expect("the third").stomp.cut();
    noc.wait_for("the end of r4", |frame| frame.headers.get("muster-event") == Some("done"));
    let after = metrics(&broker);
    assert_rise(
        &done,
        &after,
        &[
            ("muster_requests_total{outcome=\"accepted\"}", 2.0),
            ("muster_requests_total{outcome=\"refused\"}", 1.0),
            ("muster_requests_stopped_total", 1.0),
            ("muster_refusals_total{code=\"denied\"}", 1.0),
            ("muster_refusals_total{code=\"too-many-targets\"}", 1.0),
            ("muster_refusals_total{code=\"hidden-fact\"}", 0.0),
            ("muster_request_nodes_total{state=\"lost\"}", 1.0),
            ("muster_request_nodes_total{state=\"ok\"}", 0.0),
        ],
    );
    for rising in [
        "muster_hub_event_seconds_count",
        "muster_hub_event_seconds_sum",
        "muster_hub_busy_seconds_total",
        "muster_uptime_seconds",
        "process_cpu_seconds_total",
    ] {
        assert!(at(&after, rising) > at(&before, rising), "{rising}");
    }
    assert!(at(&after, "muster_hub_busy_seconds_total") >= at(&after, "muster_hub_event_seconds_sum"));
    assert!(at(&after, "process_resident_memory_bytes") > 1e6 && at(&after, "process_open_fds") > 5.0);
    until("the request is on record", || {
        let page = metrics(&broker);
        assert_eq!((at(&page, "muster_audit_lost_total"), at(&page, "muster_audit_failing")), (0.0, 0.0));
        (at(&page, "muster_audit_records_total") >= at(&before, "muster_audit_records_total") + 5.0).then_some(())
    });
    let since = at(&after, "muster_policy_loaded_timestamp_seconds");
    broker.reload(POLICY);
    assert_eq!(at(&metrics(&broker), "muster_policy_loaded_timestamp_seconds"), since, "it stood so already");
    broker.reload(&format!("{POLICY}\n[groups.more]\n"));
    let page = metrics(&broker);
    assert!(at(&page, "muster_policy_loaded_timestamp_seconds") > since, "another policy");
    assert_eq!(at(&page, "muster_policy_number"), 2.0);
}

#[test]
fn what_expires_while_it_waits_and_who_does_not_read_is_counted() {
    let broker = Setup::new().with("limits.caller-outbox", "1MiB").start();
    let mut idle = Stomp::login(&broker, "noc");
    idle.subscribe("/topic/open.news", "news");
    let mut sender = Stomp::operator(&broker, "noc");
    let body = "x".repeat(200_000);
    let send = |sender: &mut Stomp, ms: u64| {
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let expires = (unix.as_millis() as u64 + ms).to_string();
        sender.send_and_wait(message("/topic/open.news").header("expires", &expires).with_body(body.clone()));
    };
    // Nobody reads: the socket fills, then the outbox, and what has expired makes room for the rest.
    until("something has expired in the outbox", || {
        send(&mut sender, 50);
        (at(&metrics(&broker), "muster_outbox_expired_total") > 0.0).then_some(())
    });
    assert_eq!(at(&metrics(&broker), "muster_slow_consumers_total"), 0.0);
    until("the one who does not read is closed", || {
        send(&mut sender, 3_600_000);
        (at(&metrics(&broker), "muster_slow_consumers_total") > 0.0).then_some(())
    });
    assert_eq!(at(&metrics(&broker), "muster_slow_consumers_total"), 1.0);
}

#[test]
fn a_link_is_counted_by_lane_and_seen_to_be_down() {
    let mut cluster = Cluster::line(2);
    let mut nodes = cluster.nodes("dc1", "node-acme", 1..=1);
    cluster.until_nodes(&[("dc1", 1)]);
    let link = |page: &Page, what: &str| at(page, &format!("muster_link_{what}"));
    let before = until("a ping has come back", || {
        let page = metrics(&cluster["noc1"]);
        page.0.contains_key("muster_link_round_trip_seconds").then_some(page)
    });
    assert_eq!(link(&before, "up{peer=\"dc1\"}"), 1.0);
    assert_eq!(link(&before, "taken_down{peer=\"dc1\"}"), 0.0);
    assert!(link(&before, "round_trip_seconds{peer=\"dc1\"}") < 5.0);
    assert_eq!(at(&before, "muster_mesh_brokers{reach=\"reachable\"}"), 1.0);
    let mut noc = cluster.operator("noc1");
    noc.send(request("prod.node.ping", "r1", "customer=acmeinc"));
    let asked = nodes[0].request();
    nodes[0].reply(&asked, "ok", &json!({}));
    noc.wait_for("the end of r1", |frame| frame.headers.get("muster-event") == Some("done"));
    let after = metrics(&cluster["noc1"]);
    assert_rise(&before, &after, &[("muster_request_nodes_total{state=\"ok\"}", 1.0), ("muster_replies_total", 0.0)]);
    for lane in ["in", "out"] {
        let frames = format!("frames_total{{peer=\"dc1\",direction=\"{lane}\",lane=\"data\"}}");
        assert!(link(&after, &frames) > link(&before, &frames), "{frames}");
        let bytes = format!("bytes_total{{peer=\"dc1\",direction=\"{lane}\",lane=\"data\"}}");
        assert!(link(&after, &bytes) > link(&before, &bytes) + 50.0, "{bytes}");
    }
    assert!(
        at(&after, "muster_mesh_messages_total{what=\"forwarded\"}")
            > at(&before, "muster_mesh_messages_total{what=\"forwarded\"}")
    );
    cluster.cut("noc1", "dc1");
    until("the link is seen to be taken down", || {
        let page = metrics(&cluster["noc1"]);
        let taken = (link(&page, "up{peer=\"dc1\"}"), link(&page, "taken_down{peer=\"dc1\"}"));
        let unreachable = at(&page, "muster_mesh_brokers{reach=\"unreachable\"}");
        (taken == (0.0, 1.0) && unreachable == 1.0).then_some(())
    });
}

#[test]
fn metrics_of_a_broker_that_has_ended_are_an_error() {
    let mut broker = Broker::start();
    broker.signal(Signal::TERM);
    assert!(broker.wait().success());
    let said = broker.ctl("metrics");
    assert!(said.code != 0 && said.stdout.is_empty() && said.stderr.contains("is musterd running"), "{said:?}");
}

fn monitoring(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ext/monitoring").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn yaml(name: &str) -> Value {
    serde_norway::from_str(&monitoring(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// What a query asks for: metrics with the labels and texts that they are narrowed by.
fn selectors(query: &str) -> Vec<(String, Vec<(String, String)>)> {
    let is_name = |char: char| char.is_ascii_alphanumeric() || char == '_';
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(start) = rest.find(|char: char| char.is_ascii_alphabetic()) {
        let word = &rest[start..];
        let end = word.find(|char: char| !is_name(char)).unwrap_or(word.len());
        let name = &word[..end];
        rest = &word[end..];
        if !name.starts_with("muster_") && !name.starts_with("process_") && name != "up" {
            continue;
        }
        let mut labels = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            let (matchers, after) = inside.split_once('}').expect("a brace");
            rest = after;
            for matcher in matchers.split(',') {
                let (label, text) = matcher.split_once('=').expect("a matcher");
                labels.push((label.to_owned(), text.to_owned()));
            }
        }
        found.push((name.to_owned(), labels));
    }
    found
}

/// Every query, with where it stands.
fn queries() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for rule in array(&yaml("alerts.yml")["groups"][0]["rules"]) {
        queries.push((format!("alert {}", text(&rule["alert"])), text(&rule["expr"]).to_owned()));
    }
    let dashboard: Value = serde_json::from_str(&monitoring("grafana-dashboard.json")).expect("JSON");
    for panel in array(&dashboard["panels"]) {
        for target in array(&panel["targets"]) {
            queries.push((format!("panel {}", text(&panel["title"])), text(&target["expr"]).to_owned()));
        }
    }
    queries
}

#[test]
fn dashboard_and_alerts_ask_for_what_there_is_and_leave_little_out() {
    let cluster = Cluster::line(2);
    let page = until("a ping has come back", || {
        let page = metrics(&cluster["noc1"]);
        page.0.contains_key("muster_link_round_trip_seconds").then_some(page)
    });
    // The labels of each sample's name, with their texts; Prometheus adds where it came from.
    let mut known: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for sample in page.samples() {
        let labels = known.entry(sample.name.clone()).or_default();
        for (label, text) in &sample.labels {
            labels.entry(label.clone()).or_default().insert(text.clone());
        }
    }
    known.insert("up".into(), BTreeMap::new());
    let added = ["job", "broker", "instance"];
    let mut used = BTreeSet::new();
    let queries = queries();
    assert!(queries.len() > 40, "{} queries", queries.len());
    for (place, query) in &queries {
        let selectors = selectors(query);
        assert!(!selectors.is_empty(), "{place} asks for nothing: {query}");
        let mut all: BTreeSet<&str> = added.into_iter().collect();
        for (name, labels) in &selectors {
            let of = known.get(name).unwrap_or_else(|| panic!("{place}: there is no {name}"));
            used.insert(name.clone());
            all.extend(of.keys().map(String::as_str));
            for (label, matched) in labels {
                assert!(added.contains(&label.as_str()) || of.contains_key(label), "{place}: {name} has no {label}");
                if let Some(texts) = of.get(label).filter(|_| matched.starts_with('"')) {
                    assert!(texts.contains(matched.trim_matches('"')), "{place}: {name} has no {label}={matched}");
                }
            }
        }
        for by in query.split("by (").skip(1) {
            for label in by.split(')').next().expect("a parenthesis").split(", ") {
                assert!(all.contains(label), "{place}: nothing in it has a label {label}");
            }
        }
    }
    let shown = |family: &&String| !used.iter().any(|name| name.starts_with(family.as_str()));
    let left_out: Vec<&String> = page.0.keys().filter(shown).collect();
    assert_eq!(left_out, ["muster_audit_enabled"], "neither in the dashboard nor in an alert");
}

#[test]
fn the_dashboard_is_one() {
    let dashboard: Value = serde_json::from_str(&monitoring("grafana-dashboard.json")).expect("JSON");
    assert!(dashboard["schemaVersion"].as_u64().is_some_and(|version| version >= 36));
    assert_eq!((&dashboard["id"], text(&dashboard["uid"])), (&Value::Null, "muster-brokers"));
    let variables: BTreeSet<&str> = array(&dashboard["templating"]["list"]).iter().map(|v| text(&v["name"])).collect();
    assert_eq!(variables, BTreeSet::from(["broker", "datasource"]));
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in array(&dashboard["panels"]) {
        let title = text(&panel["title"]);
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title}: its id is there twice");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().expect("a number"));
        assert!(w > 0 && h > 0 && x + w <= 24, "{title} does not fit");
        for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(place), "{title} lies on another panel");
        }
        if panel["type"] == "row" {
            continue;
        }
        assert_eq!(text(&panel["datasource"]["uid"]), "${datasource}", "{title}");
        let references: BTreeSet<&str> = array(&panel["targets"]).iter().map(|t| text(&t["refId"])).collect();
        assert_eq!(references.len(), array(&panel["targets"]).len(), "{title}");
        for target in array(&panel["targets"]) {
            let query = text(&target["expr"]);
            assert!(query.contains("broker=~\"$broker\""), "{title} shows all brokers: {query}");
            let open = query.matches(['(', '{', '[']).count();
            assert_eq!(open, query.matches([')', '}', ']']).count(), "{title}: {query}");
        }
    }
}

#[test]
fn alerts_say_what_to_do_and_prometheus_knows_where_to_look() {
    let (alerts, readme) = (yaml("alerts.yml"), monitoring("README.md"));
    let mut names = BTreeSet::new();
    for rule in array(&alerts["groups"][0]["rules"]) {
        let name = text(&rule["alert"]);
        assert!(names.insert(name) && readme.contains(&format!("`{name}`")), "{name}: twice, or not in README.md");
        assert!(["warning", "critical"].contains(&text(&rule["labels"]["severity"])), "{name}");
        for field in ["summary", "description"] {
            assert!(!text(&rule["annotations"][field]).is_empty(), "{name} has no {field}");
        }
    }
    assert!(names.len() >= 9, "{names:?}");
    let prometheus = yaml("prometheus.yml");
    assert_eq!(prometheus["rule_files"], json!(["alerts.yml"]));
    let job = &prometheus["scrape_configs"][0];
    assert_eq!(
        (text(&job["job_name"]), text(&job["scheme"]), text(&job["metrics_path"])),
        ("muster", "https", "/metrics")
    );
    assert_eq!(text(&job["tls_config"]["ca_file"]), "ca.pem");
    assert_eq!(job["tls_config"]["insecure_skip_verify"], Value::Null, "certificates are verified");
    let targets = array(&job["static_configs"][0]["targets"]);
    assert!(targets.len() == 3 && targets.iter().all(|target| text(target).ends_with(":8161")), "{targets:?}");
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ext/monitoring");
    for entry in fs::read_dir(folder).expect("ext/monitoring") {
        let name = entry.expect("a file").file_name().into_string().expect("a name");
        assert!(name == "README.md" || readme.contains(&format!("`{name}`")), "README.md does not name {name}");
    }
}
