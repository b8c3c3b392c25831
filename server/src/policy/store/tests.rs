use super::*;
use crate::policy::ca::made;
use crate::policy::seal::stamp;
use muster_protocol::message::BrokerName;
use tempfile::TempDir;

struct Disk {
    folder: TempDir,
    store: Store,
    _claim: Claim,
}

impl Disk {
    /// With edition 1.1, text `one`, in force.
    fn new() -> Disk {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::of(&folder.path().join("policy.toml"), &folder.path().join("state"));
        let claim = store.claim().unwrap();
        fs::write(store.file(), "one").unwrap();
        fs::set_permissions(store.file(), Permissions::from_mode(0o600)).unwrap();
        store.commit(&seal(1, "one"), "one", Toml::Stays).unwrap();
        Disk { folder, store, _claim: claim }
    }

    fn file(&self) -> String {
        fs::read_to_string(self.store.file()).unwrap()
    }

    /// Everything that is on disk, by name.
    fn all(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let folders = [self.folder.path().to_owned(), self.store.dir().to_owned()];
        let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
        let files = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
        let mut all: Vec<_> = files.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
        all.sort();
        all
    }

    fn is_in_force(&self, number: u64) -> bool {
        matches!(self.store.current(), Slot::Seal(seal) if seal.stamp.generation.number == number)
    }
}

/// The store looks at no signature.
fn seal(number: u64, text: &str) -> Seal {
    let authority = BrokerName::parse("noc1").unwrap();
    Seal {
        cluster: "demo".into(),
        stamp: stamp(Generation { term: 1, number }, authority, text.as_bytes()),
        made: made("x"),
        lineage: Vec::new(),
        certificate: String::new(),
        signature: String::new(),
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn an_edition_is_written_for_its_owner_alone() {
    let disk = Disk::new();
    assert!(disk.store.commit(&seal(2, "two"), "two", Toml::Replaced).unwrap().is_none());
    assert!(disk.is_in_force(2) && disk.file() == "two");
    assert_eq!(mode(disk.store.dir()), 0o700);
    for (path, _) in disk.all() {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    assert_eq!(disk.store.kept(), [seal(2, "two"), seal(1, "one")]);
    assert_eq!(disk.store.text(&seal(1, "one").stamp).unwrap(), b"one");
    assert!(matches!(disk.store.pending(), Slot::Empty));
}

#[test]
fn the_file_keeps_its_mode_if_that_is_not_too_wide() {
    let disk = Disk::new();
    for (before, after) in [(0o600, 0o600), (0o640, 0o640), (0o400, 0o400), (0o660, 0o640), (0o644, 0o640)] {
        fs::set_permissions(disk.store.file(), Permissions::from_mode(before)).unwrap();
        disk.store.replace("x").unwrap();
        assert_eq!(mode(disk.store.file()), after, "{before:o}");
    }
    fs::remove_file(disk.store.file()).unwrap();
    disk.store.replace("y").unwrap();
    assert_eq!((mode(disk.store.file()), disk.file().as_str()), (0o600, "y"));
}

#[test]
fn owner_and_group_stay() {
    let disk = Disk::new();
    // Only root can give files away, in tests as elsewhere.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    std::os::unix::fs::chown(disk.store.file(), Some(4711), Some(4712)).unwrap();
    fs::set_permissions(disk.store.file(), Permissions::from_mode(0o640)).unwrap();
    disk.store.replace("x").unwrap();
    let after = fs::metadata(disk.store.file()).unwrap();
    assert_eq!((after.uid(), after.gid(), after.mode() & 0o777), (4711, 4712, 0o640));
}

#[test]
fn a_symbolic_link_stays_one() {
    let disk = Disk::new();
    let elsewhere = disk.folder.path().join("real.toml");
    fs::rename(disk.store.file(), &elsewhere).unwrap();
    std::os::unix::fs::symlink("real.toml", disk.store.file()).unwrap();
    disk.store.replace("x").unwrap();
    assert!(fs::symlink_metadata(disk.store.file()).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(elsewhere).unwrap(), "x");
}

/// Something in the way of each step: a directory where a file is to be.
#[test]
fn whatever_cannot_be_written_leaves_everything_as_it_was() {
    let new = seal(2, "two");
    let ways: [fn(&Disk, &Seal) -> PathBuf; 4] = [
        |disk, new| disk.store.kept_path(&new.stamp, "toml"),
        |disk, new| disk.store.kept_path(&new.stamp, "json"),
        |disk, _| disk.store.pending_path(),
        |disk, _| disk.folder.path().join(".policy.toml.new"),
    ];
    for way in ways {
        let disk = Disk::new();
        let way = way(&disk, &new);
        fs::create_dir(&way).unwrap();
        let before = disk.all();
        let error = disk.store.commit(&new, "two", Toml::Replaced).unwrap_err().to_string();
        assert!(error.starts_with(way.to_str().unwrap()) && error.contains("look at the file"), "{error}");
        assert!(disk.all() == before, "{}", way.display());
        fs::remove_dir(&way).unwrap();
        disk.store.commit(&new, "two", Toml::Replaced).unwrap();
        assert!(disk.is_in_force(2) && disk.file() == "two");
    }
}

#[test]
fn a_failure_at_the_last_step_puts_the_old_text_back() {
    let disk = Disk::new();
    fs::remove_file(disk.store.current_path()).unwrap();
    fs::create_dir_all(disk.store.current_path().join("full")).unwrap();
    let before = disk.all();
    let error = disk.store.commit(&seal(2, "two"), "two", Toml::Replaced).unwrap_err().to_string();
    assert!(error.contains("current.json: cannot replace it"), "{error}");
    assert!(disk.all() == before);
}

#[test]
fn an_edition_may_hold_although_the_file_cannot_be_replaced() {
    let disk = Disk::new();
    fs::create_dir(disk.folder.path().join(".policy.toml.new")).unwrap();
    let unwritten = disk.store.commit(&seal(2, "two"), "two", Toml::ReplacedIfPossible).unwrap();
    assert!(unwritten.unwrap().to_string().contains(".policy.toml.new: cannot"));
    assert!(disk.is_in_force(2) && disk.file() == "one");
    assert_eq!(disk.store.text(&seal(2, "two").stamp).unwrap(), b"two");
}

#[test]
fn errors_say_what_to_do() {
    for (kind, cure) in [
        (ErrorKind::StorageFull, "make room on its disk"),
        (ErrorKind::FileTooLarge, "make room on its disk"),
        (ErrorKind::PermissionDenied, "give the broker's user the right to write there"),
        (ErrorKind::ReadOnlyFilesystem, "ReadWritePaths="),
        (ErrorKind::Other, "look at the file and its disk"),
    ] {
        let error = StoreError { file: "f".into(), doing: "write it", cause: kind.into() }.to_string();
        assert!(error.starts_with("f: cannot write it: ") && error.contains(cure), "{error}");
    }
}

#[test]
fn the_oldest_editions_go() {
    let disk = Disk::new();
    for number in 2..=KEPT as u64 + 5 {
        for (ending, text) in [("toml", b"x".to_vec()), ("json", json(&seal(number, "x")))] {
            fs::write(disk.store.kept_path(&seal(number, "x").stamp, ending), text).unwrap();
        }
    }
    fs::write(disk.store.dir().join("notes.json"), "not ours").unwrap();
    disk.store.commit(&seal(1000, "two"), "two", Toml::Replaced).unwrap();
    let kept = disk.store.kept();
    assert_eq!(kept.len(), KEPT);
    let numbers = |seal: &Seal| seal.stamp.generation.number;
    assert_eq!((kept.first().map(numbers), kept.last().map(numbers)), (Some(1000), Some(7)));
    let texts = disk.store.names(".toml").len();
    assert_eq!((texts, disk.store.dir().join("notes.json").exists()), (KEPT, true));
}

#[test]
fn one_broker_writes_there() {
    let disk = Disk::new();
    let error = disk.store.claim().unwrap_err().to_string();
    assert!(error.contains("lock") && error.contains("give each broker a state directory of its own"), "{error}");
    let Disk { folder, store, _claim } = disk;
    drop(_claim);
    store.claim().unwrap();
    drop(folder);
}

#[test]
fn texts_are_set_aside_once_each_and_never_over_one_another() {
    let disk = Disk::new();
    let one = disk.store.set_aside(b"mine", "7").unwrap();
    assert_eq!(one, disk.folder.path().join("policy.toml.set-aside-7"));
    assert_eq!(mode(&one), 0o600);
    assert_eq!(disk.store.set_aside(b"mine", "8").unwrap(), one);
    let other = disk.store.set_aside(b"yours", "7").unwrap();
    assert_eq!(other, disk.folder.path().join("policy.toml.set-aside-7-2"));
    assert_eq!(disk.store.aside(), [one, other]);
    // Where nothing can be written beside it.
    let lost = Store { file: "/nonexistent/policy.toml".into(), ..disk.store.clone() };
    assert_eq!(lost.set_aside(b"hers", "9").unwrap(), disk.store.dir().join("policy.toml.set-aside-9"));
    assert_eq!(lost.aside().len(), 1);
}

#[test]
fn a_touched_file_is_seen() {
    let disk = Disk::new();
    let before = disk.store.print();
    assert_eq!(disk.store.print(), before);
    fs::set_permissions(disk.store.file(), Permissions::from_mode(0o644)).unwrap();
    let exposed = disk.store.print();
    assert_ne!(exposed, before);
    disk.store.replace("one").unwrap();
    assert_ne!(disk.store.print(), exposed);
    fs::remove_file(disk.store.file()).unwrap();
    assert_eq!(disk.store.print(), Print::default());
    assert_eq!(disk.store.raw().unwrap(), None);
}

#[test]
fn nothing_in_a_seal_leads_out_of_the_directory() {
    let mut hostile = seal(2, "two");
    hostile.stamp.sha256 = "../../../../etc/passwd".into();
    let disk = Disk::new();
    assert_eq!(disk.store.kept_path(&hostile.stamp, "toml").parent(), Some(disk.store.dir()));
    for no_name in ["", "1", "1-2", "1-2-3-4", "x-2-3", "current", "-1-2-3"] {
        assert_eq!(generation(no_name), None, "{no_name}");
    }
}
