//! Does the page hold what docs/metrics.md says, and every number once?

use super::*;
use crate::broker::Settings;
use crate::broker::access::Policy;
use crate::broker::event::{Event, Opened, SessionId};
use crate::broker::nodes::Memory;
use crate::broker::outbox::counted;
use crate::links::LinkCounts;
use muster_protocol::message::BrokerName;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

/// A family: type, label names in their order, help.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Family {
    name: String,
    kind: String,
    labels: Vec<String>,
    help: String,
}

/// A snapshot with something of everything.
fn full() -> Snapshot {
    let link = LinkStatus {
        peer: BrokerName::parse("dc1").expect("a name"),
        state: LinkState::Up,
        since: 0,
        address: None,
        last_error: None,
        last_error_at: None,
        clock_skew_ms: Some(-1_500),
        admin_down: false,
        dials: true,
        cost: 1,
        backlog: 17,
        dropped: 3,
        counts: LinkCounts { data_out: Traffic { frames: 5, bytes: 600 }, ..LinkCounts::default() },
    };
    let broker = Decided {
        sessions: vec![(Kind::Agent, 50_000), (Kind::Operator, 2), (Kind::Service, 0)],
        refused: vec![(Code::Denied, 4)],
        ended: vec![(State::Ok, 9), (State::TimedOut, 1)],
        round_trips: BTreeMap::from([("dc1".to_owned(), 12)]),
        policy_since: 1_700_000_000_250,
        ..Decided::default()
    };
    Snapshot {
        name: "noc1".into(),
        logins: vec![(Outcome::Cache, 8)],
        links: vec![link],
        audit: Some(Written { written: 7, ..Written::default() }),
        certificate_until: Some(1_800_000_000),
        process: Process::look(),
        broker: Some(broker),
        ..Snapshot::default()
    }
}

fn families(text: &str) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("help");
            families.push(Family { name: name.into(), kind: String::new(), labels: Vec::new(), help: help.into() });
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let family = families.last_mut().expect("HELP comes before TYPE");
            family.kind = rest.strip_prefix(&format!("{} ", family.name)).expect("of the same name").into();
        } else {
            let family = families.last_mut().expect("HELP comes before samples");
            let labels = line.split_once('{').map_or("", |(_, rest)| rest.split_once('}').expect("a brace").0);
            let names = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            family.labels = names.filter(|name| name != "le").collect();
        }
    }
    families
}

#[test]
fn the_document_lists_every_metric_and_no_other() {
    let document = include_str!("../../../docs/metrics.md");
    let rows = document.lines().filter(|line| line.starts_with("| `muster_") || line.starts_with("| `process_"));
    let said: Vec<Family> = rows
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let [name, kind, labels, help] = cells[..] else { panic!("four cells: {row}") };
            let labels =
                labels.split(", ").filter(|label| !label.is_empty()).map(|label| label.trim_matches('`').into());
            Family {
                name: name.trim_matches('`').into(),
                kind: kind.into(),
                labels: labels.collect(),
                help: help.into(),
            }
        })
        .collect();
    let text = render(&full());
    let real = families(&text);
    for family in &real {
        assert!(
            said.contains(family),
            "docs/metrics.md lacks this row:\n| `{}` | {} | {} | {} |",
            family.name,
            family.kind,
            family.labels.iter().map(|l| format!("`{l}`")).collect::<Vec<_>>().join(", "),
            family.help
        );
    }
    for row in &said {
        assert!(real.contains(row), "docs/metrics.md says what is not so: {row:?}");
    }
    let names: BTreeSet<&str> = real.iter().map(|family| family.name.as_str()).collect();
    assert_eq!((names.len(), said.len()), (real.len(), real.len()), "each once");
}

#[test]
fn units_are_those_of_prometheus() {
    let text = render(&full());
    for line in [
        "muster_sessions{kind=\"agent\"} 50000",
        "muster_link_up{peer=\"dc1\"} 1",
        "muster_link_round_trip_seconds{peer=\"dc1\"} 0.012",
        "muster_link_clock_skew_seconds{peer=\"dc1\"} -1.5",
        "muster_link_bytes_total{peer=\"dc1\",direction=\"out\",lane=\"data\"} 600",
        "muster_link_dropped_total{peer=\"dc1\",reason=\"full\"} 3",
        "muster_request_nodes_total{state=\"timed-out\"} 1",
        "muster_policy_loaded_timestamp_seconds 1700000000.25",
        "muster_certificate_expiry_timestamp_seconds 1800000000",
        "muster_hub_answers 1",
    ] {
        assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
    }
}

#[test]
fn a_hub_that_does_not_answer_is_seen_to_be_so() {
    let text = render(&Snapshot { broker: None, ..full() });
    assert!(text.contains("\nmuster_hub_answers 0\n") && text.contains("\nmuster_hub_queue 0\n"), "{text}");
    assert!(!text.contains("muster_sessions"), "{text}");
}

#[tokio::test]
async fn what_the_hub_does_shows() {
    let settings = Settings {
        name: BrokerName::parse("noc1").expect("a name"),
        instance: 1,
        incarnation: 1,
        born: 1_700_000_000_000,
        subscriptions: 1,
        in_flight: 1,
        sessions_per_user: 0,
        memory: Memory { gone_for: 0, gone_most: 0 },
    };
    let (hub, task) = Hub::start(Broker::new(settings, Arc::new(Policy::default())));
    let (outbox, _reader) = counted(1_000, &Expired::default());
    let opened = Opened {
        session: SessionId(1),
        user: "nobody".into(),
        password_hash: String::new(),
        token_made: None,
        node: None,
        peer: SocketAddr::from(([127, 0, 0, 1], 1)).into(),
        outbox,
    };
    assert!(hub.tell(Event::Opened(Box::new(opened))).await && hub.tell(Event::Wake).await);
    let decided = hub.ask(Decided::of).await.expect("it answers");
    assert_eq!((decided.counters.opened, decided.counters.turned_away), (0, 1));
    assert_eq!(decided.policy_since, 1_700_000_000_000);
    let beat = hub.pulse();
    assert_eq!((beat.classes.iter().sum::<u64>(), beat.waiting), (2, 0));
    assert!(beat.busy >= beat.events && !beat.events.is_zero(), "{beat:?}");
    hub.stop().await;
    task.await.expect("it ends");
}
