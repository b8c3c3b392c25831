//! Does a configuration mean what the sample says, and is every mistake told with its line?

use super::*;
use values::bytes;

const SAMPLE: &str = include_str!("../../../conf/musterd.toml");

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("musterd.toml"))
}

/// The example of a `[[link]]` in the sample, commented in.
fn sample_link() -> String {
    let lines = SAMPLE.lines().skip_while(|line| *line != "#[[link]]").take_while(|line| !line.is_empty());
    lines
        .map(|line| line.strip_prefix('#').filter(|line| !line.starts_with(' ')).unwrap_or(line).to_owned() + "\n")
        .collect()
}

const LEAST: &str = "[broker]\nname = \"noc1\"\ncluster = \"demo\"\n";

#[test]
fn the_sample_is_the_defaults() {
    let least = parse(LEAST).unwrap();
    assert_eq!(parse(SAMPLE).unwrap(), least);
    // What the sample shows commented out is a default as well, but for the link: all of it together still is.
    let setting = |line: &str| {
        let body = line.strip_prefix('#')?;
        let key = body.split('=').next()?;
        let is_key = body.contains(" = ") && key.trim().chars().all(|c| c.is_ascii_lowercase() || c == '-');
        is_key.then(|| body.to_owned())
    };
    let without_link = SAMPLE
        .lines()
        .take_while(|line| *line != "#[[link]]")
        .chain(SAMPLE.lines().skip_while(|line| *line != "#[[link]]").skip_while(|line| !line.is_empty()));
    let all: Vec<String> = without_link.map(|line| setting(line).unwrap_or_else(|| line.to_owned())).collect();
    let mut shown = parse(&all.join("\n")).unwrap();
    assert_eq!(shown.control, Path::new("state/musterd.sock"));
    shown.control = PathBuf::new();
    assert_eq!(shown.cluster_key_previous.take().unwrap(), Path::new("cluster.key.previous"));
    assert_eq!(shown.tls.client_ca.take().unwrap(), Path::new("client-ca.pem"));
    assert_eq!(shown.audit.file, Path::new("state/audit.jsonl"));
    shown.audit.file = PathBuf::new();
    assert_eq!(shown, least);
}

#[test]
fn the_sample_shows_every_limit() {
    for key in [
        "max-frame",
        "max-header",
        "max-headers",
        "login-time",
        "pending",
        "waiting",
        "pending-per-address",
        "connections",
        "connections-per-address",
        "sessions-per-user",
        "subscriptions",
        "outbox",
        "caller-outbox",
        "link-outbox",
        "in-flight",
        "logins",
        "login-queue",
        "token-life",
        "cluster-key-previous",
        "gone-for",
        "gone-most",
        "level",
        "format",
        "stomp",
        "plain",
        "links",
        "to",
        "address",
        "cost",
        "dial",
        "send",
        "certificate",
        "key",
        "ca",
        "client-ca",
        "state-dir",
        "control",
        "enabled",
        "file",
        "rotate-size",
        "rotate-age",
        "keep",
        "heads",
        "admin",
        "origins",
        "open-to",
        "connections-per-address",
        "sessions",
        "idle",
        "results",
        "results-for",
    ] {
        assert!(SAMPLE.lines().any(|line| line.trim_start_matches('#').starts_with(&format!("{key} = "))), "{key}");
    }
}

#[test]
fn a_link_needs_a_name_only() {
    let link = |text: &str| parse(&format!("{LEAST}{text}")).unwrap().link.remove(0);
    let least = link("[[link]]\nto = \"dc1\"\n");
    let dc1 = BrokerName::parse("dc1").unwrap();
    assert_eq!(least, LinkConfig { to: dc1.clone(), address: None, cost: 1, dial: true, send: None });
    let shown = link(&sample_link());
    assert_eq!(
        (&shown.to, shown.cost, shown.dial),
        (&least.to, least.cost, least.dial),
        "the sample shows the defaults"
    );
    assert_eq!(shown.address.unwrap().to_string(), "dc1.example.net:61617");
    assert_eq!(shown.send.unwrap(), ["/topic/prod.*.status", "/topic/prod.node.>"]);

    let full = link("[[link]]\nto = \"dc1\"\naddress = \"[::1]\"\ncost = 1000000\ndial = false\nsend = []\n");
    assert_eq!(full.address.unwrap().to_string(), "[::1]:61617", "links have their own usual port");
    assert_eq!((full.cost, full.dial, full.send), (1_000_000, false, Some(Vec::new())));
}

#[test]
fn mistakes_name_line_and_cure() {
    for (addition, line, cause) in [
        ("[limits]\nmax-frames = 1\n", 5, "unknown field `max-frames`"),
        ("[limits]\npending = 0\n", 5, "0 is out of range: 1 to 1000000 are possible"),
        ("[limits]\nlogin-time = \"5\"\n", 5, "the time is not a number with its unit"),
        ("[limits]\nlogin-time = \"1h\"\n", 5, "1h is out of range: 100ms to 5m are possible"),
        ("[limits]\ntoken-life = \"400d\"\n", 5, "0s to 1year 18h are possible"),
        ("[limits]\nmax-frame = \"1MB\"\n", 5, "the size is not a number of bytes"),
        ("[limits]\nmax-frame = \"1GiB\"\n", 5, "1024MiB is out of range: 64KiB to 256MiB are possible"),
        ("[limits]\n\nmax-frame = 65536\n", 6, "max-frame (65536 bytes) is less than 8 times"),
        ("[limits]\noutbox = \"128KiB\"\n", 5, "outbox (131072 bytes) cannot hold one frame of 1048576 bytes"),
        ("[limits]\ncaller-outbox = \"128KiB\"\n", 5, "caller-outbox (131072 bytes) cannot hold one frame"),
        ("[limits]\nlink-outbox = \"128KiB\"\n", 5, "link-outbox (131072 bytes) cannot hold one frame"),
        ("[listen]\nstomp = []\n", 5, "the broker listens nowhere"),
        ("[listen]\nstomp = [\"noc1:61614\"]\n", 5, "invalid socket address"),
        (
            "[listen]\nstomp = [\"127.0.0.1:5000\"]\nlinks = [\"127.0.0.1:5000\"]\n",
            6,
            "127.0.0.1:5000 is where clients are listened for too",
        ),
        ("[log]\nlevel = \"loud\"\n", 5, "the level is none of"),
        ("[log]\nformat = \"xml\"\n", 5, "unknown variant `xml`"),
        ("[audit]\nkeep = 0\n", 5, "0 is out of range: 1 to 100000 are possible"),
        ("[audit]\nrotate-size = \"1KiB\"\n", 5, "1KiB is out of range: 64KiB to 4096MiB are possible"),
        ("[audit]\nrotate-age = \"1s\"\n", 5, "1s is out of range: 1m to"),
        ("[audit]\nheads = \"2h\"\n", 5, "2h is out of range: 0s to 1h are possible"),
        ("[audit]\nenabled = \"yes\"\n", 5, "invalid type"),
        ("[audit]\nfile = \"audit.log\"\n", 5, "the audit log `audit.log` does not end in .jsonl"),
        ("[listen]\nlinks = [\"dc1:61617\"]\n", 5, "invalid socket address"),
        (
            "[listen]\nlinks = [\"127.0.0.1:5000\"]\nadmin = [\"127.0.0.1:5000\"]\n",
            6,
            "127.0.0.1:5000 is where STOMP or links are listened for too",
        ),
        ("[listen]\nadmin = [\"127.0.0.1:0\"]\n[limits]\ntoken-life = \"0s\"\n", 7, "the API is on and tokens are off"),
        ("[admin]\norigins = [\"noc.example.net\"]\n", 5, "`noc.example.net` is no origin"),
        ("[admin]\norigins = [\"https://noc.example.net/\"]\n", 5, "is no origin"),
        ("[admin]\norigins = [\"*\"]\n", 5, "`*` is no origin"),
        ("[admin]\nopen-to = [\"localhost\"]\n", 5, "`localhost` is no network"),
        ("[admin]\nsessions = 0\n", 5, "0 is out of range"),
        ("[[link]]\naddress = \"dc1\"\n", 4, "missing field `to`"),
        ("[[link]]\nto = \"DC1\"\n", 5, "`DC1` is not a broker's name"),
        ("[[link]]\nto = \"dc1\"\naddress = \"tls://dc1\"\n", 6, "`tls://dc1` is not a broker address"),
        ("[[link]]\nto = \"dc1\"\ncost = 0\n", 6, "0 is out of range: 1 to 1000000 are possible"),
        ("[[link]]\nto = \"dc1\"\ncost = 1000001\n", 6, "1000001 is out of range"),
        ("[[link]]\nto = \"dc1\"\nsend = [\"prod\"]\n", 6, "`prod` is no destination pattern"),
        ("[[link]]\nto = \"dc1\"\nsend = [\"/temp-queue/a\"]\n", 6, "answers pass every link"),
        ("[[link]]\nto = \"dc1\"\nfilter = []\n", 6, "unknown field `filter`"),
        ("[[link]]\nto = \"dc1\"\n[[link]]\nto = \"dc2\"\n[[link]]\n\nto = \"dc1\"\n", 10, "a second link to `dc1`"),
        ("[[link]]\nto = \"dc1\"\n[[link]]\nto = \"noc1\"\n", 7, "a link of `noc1` to itself"),
        ("[broker]\n", 4, "duplicate key"),
        ("[limits\n", 4, "unclosed table"),
    ] {
        let error = parse(&format!("{LEAST}{addition}")).unwrap_err();
        assert!(error.cause.contains(cause), "{addition}: {error}");
        assert_eq!(error.line, Some(line), "{addition}: {error}");
        assert!(!error.cure.is_empty());
    }
    for name in ["", "NOC1", "a.b", "-a", "a-", "a b", &"a".repeat(64)] {
        let error = parse(&format!("[broker]\nname = \"{name}\"\ncluster = \"demo\"\n")).unwrap_err();
        assert_eq!(error.line, Some(2), "{error}");
    }
    assert!(parse("").unwrap_err().cause.contains("missing field `broker`"));
}

#[test]
fn sizes_are_bytes_or_binary_units() {
    for (text, expected) in
        [("1MiB", Some(MIB)), ("16 KiB", Some(16 * KIB)), ("7", Some(7)), ("1MB", None), ("-1", None)]
    {
        assert_eq!(bytes(text), expected, "{text}");
    }
    assert_eq!(bytes("99999999999999GiB"), None);
}

#[test]
fn relative_paths_are_beside_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("musterd.toml");
    std::fs::write(&file, format!("policy = \"/etc/policy.toml\"\n{LEAST}state-dir = \"s\"\n")).unwrap();
    let config = Config::load(&file).unwrap();
    assert_eq!(config.policy, Path::new("/etc/policy.toml"));
    assert_eq!(config.control, directory.path().join("s/musterd.sock"));
    assert_eq!(config.tls.key, directory.path().join("broker.key"));
    assert_eq!(config.cluster_key_previous, None);
    let missing = Config::load(&directory.path().join("none.toml")).unwrap_err();
    assert!(missing.to_string().contains("none.toml: No such file"), "{missing}");
}
