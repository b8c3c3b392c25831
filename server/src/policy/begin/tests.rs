use super::*;
use crate::policy::ca::{Ca, MADE, made, name};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

const LISTED: &str = "authority = \"noc1\"\n[brokers.noc1]\n[brokers.dc1]\n";
const OTHER: &str = "# edited\nauthority = \"noc1\"\n[brokers.noc1]\n[brokers.dc1]\n";
const THIRD: &str = "# once more\nauthority = \"noc1\"\n[brokers.noc1]\n[brokers.dc1]\n";

/// What a broker has on its disk, and its CA.
struct Disk {
    _folder: TempDir,
    ca: Ca,
    me: &'static str,
    store: Store,
}

impl Disk {
    fn of(me: &'static str, text: &str) -> Disk {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::of(&folder.path().join("policy.toml"), &folder.path().join("state"));
        let disk = Disk { _folder: folder, ca: Ca::new(), me, store };
        disk.write(text);
        disk
    }

    /// A follower of noc1 that has had both texts, the second being in force.
    fn follower() -> Disk {
        let disk = Disk::of("dc1", LISTED);
        let _claim = disk.store.claim().unwrap();
        for (number, text) in [(1, LISTED), (2, OTHER)] {
            disk.store.commit(&disk.seal("noc1", number, text), text, Toml::Replaced).unwrap();
        }
        disk
    }

    fn write(&self, text: &str) {
        fs::write(self.store.file(), text).unwrap();
        fs::set_permissions(self.store.file(), Permissions::from_mode(0o600)).unwrap();
    }

    fn file(&self) -> String {
        fs::read_to_string(self.store.file()).unwrap()
    }

    fn seal(&self, by: &'static str, number: u64, text: &str) -> Seal {
        let policy = Policy::parse(text).unwrap();
        let generation = Generation { term: 1, number };
        self.ca.notary(by).seal(text, &policy, generation, made("an edit"), Vec::new()).unwrap()
    }

    fn start(&self) -> Result<Begun, BeginError> {
        let notary = Ok(self.ca.notary(self.me));
        let _claim = self.store.claim()?;
        let mut begun = begin(&self.store, &notary, &name(self.me), MADE)?;
        begun.carry_out(&self.store, MADE)?;
        Ok(begun)
    }

    /// What `musterd check` says, and that it leaves everything as it is.
    fn outlook(&self) -> Vec<String> {
        let before = (self.file(), format!("{:?}", self.store.current()), self.kept(), self.aside());
        let begun = begin(&self.store, &Ok(self.ca.notary(self.me)), &name(self.me), MADE).unwrap();
        assert_eq!((self.file(), format!("{:?}", self.store.current()), self.kept(), self.aside()), before);
        begun.outlook()
    }

    /// Generation and text that it starts with; policy.toml says the same, and a second start changes nothing.
    fn starts_with(&self) -> (Option<String>, String) {
        let begun = self.start().unwrap();
        let edition = begun.edition;
        assert_eq!(self.file(), &*edition.text);
        let again = self.start().unwrap();
        assert_eq!((again.edition.seal, &again.edition.text), (edition.seal.clone(), &edition.text));
        assert_eq!((again.alarms, again.notes), (Vec::new(), Vec::new()));
        assert!(matches!(self.store.pending(), Slot::Empty));
        (edition.seal.map(|seal| seal.stamp.generation.to_string()), edition.text.to_string())
    }

    fn kept(&self) -> Vec<String> {
        self.store.kept().iter().map(|seal| seal.stamp.generation.to_string()).collect()
    }

    fn aside(&self) -> Vec<String> {
        self.store.aside().iter().map(|path| fs::read_to_string(path).unwrap()).collect()
    }

    fn kept_file(&self, generation: &str, ending: &str) -> PathBuf {
        let start = format!("{}-", generation.replace('.', "-"));
        let names = fs::read_dir(self.store.dir()).unwrap().map(|entry| entry.unwrap().path());
        let fits = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with(&start) && name.ends_with(ending)
        };
        names.into_iter().find(fits).unwrap()
    }
}

fn on(generation: &str, text: &str) -> (Option<String>, String) {
    (Some(generation.to_owned()), text.to_owned())
}

#[test]
fn whoever_has_the_authority_or_is_alone_seals_the_file() {
    for (me, text, sealed) in [
        ("noc1", "", true),
        ("noc1", "authority = \"noc1\"\n", true),
        ("noc1", LISTED, true),
        ("dc1", LISTED, false),
        ("noc1", "[brokers.noc1]\n[brokers.dc1]\n", false),
        ("noc1", "authority = \"dc1\"\n", false),
    ] {
        let disk = Disk::of(me, text);
        let (generation, held) = disk.starts_with();
        assert_eq!((generation.as_deref(), held.as_str()), (sealed.then_some("1.1"), text));
        assert_eq!(disk.kept().len(), usize::from(sealed));
        let Slot::Seal(seal) = disk.store.current() else {
            assert!(!sealed, "{text}");
            continue;
        };
        assert_eq!((seal.made.by.as_str(), seal.made.via.as_str(), seal.made.at), (BY_HAND, "noc1", MADE));
    }
}

#[test]
fn a_check_says_which_policy_a_start_would_enforce() {
    let authority = Disk::of("noc1", LISTED);
    assert_eq!(authority.outlook(), ["policy: policy.toml as it stands; a start makes it generation 1.1"]);
    authority.start().unwrap();
    assert_eq!(authority.outlook(), ["policy: generation 1.1 of noc1"]);
    authority.write(OTHER);
    assert_eq!(authority.outlook(), ["policy: policy.toml as it stands; a start makes it generation 1.2"]);
    let new = Disk::of("dc1", LISTED);
    assert_eq!(new.outlook(), ["policy: policy.toml as it stands, of no generation"]);
    let follower = Disk::follower();
    let sealed = "policy: generation 1.2 of noc1";
    assert_eq!(follower.outlook(), [sealed]);
    follower.write("foo = 1\n");
    let other = "policy.toml holds another text, which does not count: a start sets it aside";
    assert_eq!(follower.outlook(), [sealed, other]);
    follower.write(LISTED);
    assert_eq!(follower.outlook(), [sealed, "policy.toml does not hold that text: a start puts it there"]);
    fs::write(follower.kept_file("1.2", ".toml"), THIRD).unwrap();
    let recovered = follower.outlook();
    assert_eq!(recovered[0], "policy: generation 1.1 of noc1");
    assert!(recovered[1].contains("the newest edition that is kept and good took its place"), "{recovered:?}");
}

#[test]
fn a_bad_file_stops_the_broker_and_leaves_nothing() {
    let disk = Disk::of("noc1", "\nfoo = 1\n");
    let error = disk.start().unwrap_err().to_string();
    assert!(error.contains("policy.toml: line 2") && error.contains("foo"), "{error}");
    assert!(matches!(disk.store.current(), Slot::Empty) && disk.kept().is_empty());
}

#[test]
fn a_broker_alone_needs_no_certificate_to_seal_with_and_an_authority_does() {
    let disk = Disk::of("noc1", "");
    let unable = || Err(TlsError::Empty("ca.pem".into()));
    let begun = begin(&disk.store, &unable(), &name("noc1"), MADE).unwrap();
    assert!(begun.edition.seal.is_none() && begun.alarms.is_empty());
    assert!(begun.notes[0].contains("ca.pem: holds no certificate"), "{:?}", begun.notes);
    let other = Ok(disk.ca.notary_of("noc1", &crate::policy::ca::Leaf::of("web1")));
    assert!(begin(&disk.store, &other, &name("noc1"), MADE).unwrap().edition.seal.is_none());
    disk.write(LISTED);
    for notary in [unable(), other] {
        let error = begin(&disk.store, &notary, &name("noc1"), MADE).unwrap_err().to_string();
        assert!(error.contains("cannot seal it") && error.contains("give it a certificate"), "{error}");
    }
    disk.start().unwrap();
    let error = begin(&disk.store, &unable(), &name("noc1"), MADE).unwrap_err().to_string();
    assert!(error.contains("this broker cannot check seals: ca.pem"), "{error}");
}

/// Does the first `steps` of four and stops, as if the power had failed.
fn crash(disk: &Disk, seal: &Seal, text: &str, steps: usize) {
    let all: [&dyn Fn() -> Result<(), StoreError>; 4] =
        [&|| disk.store.keep(seal, text), &|| disk.store.announce(seal), &|| disk.store.replace(text), &|| {
            disk.store.settle()
        }];
    all.iter().take(steps).for_each(|step| step().unwrap());
}

#[test]
fn a_crash_at_any_step_leaves_the_old_edition_or_the_new_one() {
    for me in ["noc1", "dc1"] {
        for steps in 0..=4 {
            let disk = Disk::of(me, LISTED);
            let first = disk.seal("noc1", 1, LISTED);
            disk.start().unwrap();
            disk.store.commit(&first, LISTED, Toml::Stays).unwrap();
            crash(&disk, &disk.seal("noc1", 2, OTHER), OTHER, steps);
            let (expected, kept) =
                if steps < 3 { (on("1.1", LISTED), vec!["1.1"]) } else { (on("1.2", OTHER), vec!["1.2", "1.1"]) };
            assert_eq!(disk.starts_with(), expected, "{me} after {steps} steps");
            assert_eq!(disk.kept(), kept, "{me} after {steps} steps");
            assert!(disk.aside().is_empty());
        }
    }
}

#[test]
fn a_crash_at_the_first_seal_loses_nothing() {
    for steps in 0..=4 {
        let disk = Disk::of("noc1", LISTED);
        let _ = disk.store.claim().unwrap();
        crash(&disk, &disk.seal("noc1", 1, LISTED), LISTED, steps);
        let begun = disk.start().unwrap();
        assert_eq!(begun.edition.generation().unwrap().to_string(), "1.1", "after {steps} steps");
        assert_eq!(disk.starts_with(), on("1.1", LISTED), "after {steps} steps");
    }
}

#[test]
fn half_written_files_are_cleared_away() {
    let disk = Disk::follower();
    fs::write(disk.store.dir().join("pending.json.new"), "{").unwrap();
    fs::write(disk.store.dir().join("pending.json"), "{").unwrap();
    assert_eq!(disk.starts_with(), on("1.2", OTHER));
    assert!(!disk.store.dir().join("pending.json.new").exists());
}

#[test]
fn an_edit_by_hand_while_the_authority_was_down_is_the_next_generation() {
    let disk = Disk::of("noc1", LISTED);
    disk.start().unwrap();
    disk.write(OTHER);
    let begun = disk.start().unwrap();
    let seal = begun.edition.seal.unwrap();
    assert_eq!((seal.stamp.generation.to_string().as_str(), seal.made.by.as_str()), ("1.2", BY_HAND));
    assert!(begun.notes[0].contains("generation 1.2") && begun.alarms.is_empty());
    assert_eq!(disk.starts_with(), on("1.2", OTHER));
    assert_eq!(disk.kept(), ["1.2", "1.1"]);
    // Back again is an edit too.
    disk.write(LISTED);
    assert_eq!(disk.starts_with(), on("1.3", LISTED));
}

#[test]
fn a_bad_edit_by_hand_while_the_authority_was_down_stops_it() {
    let disk = Disk::of("noc1", LISTED);
    disk.start().unwrap();
    let before = disk.store.current();
    disk.write("foo = 1\n");
    let error = disk.start().unwrap_err().to_string();
    assert!(error.contains("policy.toml: line 1"), "{error}");
    assert_eq!(format!("{:?}", disk.store.current()), format!("{before:?}"));
    assert_eq!((disk.file().as_str(), disk.kept()), ("foo = 1\n", vec!["1.1".to_owned()]));
    fs::remove_file(disk.store.file()).unwrap();
    assert!(disk.start().unwrap_err().to_string().contains("cannot read the policy"));
}

#[test]
fn an_edit_by_hand_while_a_follower_was_down_is_set_aside() {
    for text in [THIRD, "foo = 1\n", "\u{0}"] {
        let disk = Disk::follower();
        disk.write(text);
        let begun = disk.start().unwrap();
        assert!(begun.notes[0].contains("set aside as"), "{:?}", begun.notes);
        assert_eq!(disk.aside(), [text]);
        let mode = fs::metadata(&disk.store.aside()[0]).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(disk.starts_with(), on("1.2", OTHER));
        // The same again is not written again.
        disk.write(text);
        disk.start().unwrap();
        assert_eq!(disk.aside(), [text]);
    }
}

#[test]
fn what_a_follower_can_have_again_is_put_back_without_a_word() {
    let disk = Disk::follower();
    disk.write(LISTED);
    assert_eq!(disk.starts_with(), on("1.2", OTHER));
    fs::remove_file(disk.store.file()).unwrap();
    assert_eq!(disk.starts_with(), on("1.2", OTHER));
    assert!(disk.aside().is_empty());
    // Of the two places of the text one is enough.
    fs::remove_file(disk.kept_file("1.2", ".toml")).unwrap();
    assert_eq!(disk.starts_with(), on("1.2", OTHER));
    assert_eq!(fs::read_to_string(disk.kept_file("1.2", ".toml")).unwrap(), OTHER);
}

#[test]
fn a_policy_that_everybody_can_read_stops_the_broker_in_any_case() {
    let disk = Disk::follower();
    fs::set_permissions(disk.store.file(), Permissions::from_mode(0o644)).unwrap();
    assert!(disk.start().unwrap_err().to_string().contains("run `chmod 640` on it"));
    disk.write(THIRD);
    fs::set_permissions(disk.store.file(), Permissions::from_mode(0o604)).unwrap();
    assert!(disk.start().unwrap_err().to_string().contains("run `chmod 640` on it"));
}

#[test]
fn a_seal_that_was_touched_costs_nothing_where_its_edition_is_kept() {
    for me in ["noc1", "dc1"] {
        let tampered: [fn(&Disk); 4] = [
            |disk| fs::write(disk.store.current_path(), "{}").unwrap(),
            |disk| fs::remove_file(disk.store.current_path()).unwrap(),
            |disk| {
                let text = fs::read_to_string(disk.store.current_path()).unwrap();
                fs::write(disk.store.current_path(), text.replace("\"1.2\"", "\"1.9\"")).unwrap();
            },
            |disk| {
                let text = fs::read_to_string(disk.store.current_path()).unwrap();
                fs::write(disk.store.current_path(), text.replace("alice", "mallory")).unwrap();
            },
        ];
        for tamper in tampered {
            let disk = Disk { me, ..Disk::follower() };
            tamper(&disk);
            let begun = disk.start().unwrap();
            assert_eq!(begun.alarms.len(), 1, "{:?}", begun.alarms);
            assert!(
                begun.alarms[0].contains("current.json: ") && begun.alarms[0].contains("1.2"),
                "{:?}",
                begun.alarms
            );
            assert_eq!(disk.starts_with(), on("1.2", OTHER));
        }
    }
}

#[test]
fn a_text_that_was_touched_gives_way_to_the_newest_that_was_not() {
    let disk = Disk::follower();
    disk.write(THIRD);
    fs::write(disk.kept_file("1.2", ".toml"), THIRD).unwrap();
    let begun = disk.start().unwrap();
    assert!(begun.alarms[0].contains("its text is not the one that was sealed"), "{:?}", begun.alarms);
    assert_eq!(disk.starts_with(), on("1.1", LISTED));
    assert_eq!(disk.aside(), [THIRD]);
}

#[test]
fn where_nothing_is_good_the_broker_does_not_start_and_says_what_to_do() {
    let disk = Disk::follower();
    disk.write(THIRD);
    for generation in ["1.1", "1.2"] {
        fs::write(disk.kept_file(generation, ".toml"), THIRD).unwrap();
    }
    let error = disk.start().unwrap_err().to_string();
    let dir = disk.store.dir().display();
    let cure = format!("delete {dir} to start from policy.toml and follow the authority again");
    assert!(error.contains("current.json: its text is not") && error.ends_with(&cure), "{error}");
    assert_eq!(disk.file(), THIRD, "nothing was touched");
    fs::remove_dir_all(disk.store.dir()).unwrap();
    assert_eq!(disk.starts_with(), (None, THIRD.to_owned()));
}

#[test]
fn an_edition_of_another_cluster_is_none() {
    let disk = Disk::follower();
    let ca = Ca::new();
    let policy = Policy::parse(THIRD).unwrap();
    let generation = Generation { term: 9, number: 9 };
    let foreign = ca.notary("noc1").seal(THIRD, &policy, generation, made("x"), Vec::new()).unwrap();
    disk.store.commit(&foreign, THIRD, Toml::Replaced).unwrap();
    let begun = disk.start().unwrap();
    assert!(begun.alarms[0].contains("no CA of this broker has issued it"), "{:?}", begun.alarms);
    assert_eq!(disk.starts_with(), on("1.2", OTHER));
}

#[test]
fn a_sealed_policy_that_this_version_does_not_take_is_not_passed_over() {
    let disk = Disk::follower();
    let text = "from-the-future = 1\n";
    let (policy, generation) = (Policy::parse(LISTED).unwrap(), Generation { term: 1, number: 3 });
    let seal = disk.ca.notary("noc1").seal(text, &policy, generation, made("x"), Vec::new()).unwrap();
    disk.store.commit(&seal, text, Toml::Replaced).unwrap();
    let error = disk.start().unwrap_err().to_string();
    assert!(error.contains("policy.toml: line 1") && error.contains("from-the-future"), "{error}");
}
