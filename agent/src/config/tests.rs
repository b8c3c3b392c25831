//! Do good configurations load, and are bad ones refused with the place and the cure?

use super::*;

const SMALLEST: &str = "brokers = [\"a\"]\nuser = \"u\"\npassword-file = \"p\"\nca = \"ca.pem\"\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/x/agent.toml"))
}

#[test]
fn the_sample_loads_and_its_values_are_the_defaults() {
    let sample = parse(include_str!("../../../conf/agent.toml")).expect("the sample is good");
    let defaults = parse(SMALLEST).expect("good");
    let rest = |config: &Config| {
        format!(
            "{:?}",
            (
                &config.heart_beat,
                &config.facts,
                &config.classes,
                &config.limits,
                &config.modules,
                &config.policy,
                &config.log,
                &config.state_dir,
                &config.tls
            )
        )
    };
    assert_eq!(rest(&sample), rest(&defaults));
    assert_eq!(sample.brokers[1].port(), 61614);
    // What it shows commented out are examples.
    let text = include_str!("../../../conf/agent.toml")
        .replace("#certificate = ", "certificate = ")
        .replace("#key = ", "key = ");
    let own = parse(&text).expect("the examples are good").tls.expect("a certificate");
    assert_eq!(own, Own { certificate: "/etc/muster/agent.pem".into(), key: "/etc/muster/agent.key".into() });
}

#[test]
fn relative_paths_count_from_the_folder_of_the_file() {
    let config = parse(SMALLEST).expect("good");
    assert_eq!(config.password_file, Path::new("/etc/x/p"));
    assert_eq!(config.ca, Path::new("/etc/x/ca.pem"));
    assert_eq!(config.tls, None);
    let config = parse(&format!("{SMALLEST}[tls]\ncertificate = \"own.pem\"\nkey = \"/k/own.key\"\n")).expect("good");
    assert_eq!(config.tls, Some(Own { certificate: "/etc/x/own.pem".into(), key: "/k/own.key".into() }));
}

#[test]
fn errors_name_file_line_column_and_cure() {
    for (more, line, part) in [
        ("colour = 1", 5, "unknown field `colour`"),
        ("heart-beat = 3", 5, "invalid type"),
        ("\nheart-beat = \"soon\"", 6, "write it as in \"30s\""),
        ("[facts]\ninterval = \"0s\"", 6, "longer than zero"),
        ("[limits]\nconcurrency = 0", 6, "must be 1 to"),
        ("[limits]\noutput = 9999999", 6, "bytes"),
        ("[policy]\ndeny = [\"service\"]", 6, "MODULE.ACTION"),
        ("[modules.exec]\nallow = [[\"sleep\"]]", 6, "absolute path"),
        ("[modules.exec]\nallow = [[\"/bin/../bin/x\"]]", 6, "absolute path"),
        ("[modules.exec]\nallow = [[]]", 6, "empty"),
        ("[modules.exec]\nallow = [\"/bin/sleep\"]", 6, "expected a list"),
        ("[modules.exec]\nallow = [[\"/usr/bin/python3.11\"]]", 6, "runs whatever"),
        ("password = \"secret\"", 5, "unknown field"),
        ("[tls]\ncertificate = \"own.pem\"", 5, "`certificate` without `key`; give both"),
        ("[tls]\nkey = \"own.key\"", 5, "`key` without `certificate`; give both"),
        ("[tls]\ncert = \"own.pem\"", 6, "unknown field `cert`"),
    ] {
        let error = parse(&format!("{SMALLEST}{more}\n")).expect_err(more);
        let text = error.to_string();
        assert!(text.starts_with(&format!("/etc/x/agent.toml:{line}:")), "{text}");
        assert!(text.contains(part), "{text}");
    }
    let error = parse(&SMALLEST.replace("\"a\"", "\"tcp://a\"")).expect_err("an URL").to_string();
    assert!(error.starts_with("/etc/x/agent.toml:1:") && error.contains("not a broker address"), "{error}");
    let error = parse(&SMALLEST.replace("\"a\"", "")).expect_err("no broker").to_string();
    assert!(error.contains("name at least one"), "{error}");
}

#[test]
fn the_local_policy_denies_before_it_allows() {
    let policy = |deny: &[&str], allow: &[&str]| {
        let list = |texts: &[&str]| {
            texts.iter().map(|t| ActionPattern::try_from((*t).to_owned()).expect("a pattern")).collect()
        };
        LocalPolicy { deny: list(deny), allow: list(allow) }
    };
    assert!(policy(&[], &[]).permits("service", "stop"));
    assert!(!policy(&["service.stop"], &[]).permits("service", "stop"));
    assert!(policy(&["service.stop"], &[]).permits("service", "start"));
    assert!(!policy(&[], &["*.status"]).permits("service", "stop"));
    assert!(policy(&[], &["*.status"]).permits("service", "status"));
    assert!(!policy(&["service.*"], &["*.*"]).permits("service", "status"));
}

#[test]
fn a_password_that_others_can_read_is_refused_and_never_shown() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("p");
    let config = Config::parse(SMALLEST, &dir.path().join("agent.toml")).expect("good");
    assert!(config.password().expect_err("missing").to_string().contains("mode 0600"));
    fs::write(&file, "hunter2\n").expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("mode");
    let error = config.password().expect_err("exposed").to_string();
    assert!(error.contains("chmod 600") && error.contains("password-file") && !error.contains("hunter2"), "{error}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("mode");
    use secrecy::ExposeSecret;
    assert_eq!(config.password().expect("good").expose_secret(), "hunter2");
    fs::write(&file, "\n").expect("written");
    assert!(config.password().is_err());
}
