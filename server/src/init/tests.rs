//! Does what `musterd init` makes load, verify and keep its secrets?

use super::brokers::dialled;
use super::*;
use crate::broker::access::{Kind, Right, lint};
use crate::config::Config;
use crate::{passwd, policy};
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

    let config = Config::load(&report.configs().next().unwrap()).unwrap();
    assert_eq!((config.broker.name.as_str(), config.broker.cluster.as_str()), ("noc1", "demo"));
    assert_eq!(config.listen.admin, [SocketAddr::from(([127, 0, 0, 1], 8161))], "for this machine alone");
    tls::server_config(&config.tls.certificate, &config.tls.key, None).unwrap();
    tls::client_config(&config.tls.ca, None).unwrap();
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
    assert_eq!(lint(&policy).findings, []);
    assert_eq!(policy.authority().map(BrokerName::as_str), Some("noc1"));
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
        assert_eq!(dialled(host, 61614).unwrap().to_string(), expected);
    }
    for host in ["", "a b", "noc:61614", "https://noc", "127.0.0.1:61614"] {
        assert!(matches!(dialled(host, 61614), Err(InitError::Address(_))), "{host}");
    }
    let mut options = InitOptions::new("unused");
    options.name = "NOC 1".into();
    assert!(matches!(init(&options), Err(InitError::Name { option: "name", .. })));
}

fn of_brokers(dir: &Path, brokers: &[&str]) -> InitOptions {
    let mut options = InitOptions::new(dir);
    options.brokers = brokers.iter().map(|text| text.parse().unwrap()).collect();
    options
}

fn configs(report: &InitReport) -> Vec<Config> {
    report.configs().map(|file| Config::load(&file).unwrap()).collect()
}

fn broker_lines(path: &Path) -> Vec<String> {
    let table = std::fs::read_to_string(path).unwrap().parse::<toml::Table>().unwrap();
    table["brokers"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_broker_of_a_cluster_has_all_it_needs_in_its_folder() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("demo");
    let report = init(&of_brokers(&dir, &["noc1", "dc1", "dc2"])).unwrap();
    let brokers = ["noc1", "dc1", "dc2"];
    for (broker, (stomp, link)) in brokers.iter().zip([(61614, 61617), (61624, 61627), (61634, 61637)]) {
        // Taken elsewhere, as to its machine.
        let moved = parent.path().join(format!("machine-of-{broker}"));
        std::fs::create_dir(&moved).unwrap();
        for name in ["musterd.toml", "broker.pem", "broker.key", "ca.pem", "cluster.key", "policy.toml"] {
            std::fs::copy(dir.join(broker).join(name), moved.join(name)).unwrap();
        }
        assert_eq!(std::fs::read_dir(dir.join(broker)).unwrap().count(), 6, "and nothing else is there");
        let config = Config::load(&moved.join("musterd.toml")).unwrap();
        crate::server::check(&config).unwrap();
        assert_eq!((config.broker.name.as_str(), config.broker.cluster.as_str()), (*broker, "demo"));
        assert_eq!(config.listen.stomp, [SocketAddr::from(([127, 0, 0, 1], stomp))]);
        assert_eq!(config.listen.links, [SocketAddr::from(([127, 0, 0, 1], link))]);
        let policy = policy::load(&config.policy).unwrap();
        assert_eq!(policy.brokers().len(), 3);
        assert_eq!(policy.authority().map(BrokerName::as_str), Some("noc1"), "the first one");
        let entry = &policy.brokers()[&BrokerName::parse(broker).unwrap()];
        assert_eq!(entry.link.as_ref().unwrap().to_string(), format!("127.0.0.1:{link}"));
        assert_eq!(entry.stomp[0].to_string(), format!("127.0.0.1:{stomp}"));
        assert_eq!(mode(&dir.join(broker)), 0o700);
    }
    let same = |name: &str| {
        let top = std::fs::read(dir.join(name)).unwrap();
        brokers.iter().all(|broker| std::fs::read(dir.join(broker).join(name)).unwrap() == top)
    };
    assert!(same("ca.pem") && same("cluster.key") && same("policy.toml"));
    let keys: BTreeSet<_> =
        brokers.iter().map(|broker| std::fs::read(dir.join(broker).join("broker.key")).unwrap()).collect();
    assert_eq!(keys.len(), 3, "no two brokers have the same key");
    for path in report.files.iter().map(|path| dir.join(path)) {
        let text = std::fs::read_to_string(&path).unwrap();
        let secret = text.contains("PRIVATE KEY") || text.contains("$argon2") || text.len() < 70;
        assert_eq!(mode(&path), if secret { 0o600 } else { 0o644 }, "{}", path.display());
    }
    let shown = report.to_string();
    for command in [
        "musterd run --config DIR/noc1/musterd.toml\n",
        "musterd run --config DIR/dc2/musterd.toml\n",
        "muster-agent run --config DIR/agents/node-a-acme.toml\n",
        "muster --config DIR/muster.toml find --all",
    ] {
        assert!(shown.contains(&command.replace("DIR", &dir.display().to_string())), "{command}: {shown}");
    }
    assert!(
        shown.contains("clients reach it at 127.0.0.1:61634, brokers at 127.0.0.1:61637; dials noc1, dc1"),
        "{shown}"
    );
}

#[test]
fn agents_list_the_broker_of_their_data_center_first() {
    let parent = tempfile::tempdir().unwrap();
    let brokers = ["noc1=noc1.example", "dc1=dc1.example", "dc2=dc2.example", "dc3=[2001:db8::3]"];
    for (count, a, b) in [(4, "dc1.example:61614", "dc2.example:61614"), (2, "dc1.example:61614", "noc1.example:61614")]
    {
        let dir = parent.path().join(count.to_string());
        init(&of_brokers(&dir, &brokers[..count])).unwrap();
        for (user, first) in [("node-a-acme", a), ("node-a-globex", a), ("node-b-acme", b)] {
            let listed = broker_lines(&dir.join(format!("agents/{user}.toml")));
            assert_eq!(listed[0], first, "{user}");
            assert_eq!(
                listed.iter().collect::<BTreeSet<_>>().len(),
                count,
                "{user} lists each broker once: {listed:?}"
            );
        }
        let operator = broker_lines(&dir.join("muster.toml"));
        assert_eq!((operator[0].as_str(), operator.len()), ("noc1.example:61614", count));
    }
}

#[test]
fn of_each_linked_pair_the_later_broker_dials() {
    let parent = tempfile::tempdir().unwrap();
    for (topology, expected) in [
        (Topology::Mesh, "b-a c-a c-b d-a d-b d-c"),
        (Topology::Star, "b-a c-a d-a"),
        (Topology::Line, "b-a c-b d-c"),
        (Topology::Ring, "b-a c-b d-a d-c"),
    ] {
        let mut options = of_brokers(&parent.path().join(format!("{topology:?}")), &["a", "b", "c", "d"]);
        options.topology = topology;
        let mut pairs = Vec::new();
        for config in configs(&init(&options).unwrap()) {
            assert!(config.link.iter().all(|link| link.dial && link.address.is_none() && link.send.is_none()));
            pairs.extend(config.link.iter().map(|link| format!("{}-{}", config.broker.name, link.to)));
        }
        assert_eq!(pairs.join(" "), expected, "{topology:?}");
    }
    let mut two = of_brokers(&parent.path().join("two"), &["a", "b"]);
    two.topology = Topology::Ring;
    let links: Vec<usize> = configs(&init(&two).unwrap()).iter().map(|config| config.link.len()).collect();
    assert_eq!(links, [0, 1], "a pair has one link");
    let one = configs(&init(&of_brokers(&parent.path().join("one"), &["a"])).unwrap()).remove(0);
    assert!(one.link.is_empty() && one.policy.ends_with("a/policy.toml"));
}

#[test]
fn ports_that_are_given_are_kept_and_no_two_brokers_of_a_host_share_one() {
    let parent = tempfile::tempdir().unwrap();
    let listens = |name: &str, brokers: &[&str]| -> Vec<String> {
        let report = init(&of_brokers(&parent.path().join(name), brokers)).unwrap();
        let listens = configs(&report)
            .into_iter()
            .map(|Config { listen, .. }| format!("{} {} {}", listen.stomp[0], listen.links[0], listen.admin[0]));
        listens.collect()
    };
    assert_eq!(
        listens("a", &["a", "b=127.0.0.1:61614", "c=localhost:7000:7001:7003", "d=127.0.0.1:7002"]),
        [
            "127.0.0.1:61624 127.0.0.1:61617 127.0.0.1:8161",
            "127.0.0.1:61614 127.0.0.1:61627 127.0.0.1:8171",
            "127.0.0.1:7000 127.0.0.1:7001 127.0.0.1:7003",
            "127.0.0.1:7002 127.0.0.1:61637 127.0.0.1:8181"
        ]
    );
    assert_eq!(
        listens(
            "b",
            &["a=a.example", "b=192.0.2.1", "c=[2001:db8::1]", "d=[2001:db8::2]:1:2", "e=[::1]", "f=127.0.0.2"]
        ),
        [
            "0.0.0.0:61614 0.0.0.0:61617 127.0.0.1:8161",
            "0.0.0.0:61614 0.0.0.0:61617 127.0.0.1:8161",
            "[::]:61614 [::]:61617 127.0.0.1:8161",
            "[::]:1 [::]:2 127.0.0.1:8161",
            "[::1]:61614 [::1]:61617 [::1]:8161",
            "127.0.0.2:61614 127.0.0.2:61617 127.0.0.2:8161"
        ]
    );
}

#[test]
fn mistakes_about_brokers_leave_nothing_behind() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("new");
    for (brokers, expected) in [
        (["a", "a=a.example"], "--broker a: stands twice"),
        (["a", "passwords"], "--broker passwords: the folder `passwords` is for something else"),
        (["a=h:1", "b=h:2:1"], "--broker b: port 1 of its host is taken"),
        (["a", "b=h:7:7"], "--broker b: port 7 of its host is taken"),
        (["a", "b=h:7:8:8"], "--broker b: port 8 of its host is taken"),
        (["a=localhost:7", "b=127.0.0.1:7"], "--broker b: port 7 of its host is taken"),
    ] {
        let error = init(&of_brokers(&dir, &brokers)).unwrap_err().to_string();
        assert!(error.starts_with(expected) && error.contains("; "), "{brokers:?}: {error}");
        assert!(!dir.exists());
    }
    let mut cluster = of_brokers(&dir, &["a", "b"]);
    cluster.cluster = "Demo".into();
    assert!(matches!(init(&cluster), Err(InitError::Name { option: "cluster", .. })));
    let many: Vec<String> = (0..257).map(|n| format!("b{n}")).collect();
    let many = init(&of_brokers(&dir, &many.iter().map(String::as_str).collect::<Vec<_>>())).unwrap_err().to_string();
    assert!(many.contains("would be refused: line ") && many.contains("more than 256 brokers"), "{many}");
    assert!(!dir.exists());

    for wrong in [
        "",
        "A",
        "a b",
        "=h",
        "a=",
        "a=h:",
        "a=h:0",
        "a=h:1:",
        "a=h:1:2:3:4",
        "a=h:70000",
        "a=::1",
        "a=[::1",
        "a=[h]",
        "a=tls://h",
        "a=[::1]x:1",
    ] {
        let error = wrong.parse::<BrokerOption>().expect_err(wrong).to_string();
        assert!(error.contains(": use 1 to 63") || error.contains(": write HOST"), "{wrong}: {error}");
    }
    for everywhere in ["a=0.0.0.0", "a=[::]:7000"] {
        let error = everywhere.parse::<BrokerOption>().expect_err(everywhere).to_string();
        assert!(error.contains("give the host name or address that others reach it by"), "{everywhere}: {error}");
    }
}

#[test]
fn the_certificates_of_a_cluster_are_each_for_its_broker() {
    let parent = tempfile::tempdir().unwrap();
    init(&of_brokers(parent.path(), &["noc1", "dc1=dc1.example"])).unwrap();
    for (broker, expected) in
        [("noc1", &["noc1.demo.muster", "localhost"][..]), ("dc1", &["dc1.demo.muster", "dc1.example"])]
    {
        let pem = std::fs::read(parent.path().join(broker).join("broker.pem")).unwrap();
        let der = x509_parser::pem::parse_x509_pem(&pem).unwrap().1.contents;
        let certificate = x509_parser::parse_x509_certificate(&der).unwrap().1;
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && usage.client_auth, "{broker}");
        let names = certificate.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
        let dns = names.iter().filter_map(|name| match name {
            x509_parser::extensions::GeneralName::DNSName(name) => Some(*name),
            _ => None,
        });
        assert_eq!(dns.collect::<Vec<_>>(), expected, "{broker}");
    }
}
