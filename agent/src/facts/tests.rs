//! Do all sources come together, and does a bad one only take itself down?

use super::*;
use std::os::unix::fs::PermissionsExt;

struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Site {
        let site = Site { dir: tempfile::tempdir().expect("a folder") };
        std::fs::create_dir(site.path("facts.d")).expect("made");
        std::fs::create_dir(site.path("classes.d")).expect("made");
        std::fs::create_dir(site.path("bin")).expect("made");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, mode: u32, text: &str) {
        std::fs::write(self.path(name), text).expect("written");
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(mode)).expect("mode");
    }

    fn sources(&self) -> Sources {
        let facts = FactsConfig {
            dir: self.path("facts.d"),
            executable_timeout: Duration::from_millis(700),
            ..FactsConfig::default()
        };
        let classes = ClassesConfig { files: Vec::new(), dir: self.path("classes.d") };
        Sources { facts, classes, modules: BTreeMap::new(), search_path: self.path("bin").into() }
    }
}

fn at<'a>(snapshot: &'a Snapshot, pointer: &str) -> &'a Value {
    snapshot.document.facts.as_value().pointer(pointer).unwrap_or(&Value::Null)
}

#[tokio::test]
async fn this_machine_has_all_built_in_facts() {
    let snapshot = Site::new().sources().collect().await;
    for pointer in [
        "/os/family",
        "/os/release/major",
        "/kernel/release",
        "/cpu/count",
        "/memory/total_bytes",
        "/mountpoints",
        "/networking/interfaces",
        "/hostname",
        "/fqdn",
        "/virtualization/type",
        "/uptime/days",
        "/boot_time",
        "/package_manager",
        "/init_system",
        "/timezone",
        "/muster/agent/version",
        "/muster/facts/collected_at",
        "/muster/facts/healthy",
    ] {
        assert!(!at(&snapshot, pointer).is_null(), "{pointer} is missing in {}", snapshot.document.facts.as_value());
    }
    assert_eq!(snapshot.failed, BTreeMap::new());
    assert_eq!(at(&snapshot, "/muster/facts/healthy"), true);
}

#[tokio::test]
async fn facts_d_takes_every_form_and_lays_later_files_over_earlier_ones() {
    let site = Site::new();
    site.write("facts.d/10.json", 0o644, r#"{"site": {"rack": 7, "row": "a"}, "os": {"family": "Mine"}}"#);
    site.write("facts.d/20.yaml", 0o644, "site:\n  rack: 8\n  tags: [x, y]\n");
    site.write("facts.d/30.toml", 0o644, "[site]\nowner = \"ops\"\n");
    site.write("facts.d/40-json", 0o755, "#!/bin/sh\necho '{\"site\": {\"live\": true}}'\n");
    site.write("facts.d/50.sh", 0o755, "#!/bin/sh\necho site.colour=blue\necho plain=1\n");
    let snapshot = site.sources().collect().await;
    assert_eq!(
        at(&snapshot, "/site"),
        &json!({"rack": 8, "row": "a", "tags": ["x", "y"], "owner": "ops", "live": true, "colour": "blue"})
    );
    assert_eq!(at(&snapshot, "/plain"), "1");
    assert_ne!(at(&snapshot, "/os/family"), "Mine", "the agent's own facts win");
    assert_eq!(snapshot.failed, BTreeMap::new());
}

#[tokio::test]
async fn bad_files_are_named_and_the_rest_stays() {
    let site = Site::new();
    site.write("facts.d/good.json", 0o644, r#"{"good": true}"#);
    site.write("facts.d/bad.json", 0o644, "{");
    site.write("facts.d/list.yaml", 0o644, "[1, 2]");
    site.write("facts.d/open.json", 0o666, r#"{"open": true}"#);
    site.write("facts.d/slow", 0o755, "#!/bin/sh\nsleep 600\n");
    site.write("facts.d/fails", 0o755, "#!/bin/sh\nexit 4\n");
    site.write("facts.d/chatty", 0o755, "#!/bin/sh\nhead -c 300000 /dev/zero\n");
    site.write("facts.d/plain", 0o644, "a=b");
    site.write("facts.d/fake", 0o755, "#!/bin/sh\necho muster.agent.version=9\n");
    let snapshot = site.sources().collect().await;
    assert_eq!(at(&snapshot, "/good"), true);
    assert!(at(&snapshot, "/open").is_null());
    assert_eq!(at(&snapshot, "/muster/agent/version"), env!("CARGO_PKG_VERSION"));
    let names: Vec<&str> = snapshot.failed.keys().map(String::as_str).collect();
    let wanted =
        ["bad.json", "chatty", "fails", "list.yaml", "open.json", "plain", "slow"].map(|n| format!("facts.d/{n}"));
    assert_eq!(names, wanted);
    assert!(snapshot.failed["facts.d/slow"].contains("700 ms"));
    assert_eq!(at(&snapshot, "/muster/facts/healthy"), false);
    assert!(at(&snapshot, "/muster/facts/failed").as_object().is_some_and(|failed| failed.len() == 7));
}

#[tokio::test]
async fn an_executable_of_a_stranger_is_refused() {
    let site = Site::new();
    site.write("facts.d/theirs", 0o755, "#!/bin/sh\necho theirs=1\n");
    if std::os::unix::fs::chown(site.path("facts.d/theirs"), Some(65534), None).is_err() {
        eprintln!("skipped: only root can give a file away");
        return;
    }
    let snapshot = site.sources().collect().await;
    assert!(at(&snapshot, "/theirs").is_null());
    assert!(snapshot.failed["facts.d/theirs"].contains("uid 65534"));
}

#[tokio::test]
async fn facts_over_the_limits_lose_their_strangers_first() {
    let site = Site::new();
    let many: Members = (0..5000).map(|n| (format!("f{n}"), json!(n))).collect();
    site.write("facts.d/many.json", 0o644, &Value::Object(many).to_string());
    let snapshot = site.sources().collect().await;
    assert!(snapshot.failed["facts.d"].contains("paths"), "{:?}", snapshot.failed);
    assert!(!at(&snapshot, "/os/family").is_null());
}

#[tokio::test]
async fn facter_on_the_path_is_merged_under_our_own_without_what_never_stands_still() {
    let site = Site::new();
    site.write(
        "bin/facter",
        0o755,
        "#!/bin/sh\n[ \"$1\" = --json ] || exit 9\necho '{\"os\":{\"family\":\"Theirs\",\"selinux\":{\"enabled\":false}},\
         \"system_uptime\":{\"seconds\":5},\"memory\":{\"system\":{\"used\":\"1\",\"total_bytes\":7}},\"facterversion\":\"4\"}'\n",
    );
    let snapshot = site.sources().collect().await;
    assert_ne!(at(&snapshot, "/os/family"), "Theirs");
    assert_eq!(at(&snapshot, "/os/selinux/enabled"), false);
    assert_eq!(at(&snapshot, "/memory/system"), &json!({"total_bytes": 7}));
    assert!(at(&snapshot, "/system_uptime").is_null());
    assert_eq!(at(&snapshot, "/facterversion"), "4");
    let mut off = site.sources();
    off.facts.facter = Facter::Off;
    assert!(at(&off.collect().await, "/facterversion").is_null());
    site.write("bin/facter", 0o755, "#!/bin/sh\necho oops\n");
    assert!(site.sources().collect().await.failed["facter"].contains("no JSON"));
}

#[tokio::test]
async fn debians_facter_is_understood_and_two_collections_are_alike() {
    if !Path::new("/usr/bin/facter").exists() {
        eprintln!("skipped: facter is not installed");
        return;
    }
    let sources = Site::new().sources().search_path("/usr/bin:/bin:/usr/sbin:/sbin");
    let (first, second) = (sources.collect().await, sources.collect().await);
    // In a container it may not read everything and says so by its exit code.
    assert!(first.failed.values().all(|text| text.ends_with("what it printed is taken")), "{:?}", first.failed);
    assert!(at(&first, "/facterversion").is_string());
    let delta = first.document.diff(&second.document);
    assert!(delta.to_string().len() < 400, "collections a moment apart differ by {delta}");
}

#[tokio::test]
async fn a_change_of_facts_d_or_classes_is_noticed() {
    let site = Site::new();
    let sources = site.sources();
    let (sender, mut receiver) = watch::channel(Arc::new(sources.collect().await));
    let keeper = tokio::spawn(sources.keep(sender));
    // The first look of the keeper may come after the write: then the write is its starting point, so another must follow.
    let mut round = 0;
    let noticed = async {
        loop {
            round += 1;
            site.write("classes.d/roles", 0o644, &"x".repeat(round));
            if timeout(Duration::from_secs(6), receiver.changed()).await.is_ok() {
                return receiver.borrow().document.classes.clone();
            }
        }
    };
    let classes = timeout(Duration::from_secs(30), noticed).await.expect("noticed");
    assert_eq!(classes.len(), 1);
    drop(receiver);
    timeout(Duration::from_secs(10), keeper).await.expect("it ends when nobody listens").expect("no panic");
}
