//! Does it show that a log was cut off or written anew, when all of its files were made to fit? And is nothing else an alarm?

use super::*;
use crate::audit::against::Witnesses;
use crate::audit::chain::Tail;
use crate::broker::record::Record;
use muster_protocol::link::AuditHead;
use muster_protocol::message::BrokerName;
use serde_json::Value;

/// noc1's log, and what dc1 and dc2 have on record of it: as over the links, without them.
struct Site {
    folder: TempDir,
    config: AuditConfig,
    trail: Trail,
    others: Vec<(PathBuf, Trail)>,
    /// Unix ms.
    now: u64,
}

impl Site {
    fn new(change: fn(AuditConfig) -> AuditConfig) -> Site {
        let folder = tempfile::tempdir().unwrap();
        let config = change(config(&folder));
        let other = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            let config = AuditConfig { file: path.join("audit.jsonl"), ..AuditConfig::default() };
            (path, Trail::new(config, name))
        };
        let others = vec![other("dc1"), other("dc2")];
        Site { trail: Trail::new(config.clone(), "noc1"), others, config, folder, now: THEN }
    }

    /// A log that fits into one file, of 30 lines, whose end was told each ten lines.
    fn usual() -> Site {
        let mut site = Site::new(|config| config);
        for _ in 0..3 {
            site.write(10);
            site.tell();
        }
        site
    }

    fn write(&mut self, count: u64) {
        for _ in 0..count {
            self.now += 1_000;
            let user = format!("user{}", self.now % 7);
            self.trail.append(&[(self.now, login(&user))], 0, self.now).unwrap();
        }
    }

    /// The others put on record where the log ends.
    fn tell(&mut self) {
        let Tail { n, hash } = self.trail.head().unwrap().unwrap();
        let (peer, head) = (BrokerName::parse("noc1").unwrap(), AuditHead { n, hash, at: self.now });
        for (_, other) in &mut self.others {
            let record = Record::PeerHead { peer: peer.clone(), head: head.clone(), fault: None };
            other.append(&[(self.now, login("somebody"))], 0, self.now).unwrap();
            other.append(&[(self.now + 3, record)], 0, self.now).unwrap();
            other.sync().unwrap();
        }
    }

    fn restart(&mut self) {
        self.trail.sync().unwrap();
        // The lock goes with the old one.
        drop(std::mem::replace(&mut self.trail, Trail::new(self.config.clone(), "noc1")));
    }

    fn verify(&self) -> Result<Whole, VerifyError> {
        self.verify_since(None)
    }

    fn verify_since(&self, since: Option<jiff::Timestamp>) -> Result<Whole, VerifyError> {
        let folders: Vec<PathBuf> = self.others.iter().map(|(path, _)| path.clone()).collect();
        let witnesses = Witnesses::read(&folders, since)?;
        let whole = verify::verify_log(&self.config.file, Some(&witnesses))?;
        verify::witnessed(whole, Some(&witnesses), false)
    }

    /// What is wrong, which the log itself does not tell.
    fn fault(&self) -> (usize, String) {
        let alone = verify_log(&self.config.file);
        assert!(alone.is_ok(), "the log alone tells it too: {alone:?}");
        match self.verify() {
            Err(VerifyError::Broken(Fault { line, what, .. })) => (line, what),
            other => panic!("no fault: {other:?}"),
        }
    }

    /// Somebody who can write the files changes lines and makes everything fit: numbers, hashes, and where the chain ends.
    fn forge(&self, change: impl FnOnce(&mut Vec<String>)) {
        let text = fs::read_to_string(&self.config.file).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        change(&mut lines);
        let (mut out, mut tail) = (String::new(), Tail::default());
        for (index, line) in lines.iter().enumerate() {
            let (number, rest) = line.strip_prefix("{\"n\":").unwrap().split_once(',').unwrap();
            if index == 0 {
                tail.n = number.parse::<u64>().unwrap() - 1;
            }
            let rest = rest.split_once(",\"prev\":").unwrap().0;
            let body = format!("{{\"n\":{},{rest},\"prev\":\"{}\"", tail.n + 1, tail.hash);
            let hash = chain::hash(&tail.hash, format!("{body}}}").as_bytes());
            out += &format!("{body},\"hash\":\"{hash}\"}}\n");
            tail = Tail { n: tail.n + 1, hash };
        }
        fs::write(&self.config.file, out).unwrap();
        fs::write(self.config.file.with_extension("head"), serde_json::to_string(&tail).unwrap()).unwrap();
    }
}

fn blame(line: &mut String) {
    let user = line.find("\"user\":\"").unwrap() + 8;
    line.replace_range(user..user + 5, "malory");
}

#[test]
fn what_others_saw_of_a_whole_log_stands_in_it() {
    let mut site = Site::usual();
    site.write(4);
    site.trail.sync().unwrap();
    let whole = site.verify().unwrap();
    assert_eq!(
        whole.to_string(),
        "good: 34 lines in 1 files, number 1 to 34, 2023-11-14T22:13:21Z to 2023-11-14T22:13:54Z; as 6 ends that dc1, dc2 put on record, the newest line 30 of 2023-11-14T22:13:50Z"
    );
    assert!(verify_log(&site.config.file).unwrap().witnessed.is_none());
}

#[test]
fn a_cut_end_is_told_with_who_saw_it() {
    let site = Site::usual();
    site.forge(|lines| lines.truncate(23));
    let (line, what) = site.fault();
    assert_eq!(line, 24);
    let dc2 = site.others[1].0.join("audit.jsonl");
    let expected = format!(
        "the end was cut off: lines 24 to 30 are missing; dc2 put on record that the log ended with line number 30 at 2023-11-14T22:13:50Z ({}: line 6); 1 more contradict it",
        dc2.display()
    );
    assert_eq!(what, expected);
    // What was written since does not hide it, once others have heard of that.
    let mut site = Site::usual();
    site.forge(|lines| lines.truncate(23));
    site.trail = Trail::new(site.config.clone(), "noc1");
    site.write(20);
    site.tell();
    let (line, what) = site.fault();
    assert!(line == 30 && what.contains("line number 30 is not the one that others saw"), "{line}: {what}");
}

#[test]
fn one_line_that_was_edited_cut_or_inserted_is_told_whoever_mends_the_chain() {
    type Change = fn(&mut Vec<String>);
    let changes: [(&str, Change, usize); 4] = [
        ("edited", |lines| blame(&mut lines[14]), 20),
        ("edited at the begin", |lines| blame(&mut lines[0]), 10),
        ("cut", |lines| drop(lines.remove(14)), 20),
        ("inserted", |lines| lines.insert(14, lines[3].clone()), 20),
    ];
    for (what, change, seen) in changes {
        let mut site = Site::usual();
        site.write(5);
        site.trail.sync().unwrap();
        site.forge(change);
        let (line, text) = site.fault();
        assert_eq!(line, seen, "{what}: {text}");
        assert!(text.contains(&format!("line number {seen} is not the one that others saw")), "{what}: {text}");
    }
    let mut site = Site::usual();
    site.write(5);
    site.trail.sync().unwrap();
    site.forge(|lines| blame(&mut lines[32]));
    assert!(site.verify().is_ok(), "since the last end that was told, nobody has seen anything");
}

#[test]
fn a_whole_new_log_is_told_and_an_admin_who_began_one_can_say_so() {
    let mut site = Site::usual();
    for name in ["audit.jsonl", "audit.head"] {
        fs::remove_file(site.folder.path().join(name)).unwrap();
    }
    site.trail = Trail::new(site.config.clone(), "noc1");
    site.now += 60_000;
    let begun = site.now + 1_000;
    site.write(5);
    site.trail.sync().unwrap();
    let (line, what) = site.fault();
    assert!(line == 6 && what.contains("the end was cut off: lines 6 to 30 are missing"), "{what}");
    assert!(what.contains("begun anew at 2023-11-14T22:14:51Z") && what.contains("say --since 2023-"), "{what}");
    site.write(40);
    site.tell();
    assert!(site.fault().1.contains("line number 10 is not the one"), "longer than the old one, it is another");
    let begun = jiff::Timestamp::from_millisecond(begun as i64).unwrap();
    let whole = site.verify_since(Some(begun)).unwrap();
    assert_eq!(whole.witnessed.unwrap().heads, 2);
}

#[test]
fn a_log_of_another_name_does_not_pass_for_this_one() {
    let site = Site::usual();
    fs::copy(site.others[0].0.join("audit.jsonl"), &site.config.file).unwrap();
    fs::copy(site.others[0].0.join("audit.head"), site.config.file.with_extension("head")).unwrap();
    let folders: Vec<PathBuf> = site.others.iter().map(|(path, _)| path.clone()).collect();
    let config = site.folder.path().join("musterd.toml");
    let text = "[broker]\nname = \"noc1\"\ncluster = \"demo\"\n[audit]\nfile = \"audit.jsonl\"\n";
    fs::write(&config, text).unwrap();
    let options = VerifyOptions { config, files: Vec::new(), against: folders, since: None };
    let error = verify(&options).unwrap_err().to_string();
    assert!(error.contains("lines 7 to 30 are missing"), "{error}");
}

#[test]
fn rotation_and_restarts_are_no_alarm() {
    let mut site = Site::new(|config| AuditConfig { rotate_size: 1500, keep: 3, ..config });
    for _ in 0..20 {
        site.write(3);
        site.tell();
        site.restart();
    }
    let whole = site.verify().unwrap();
    let (first, _) = whole.first.clone().unwrap();
    let witnessed = whole.witnessed.clone().unwrap();
    assert!(first > 20, "{whole}");
    assert_eq!(witnessed.heads + witnessed.older, 40, "{whole}");
    assert!(witnessed.heads > 0 && witnessed.older > 0 && witnessed.newest.0 == 60 + removals(&whole), "{whole}");
    assert!(whole.to_string().contains("more are of lines that rotation removed"), "{whole}");
    // Pieces of it, wherever they were copied to.
    let witnesses = Witnesses::read(&[site.others[0].0.clone()], None).unwrap();
    let files = verify::files_of(&site.config.file).unwrap();
    let part = verify::verify_files(&files[1..3], Some(&witnesses)).unwrap();
    let part = verify::witnessed(part, Some(&witnesses), true).unwrap().witnessed.unwrap();
    assert!(part.heads > 0 && part.older > 0 && part.later > 0, "{part:?}");
    assert_eq!(part.heads + part.older + part.later, 20);
}

/// What the log says of itself beside the logins.
fn removals(whole: &Whole) -> u64 {
    whole.last.as_ref().unwrap().0 - 60
}

#[test]
fn a_crash_is_no_alarm_since_only_what_is_on_the_disk_is_told() {
    let mut site = Site::usual();
    site.write(3);
    // As kill -9 leaves it: whole lines, half a line, and an end that was noted before.
    let mut bytes = fs::read(&site.config.file).unwrap();
    bytes.truncate(bytes.len() - 40);
    site.restart();
    fs::write(&site.config.file, bytes).unwrap();
    let told = site.others[0].1.head().unwrap();
    assert!(told.is_some());
    let head = Witnesses::read(&[site.others[0].0.clone()], None).unwrap();
    assert!(head.know(30) && !head.know(33));
    let tail = fs::read_to_string(&site.config.file).unwrap();
    let last = chain::read(tail.lines().nth(29).unwrap().as_bytes()).unwrap();
    let noted = serde_json::to_string(&Tail { n: 30, hash: last.hash }).unwrap();
    fs::write(site.config.file.with_extension("head"), noted).unwrap();
    site.write(5);
    site.tell();
    let whole = site.verify().unwrap();
    assert_eq!((whole.torn, whole.witnessed.unwrap().heads), (1, 8));
}

#[test]
fn a_log_that_claims_to_have_been_rotated_is_asked_for_its_times() {
    // Its lines were written anew, under numbers that nobody has seen, as if what was before had been removed.
    let shift = |site: &Site, keep: usize| {
        site.forge(|lines| {
            lines.drain(..keep);
            let first: Value = serde_json::from_str(&lines[0]).unwrap();
            let at = first["at"].as_str().unwrap();
            let what = r#""broker":"noc1","event":"removed","file":"f","upto":999,"prev":"""#;
            lines[0] = format!("{{\"n\":1000,\"at\":\"{at}\",{what}}}");
        });
    };
    let mut site = Site::new(|config| config);
    for _ in 0..10 {
        site.write(60);
        site.tell();
    }
    shift(&site, 1);
    let (line, what) = site.fault();
    assert!(line == 1 && what.contains("as if rotation had removed what was before"), "{what}");
    assert!(what.contains("dc1 put on record that the log ended with line number 180"), "the first in doubt: {what}");
    // What cannot be told by times is told by that nobody has seen any of it.
    shift(&site, 560);
    assert!(site.fault().1.contains("nobody has seen what is kept: it begins with line number 1000"));
}

#[test]
fn who_bears_witness_must_hold_and_have_something_to_say() {
    let site = Site::usual();
    let dc1 = site.others[0].0.join("audit.jsonl");
    let read = |paths: &[PathBuf]| Witnesses::read(paths, None);
    // Half a line at its end is how a log that grows is copied.
    let mut text = fs::read_to_string(&dc1).unwrap();
    text += r#"{"n":7,"at":"#;
    fs::write(&dc1, &text).unwrap();
    assert!(site.verify().is_ok());
    for (what, change) in [
        ("line 2: it was edited", (|lines| lines[1] = lines[1].replace("noc1", "noc2")) as fn(&mut Vec<String>)),
        ("line 3: it does not follow from the line before", |lines| drop(lines.remove(2))),
    ] {
        let before = fs::read(&dc1).unwrap();
        edit(&dc1, change);
        let error = read(std::slice::from_ref(&dc1)).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("proves nothing about another log"), "{error}");
        fs::write(&dc1, before).unwrap();
    }
    let empty = site.folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(read(std::slice::from_ref(&empty)).unwrap_err().to_string().contains("no file in it ends in .jsonl"));
    assert!(read(&[empty.join("none")]).unwrap_err().to_string().contains("cannot read"));
    // Its own log says nothing about itself.
    let own = read(std::slice::from_ref(&site.config.file)).unwrap();
    let whole = verify::verify_log(&site.config.file, Some(&own)).unwrap();
    let error = verify::witnessed(whole, Some(&own), false).unwrap_err().to_string();
    assert!(error.contains("1 logs of other brokers have nothing on record about the log of noc1"), "{error}");
}

#[tokio::test]
async fn the_end_is_told_once_it_is_on_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    let audit = Audit::start(&config, "noc1").unwrap();
    assert_eq!(audit.head().await, None, "there is nothing yet");
    for number in 1..=300u64 {
        audit.tell(|| login("alice"));
        let head = audit.head().await.unwrap();
        assert!(head.is_sound() && head.n == number && head.at > THEN, "{head:?}");
        let noted = trail::read_head(&config.file).unwrap().unwrap();
        assert_eq!((noted.n, noted.hash), (head.n, head.hash));
    }
    audit.stop().await;
    assert_eq!(audit.head().await, None);
    assert_eq!(Audit::off().head().await, None);
    let folder = tempfile::tempdir().unwrap();
    let config = super::config(&folder);
    std::os::unix::fs::symlink("/dev/full", &config.file).unwrap();
    let audit = Audit::start(&config, "noc1").unwrap();
    audit.tell(|| login("alice"));
    assert_eq!(audit.head().await, None, "it could not be written");
    audit.stop().await;
}
