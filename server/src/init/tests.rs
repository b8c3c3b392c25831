//! Does what `musterd init` makes load, verify and keep its secrets?

use super::*;
use crate::broker::access::{Kind, Right};
use crate::config::Config;
use crate::policy;
use muster_protocol::destination::{Destination, Pattern};
use muster_protocol::tls;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_new_cluster_is_good_and_keeps_its_secrets() {
    let parent = tempfile::tempdir().unwrap();
    let mut options = InitOptions::new(parent.path().join("new/noc1"));
    options.addresses.push("2001:db8::1".into());
    let report = init(&options).unwrap();

    let config = Config::load(&report.config()).unwrap();
    assert_eq!((config.broker.name.as_str(), config.broker.cluster.as_str()), ("noc1", "demo"));
    tls::server_config(&config.tls.certificate, &config.tls.key).unwrap();
    tls::client_config(&config.tls.ca).unwrap();
    let policy = policy::load(&config.policy).unwrap();
    assert_eq!(std::fs::read_to_string(&config.cluster_key).unwrap().trim().len(), 64);

    let names: BTreeSet<&str> = policy.users().map(|user| user.name.as_str()).collect();
    assert_eq!(names, report.users.iter().map(String::as_str).collect());
    let shown = report.to_string();
    for user in policy.users() {
        let password = std::fs::read_to_string(report.password_file(&user.name)).unwrap();
        let password = SecretString::from(password.trim());
        assert!(passwd::verify(user.password.as_str(), &password), "{}", user.name);
        assert!(!shown.contains(password.expose_secret()) && !shown.contains("$argon2"));
        assert_eq!(user.kind == Kind::Agent, report.dir.join(format!("agents/{}.toml", user.name)).exists());
    }
    for path in report.files.iter().map(|path| options.dir.join(path)) {
        let text = std::fs::read_to_string(&path).unwrap();
        let secret = text.contains("PRIVATE KEY") || text.contains("$argon2") || text.len() < 70;
        assert_eq!(mode(&path), if secret { 0o600 } else { 0o644 }, "{}", path.display());
    }
    for directory in ["", "passwords", "agents"] {
        assert_eq!(mode(&options.dir.join(directory)), 0o700);
    }

    let again = init(&options).unwrap_err().to_string();
    assert!(again.contains("holds agents, broker.key, broker.pem") && again.ends_with("an empty directory"), "{again}");
}

#[test]
fn the_certificate_is_for_the_brokers_name_and_addresses() {
    let parent = tempfile::tempdir().unwrap();
    let mut options = InitOptions::new(parent.path().join("noc1"));
    options.addresses = vec!["127.0.0.1".into(), "noc.example".into()];
    init(&options).unwrap();
    let read = |name: &str| {
        let pem = std::fs::read(options.dir.join(name)).unwrap();
        x509_parser::pem::parse_x509_pem(&pem).unwrap().1.contents
    };
    let (ca, broker) = (read("ca.pem"), read("broker.pem"));
    let ca = x509_parser::parse_x509_certificate(&ca).unwrap().1;
    let broker = x509_parser::parse_x509_certificate(&broker).unwrap().1;
    assert!(ca.is_ca() && !broker.is_ca());
    assert_eq!(broker.issuer(), ca.subject());
    let names = broker.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(names[0].contains("noc1.demo.muster") && names[2].contains("noc.example"), "{names:?}");
    assert!(broker.validity().is_valid() && ca.validity().is_valid());
}

#[test]
fn the_policy_makes_the_tour_work() {
    let parent = tempfile::tempdir().unwrap();
    let report = init(&InitOptions::new(parent.path())).unwrap();
    let policy = policy::load(&report.dir.join("policy.toml")).unwrap();
    let may = |user: &str, destination: &str| {
        let destination = Destination::parse(destination).unwrap();
        policy.allows(policy.user(user).unwrap(), Right::Write, &destination)
    };
    for (destination, admin, noc, acme, agent) in [
        ("/topic/prod.service.restart", true, true, false, false),
        ("/topic/prod.service.status", true, true, true, false),
        ("/topic/prod.node.ping", true, true, true, false),
        ("/topic/prod.process.list", true, true, true, false),
        ("/topic/prod.process.signal", true, false, false, false),
        ("/topic/prod.exec.run", true, false, false, false),
        ("/muster/find", true, true, true, false),
        ("/muster/facts", false, false, false, true),
        ("/muster/admin.explain", true, false, false, false),
    ] {
        let found = ["admin", "alice", "bob", "node-a-acme"].map(|user| may(user, destination));
        assert_eq!(found, [admin, noc, acme, agent], "{destination}");
    }
    let user = |name: &str| policy.user(name).unwrap();
    let commands = Pattern::parse("/topic/prod.*.*").unwrap();
    assert!(policy.covers(user("node-b-acme"), &commands) && !policy.covers(user("alice"), &commands));
    assert!(user("alice").may_all && user("alice").scope.is_none() && !user("bob").may_all);
    assert_eq!(user("bob").scope.as_ref().unwrap().to_string(), "customer = acmeinc");
    assert_eq!(user("node-b-acme").facts["datacenter"], "b");
    assert_eq!(user("node-b-acme").collective, "prod");
    assert!(policy.hidden(user("admin")).is_empty() && !policy.hidden(user("alice")).is_empty());
}

#[test]
fn configurations_name_brokers_as_clients_dial_them() {
    for (host, expected) in
        [("127.0.0.1", "127.0.0.1:61614"), ("::1", "[::1]:61614"), ("noc.example", "noc.example:61614")]
    {
        assert_eq!(dialled(host, 61614).unwrap(), expected);
        assert!(expected.parse::<Address>().is_ok());
    }
    for host in ["", "a b", "noc:61614", "https://noc", "127.0.0.1:61614"] {
        assert!(matches!(dialled(host, 61614), Err(InitError::Address(_))), "{host}");
    }
    let mut options = InitOptions::new("unused");
    options.name = "NOC 1".into();
    assert!(matches!(init(&options), Err(InitError::Name { option: "name", .. })));
}
