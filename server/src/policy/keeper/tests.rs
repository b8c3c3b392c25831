use super::*;
use crate::broker::errand::{Adopt, Amend, PutBack};
use crate::policy::begin::begin;
use crate::policy::ca::{Ca, MADE, made, name};
use crate::policy::store::{Slot, Toml};
use crate::policy::with_authority;
use muster_protocol::policy::{
    CollectiveFields, Edit, EditQuery, HistoryAnswer, HistoryQuery, Made, Named, RevertTo, Seal, WholeText,
};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

const TEXT: &str = "# of the first hour\nauthority = \"noc1\"\n[brokers.noc1]\n[brokers.dc1]\n";
const EDITED: &str = "# edited\nauthority = \"noc1\"\n[brokers.noc1]\n[brokers.dc1]\n";
const AGAIN: &str = "# edited again\nauthority = \"noc1\"\n[brokers.noc1]\n[brokers.dc1]\n";

/// A keeper of which the test is the broker.
struct House {
    folder: TempDir,
    ca: Ca,
    store: Store,
    keeper: Keeper,
    errands: mpsc::Sender<Errand>,
    heard: mpsc::Receiver<Event>,
    policy: watch::Receiver<Arc<Policy>>,
    edition: Edition,
    last: u64,
}

impl House {
    fn start(me: &'static str, text: &str) -> House {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::of(&folder.path().join("policy.toml"), &folder.path().join("state"));
        fs::write(store.file(), text).unwrap();
        fs::set_permissions(store.file(), Permissions::from_mode(0o600)).unwrap();
        House::begin(me, folder, Ca::new())
    }

    /// A follower of noc1 that has had its first edition.
    fn follower() -> House {
        let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
        let store = Store::of(&folder.path().join("policy.toml"), &folder.path().join("state"));
        let claim = store.claim().unwrap();
        store.commit(&sealed(&ca, 1, 1, TEXT), TEXT, Toml::Replaced).unwrap();
        drop(claim);
        House::begin("dc1", folder, ca)
    }

    fn begin(me: &'static str, folder: TempDir, ca: Ca) -> House {
        let store = Store::of(&folder.path().join("policy.toml"), &folder.path().join("state"));
        let (claim, notary) = (store.claim().unwrap(), Ok(ca.notary(me)));
        let mut begun = begin(&store, &notary, &name(me), MADE).unwrap();
        begun.carry_out(&store, MADE).unwrap();
        let (edition, alarms) = (begun.edition, begun.alarms);
        let setup = Setup { store: store.clone(), claim, notary, me: name(me), edition: edition.clone(), alarms };
        let (errands, asked) = mpsc::channel(ERRANDS);
        let (hub, heard) = Hub::overheard();
        let (policy, seen) = watch::channel(edition.policy.clone());
        let keeper = Keeper::start(setup, asked, hub, policy, Duration::from_millis(5));
        House { folder, ca, store, keeper, errands, heard, policy: seen, edition, last: 0 }
    }

    fn file(&self) -> String {
        fs::read_to_string(self.store.file()).unwrap()
    }

    /// As an editor does it that writes another file first.
    fn write(&self, text: &str) {
        let new = self.folder.path().join("editor");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, Permissions::from_mode(0o600)).unwrap();
        fs::rename(new, self.store.file()).unwrap();
    }

    fn in_force(&self) -> Option<String> {
        match self.store.current() {
            Slot::Seal(seal) => Some(seal.stamp.generation.to_string()),
            _ => None,
        }
    }

    async fn event(&mut self) -> Event {
        timeout(Duration::from_secs(20), self.heard.recv()).await.unwrap().unwrap()
    }

    async fn done(&mut self, chore: Chore) -> Outcome {
        self.last += 1;
        self.errands.send(Errand { id: self.last, chore }).await.unwrap();
        loop {
            match self.event().await {
                Event::Done { errand, outcome } => {
                    assert_eq!(errand, self.last);
                    return *outcome;
                }
                // Offered again while the test wanted something else.
                Event::HandEdit { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next edition, as the broker asks for it.
    async fn amend(&mut self, change: Change) -> Result<Amended, Refusal> {
        let seal = self.edition.seal.as_ref();
        let generation = seal.map(|seal| seal.stamp.generation).map(|Generation { term, number }| {
            if matches!(change, Change::Take) {
                Generation { term: term + 1, number: number + 1 }
            } else {
                Generation { term, number: number + 1 }
            }
        });
        let made = Made { what: "a change".into(), ..made("x") };
        let amend = Amend { base: self.edition.clone(), change, made, generation, lineage: Vec::new() };
        let Outcome::Amended(amended) = self.done(Chore::Amend(Box::new(amend))).await else { panic!("no amendment") };
        if let Ok(Amended { edition: Some(edition), .. }) = &amended {
            self.edition = edition.clone();
        }
        amended
    }

    async fn edit(&mut self, edit: Edit) -> Result<Amended, Refusal> {
        self.amend(Change::Edit(query(edit).into())).await
    }

    async fn adopt(&mut self, seal: Seal, text: &str, set_aside: bool) -> Result<Adopted, Refusal> {
        let adopt = Adopt { seal, text: text.into(), base: self.edition.clone(), set_aside };
        let Outcome::Adopted(adopted) = self.done(Chore::Adopt(Box::new(adopt))).await else { panic!("no adoption") };
        if let Ok(Adopted { edition, .. }) = &adopted {
            self.edition = edition.clone();
        }
        adopted
    }

    async fn hand_edit(&mut self) -> (Arc<str>, Arc<Policy>, Option<String>) {
        let Event::HandEdit { text, policy, base } = self.event().await else { panic!("no hand edit") };
        (text, policy, base.map(|base| base.to_string()))
    }

    async fn history(&mut self, query: HistoryQuery) -> Result<HistoryAnswer, Refusal> {
        let Outcome::Fetched(fetched) = self.done(Chore::History(query)).await else { panic!("no answer") };
        fetched.map(|value| serde_json::from_value(value).unwrap())
    }

    async fn until(&self, is_so: impl Fn(&House) -> bool) {
        let wait = async {
            while !is_so(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("{:?}", self.keeper.alarms()));
    }

    async fn until_alarm(&self, words: &str) {
        self.until(|house| house.keeper.alarms().iter().any(|alarm| alarm.contains(words))).await;
    }

    async fn until_calm(&self) {
        self.until(|house| house.keeper.alarms().is_empty()).await;
    }

    /// What was set aside.
    fn aside(&self) -> Vec<String> {
        self.store.aside().iter().map(|path| fs::read_to_string(path).unwrap()).collect()
    }
}

fn query(edit: Edit) -> EditQuery {
    EditQuery { edit, generation: None, reason: String::new(), force: false, dry_run: false }
}

fn collective(name: &str) -> Edit {
    Edit::CollectiveAdd(CollectiveFields { name: name.into(), targeted: None })
}

fn has_prod(policy: &Policy) -> bool {
    policy.collectives().iter().any(|collective| collective.name == "prod")
}

fn sealed(ca: &Ca, term: u64, number: u64, text: &str) -> Seal {
    let (policy, generation) = (Policy::parse(text).unwrap(), Generation { term, number });
    ca.notary("noc1").seal(text, &policy, generation, made("an edit"), Vec::new()).unwrap()
}

#[tokio::test]
async fn an_edit_is_made_written_and_told() {
    let mut house = House::start("noc1", TEXT);
    assert_eq!(house.in_force().unwrap(), "1.1");
    let made = house.edit(collective("prod")).await.unwrap();
    let edition = made.edition.unwrap();
    assert!(made.changes.changes.iter().any(|change| change.what == "collective" && change.name == "prod"));
    assert_eq!((edition.generation().unwrap().to_string().as_str(), &*house.file()), ("1.2", &*edition.text));
    assert!(edition.text.starts_with(TEXT) && has_prod(&edition.policy));
    assert_eq!(house.in_force().unwrap(), "1.2");
    house.until(|house| has_prod(&house.policy.borrow())).await;
    assert_eq!(house.keeper.alarms(), Vec::<String>::new());
    house.ca.notary("dc1").verify(&edition.seal.unwrap(), house.file().as_bytes()).unwrap();
}

#[tokio::test]
async fn what_changes_nothing_makes_no_edition() {
    let mut house = House::start("noc1", TEXT);
    let dry = Change::Edit(Box::new(EditQuery { dry_run: true, ..query(collective("prod")) }));
    let would = house.amend(dry).await.unwrap();
    assert!(would.edition.is_none() && !would.changes.is_empty());
    let same = house.edit(Edit::Text(WholeText { policy: TEXT.into() })).await.unwrap();
    assert!(same.edition.is_none() && same.changes.is_empty());
    assert_eq!((house.in_force().unwrap().as_str(), house.file().as_str()), ("1.1", TEXT));
}

#[tokio::test]
async fn an_edit_that_does_not_fit_changes_nothing() {
    let mut house = House::start("noc1", TEXT);
    let refusal = house.edit(Edit::UserRemove(Named { name: "nobody".into() })).await.unwrap_err();
    assert_eq!(refusal.code, Code::BadEdit);
    assert_eq!((house.in_force().unwrap().as_str(), house.file().as_str()), ("1.1", TEXT));
}

#[tokio::test]
async fn an_edit_that_cannot_be_written_is_refused_and_the_next_one_is_not() {
    let mut house = House::start("noc1", TEXT);
    let way = house.store.dir().join("pending.json");
    fs::create_dir(&way).unwrap();
    let refusal = house.edit(collective("prod")).await.unwrap_err();
    assert_eq!(refusal.code, Code::Internal);
    assert!(refusal.text.contains("pending.json: cannot") && refusal.text.contains("look at"), "{}", refusal.text);
    assert_eq!((house.in_force().unwrap().as_str(), house.file().as_str()), ("1.1", TEXT));
    assert!(!has_prod(&house.policy.borrow()));
    fs::remove_dir(&way).unwrap();
    house.edit(collective("prod")).await.unwrap();
    assert_eq!(house.in_force().unwrap(), "1.2");
}

#[tokio::test]
async fn an_edit_by_hand_is_found_and_becomes_an_edition() {
    let mut house = House::start("noc1", TEXT);
    house.write(EDITED);
    let (text, policy, base) = house.hand_edit().await;
    assert_eq!((&*text, base.as_deref()), (EDITED, Some("1.1")));
    assert_eq!(house.in_force().unwrap(), "1.1", "the broker decides");
    house.amend(Change::Hand(text, policy)).await.unwrap();
    assert_eq!((house.in_force().unwrap().as_str(), house.file().as_str()), ("1.2", EDITED));
    house.until_calm().await;
}

#[tokio::test]
async fn a_bad_edit_by_hand_is_an_alarm_until_it_is_a_good_one() {
    let mut house = House::start("noc1", TEXT);
    house.write("\nfoo = 1\n");
    house.until_alarm("line 2, column 1: unknown field `foo`").await;
    assert!(house.keeper.alarms()[0].contains("is not in force, the last good policy is: line 2"));
    fs::set_permissions(house.store.file(), Permissions::from_mode(0o644)).unwrap();
    house.until_alarm("run `chmod 640` on it").await;
    fs::remove_file(house.store.file()).unwrap();
    house.until_alarm("cannot read the policy").await;
    assert_eq!(house.in_force().unwrap(), "1.1");
    house.write(TEXT);
    house.until_calm().await;
    house.write(EDITED);
    assert_eq!(&*house.hand_edit().await.0, EDITED, "nothing but good ones is told");
}

#[tokio::test]
async fn who_edits_by_hand_is_not_overwritten_by_an_edit_of_somebody_else() {
    let mut house = House::start("noc1", TEXT);
    house.write(EDITED);
    let refusal = house.edit(collective("prod")).await.unwrap_err();
    assert_eq!((refusal.code, house.file().as_str()), (Code::StaleGeneration, EDITED));
    assert!(refusal.text.contains("policy.toml was edited by hand a moment ago"), "{}", refusal.text);
    let (text, policy, _) = house.hand_edit().await;
    // Yet another text, before the broker has answered.
    house.write(AGAIN);
    let refusal = house.amend(Change::Hand(text, policy)).await.unwrap_err();
    assert_eq!((refusal.code, house.file().as_str()), (Code::StaleGeneration, AGAIN));
    let (text, policy, _) = loop {
        let offered = house.hand_edit().await;
        if &*offered.0 == AGAIN {
            break offered;
        }
    };
    house.amend(Change::Hand(text, policy)).await.unwrap();
    house.edit(collective("prod")).await.unwrap();
    assert_eq!(house.in_force().unwrap(), "1.3");
    assert!(house.file().starts_with(AGAIN) && house.aside().is_empty());
}

#[tokio::test]
async fn a_text_that_is_no_policy_gives_way_to_an_edit_and_is_set_aside() {
    let mut house = House::start("noc1", TEXT);
    house.write("foo = 1\n");
    house.until_alarm("unknown field `foo`").await;
    house.edit(collective("prod")).await.unwrap();
    assert_eq!((house.in_force().unwrap().as_str(), house.aside()), ("1.2", vec!["foo = 1\n".to_owned()]));
    house.until_alarm("set-aside").await;
    fs::remove_file(&house.store.aside()[0]).unwrap();
    house.until_calm().await;
}

#[tokio::test]
async fn a_reload_waits_for_the_outcome() {
    let mut house = House::start("noc1", TEXT);
    let keeper = house.keeper.clone();
    let reload = || {
        tokio::spawn({
            let keeper = keeper.clone();
            async move { keeper.reload().await }
        })
    };
    let same = reload().await.unwrap().unwrap();
    assert_eq!((same.file.as_path(), same.generation.unwrap().to_string().as_str()), (house.store.file(), "1.1"));
    house.write(EDITED);
    let waits = reload();
    let (text, policy, _) = house.hand_edit().await;
    assert!(!waits.is_finished());
    house.amend(Change::Hand(text, policy)).await.unwrap();
    assert_eq!(waits.await.unwrap().unwrap().generation.unwrap().to_string(), "1.2");
    house.write("foo = 1\n");
    let error = reload().await.unwrap().unwrap_err().to_string();
    assert!(error.contains("policy.toml: line 1, column 1: unknown field `foo`"), "{error}");
    // The broker has something against it.
    house.write(AGAIN);
    let waits = reload();
    house.hand_edit().await;
    let why = Refusal::new(Code::Contested, "dc1 took term 1 too");
    let put = PutBack { current: house.edition.clone(), why };
    assert!(matches!(house.done(Chore::PutBack(Box::new(put))).await, Outcome::PutBack));
    let error = waits.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("dc1 took term 1 too; what was written there was set aside as"), "{error}");
    assert_eq!((house.file().as_str(), house.aside()), (EDITED, vec![AGAIN.to_owned()]));
}

#[tokio::test]
async fn a_hand_edit_that_cannot_be_sealed_is_an_alarm_until_it_is() {
    let mut house = House::start("noc1", TEXT);
    let way = house.store.dir().join("pending.json");
    fs::create_dir(&way).unwrap();
    house.write(EDITED);
    let (text, policy, _) = house.hand_edit().await;
    house.amend(Change::Hand(text, policy)).await.unwrap_err();
    house.until_alarm("pending.json: cannot").await;
    assert_eq!((house.in_force().unwrap().as_str(), house.file().as_str()), ("1.1", EDITED));
    fs::remove_dir(&way).unwrap();
    let keeper = house.keeper.clone();
    let waits = tokio::spawn(async move { keeper.reload().await });
    let (text, policy, _) = house.hand_edit().await;
    house.amend(Change::Hand(text, policy)).await.unwrap();
    waits.await.unwrap().unwrap();
    house.until_calm().await;
    assert_eq!(house.in_force().unwrap(), "1.2");
}

#[tokio::test]
async fn what_is_written_at_a_follower_is_set_aside_and_told_to_nobody() {
    let mut house = House::follower();
    for text in [EDITED, "foo = 1\n"] {
        house.write(text);
        house.until(|house| house.aside().contains(&text.to_owned()) && house.file() == TEXT).await;
    }
    house.until_alarm("repeat what you miss of it as an edit, then remove the file").await;
    fs::remove_file(house.store.file()).unwrap();
    house.until(|house| house.store.file().exists() && house.file() == TEXT).await;
    house.write(AGAIN);
    let error = house.keeper.reload().await.unwrap_err().to_string();
    assert!(error.contains("this broker follows noc1") && error.contains("set-aside"), "{error}");
    assert_eq!((house.file().as_str(), house.in_force().unwrap().as_str()), (TEXT, "1.1"));
    assert!(house.heard.try_recv().is_err());
}

#[tokio::test]
async fn a_follower_takes_what_the_authority_has_sealed_and_nothing_else() {
    let mut house = House::follower();
    let good = sealed(&house.ca, 1, 2, EDITED);
    let forged = Seal { made: made("something else"), ..good.clone() };
    assert_eq!(house.adopt(forged, EDITED, false).await.unwrap_err().code, Code::WrongIdentity);
    assert_eq!(house.adopt(good.clone(), AGAIN, false).await.unwrap_err().code, Code::BadBody);
    let foreign = sealed(&Ca::new(), 1, 2, EDITED);
    let refusal = house.adopt(foreign, EDITED, false).await.unwrap_err();
    assert!(refusal.text.starts_with("generation 1.2 of noc1 is not taken: "), "{}", refusal.text);
    assert_eq!((house.file().as_str(), house.in_force().unwrap().as_str()), (TEXT, "1.1"));
    let adopted = house.adopt(good, EDITED, false).await.unwrap();
    assert_eq!((adopted.kept, &*adopted.edition.text), (None, EDITED));
    assert_eq!((house.file().as_str(), house.in_force().unwrap().as_str()), (EDITED, "1.2"));
    assert!(house.aside().is_empty() && house.keeper.alarms().is_empty());
}

#[tokio::test]
async fn what_is_not_part_of_a_newer_edition_is_set_aside() {
    let mut house = House::follower();
    let adopted = house.adopt(sealed(&house.ca, 2, 1, EDITED), EDITED, true).await.unwrap();
    let kept = house.folder.path().join("policy.toml.set-aside-1-1");
    assert_eq!(adopted.kept.as_deref(), kept.to_str());
    assert_eq!(house.aside(), [TEXT]);
    house.until_alarm("policy.toml.set-aside-1-1").await;
}

#[tokio::test]
async fn a_follower_that_cannot_write_its_file_enforces_all_the_same() {
    let mut house = House::follower();
    let way = house.folder.path().join(".policy.toml.new");
    fs::create_dir(&way).unwrap();
    house.adopt(sealed(&house.ca, 1, 2, EDITED), EDITED, false).await.unwrap();
    assert_eq!((house.file().as_str(), house.in_force().unwrap().as_str()), (TEXT, "1.2"));
    house.until_alarm("does not stand in").await;
    assert!(house.keeper.alarms()[0].ends_with("then run `musterd ctl reload`"));
    fs::remove_dir(&way).unwrap();
    house.keeper.reload().await.unwrap();
    assert_eq!((house.file().as_str(), house.aside()), (EDITED, Vec::new()));
    house.until_calm().await;
}

#[tokio::test]
async fn an_adoption_overtakes_an_edit_by_hand_that_nobody_has_read_yet() {
    let mut house = House::follower();
    house.write(AGAIN);
    house.adopt(sealed(&house.ca, 1, 2, EDITED), EDITED, false).await.unwrap();
    assert_eq!((house.file().as_str(), house.aside()), (EDITED, vec![AGAIN.to_owned()]));
}

#[tokio::test]
async fn who_takes_the_authority_stands_in_the_text() {
    let mut house = House::follower();
    let taken = house.amend(Change::Take).await.unwrap().edition.unwrap();
    let stamp = taken.seal.unwrap().stamp;
    assert_eq!((stamp.authority.as_str(), stamp.generation.to_string().as_str()), ("dc1", "2.2"));
    assert!(house.file().contains("authority = \"dc1\""), "{}", house.file());
    // From now on what is written here counts, and a reverted text does not bring the old authority back.
    house.edit(collective("prod")).await.unwrap();
    let to = "1.1".parse().unwrap();
    house.edit(Edit::Revert(RevertTo { to })).await.unwrap();
    assert_eq!(house.file(), TEXT.replace("authority = \"noc1\"", "authority = \"dc1\""));
    // Taken again although nothing is otherwise in the text.
    assert!(house.amend(Change::Take).await.unwrap().edition.is_some());
}

#[tokio::test]
async fn earlier_editions_come_back_if_nobody_has_touched_them() {
    let mut house = House::start("noc1", TEXT);
    house.edit(collective("prod")).await.unwrap();
    let to = "1.1".parse().unwrap();
    house.edit(Edit::Revert(RevertTo { to })).await.unwrap();
    assert_eq!((house.file().as_str(), house.in_force().unwrap().as_str()), (TEXT, "1.3"));
    let no = house.edit(Edit::Revert(RevertTo { to: "1.9".parse().unwrap() })).await.unwrap_err();
    assert!(no.text.contains("generation 1.9 is not kept at this broker; those from 1.1 to 1.3 are"), "{}", no.text);
    let names = fs::read_dir(house.store.dir()).unwrap().map(|entry| entry.unwrap().path());
    let second = names.into_iter().find(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("1-2-") && name.ends_with(".toml")
    });
    fs::write(second.unwrap(), EDITED).unwrap();
    let no = house.edit(Edit::Revert(RevertTo { to: "1.2".parse().unwrap() })).await.unwrap_err();
    assert!(no.text.contains("its text is not the one that was sealed"), "{}", no.text);
}

#[tokio::test]
async fn the_history_says_who_did_what_and_what_that_changed() {
    let mut house = House::start("noc1", TEXT);
    for name in ["one", "two", "three"] {
        house.edit(collective(name)).await.unwrap();
    }
    let generations = |answer: &HistoryAnswer| {
        answer.editions.iter().map(|edition| edition.generation.to_string()).collect::<Vec<_>>()
    };
    let all = house.history(HistoryQuery::default()).await.unwrap();
    assert_eq!((generations(&all), all.next), (["1.4", "1.3", "1.2", "1.1"].map(String::from).to_vec(), None));
    assert_eq!((all.editions[0].by.as_str(), all.editions[3].by.as_str()), ("alice", "(file)"));
    let page = house.history(HistoryQuery { limit: Some(2), ..HistoryQuery::default() }).await.unwrap();
    assert_eq!((generations(&page).len(), page.next.unwrap().to_string().as_str()), (2, "1.3"));
    let rest = house.history(HistoryQuery { before: page.next, ..HistoryQuery::default() }).await.unwrap();
    assert_eq!((generations(&rest), rest.next), (["1.2", "1.1"].map(String::from).to_vec(), None));
    let third = HistoryQuery { generation: Some("1.3".parse().unwrap()), ..HistoryQuery::default() };
    let third = house.history(third).await.unwrap();
    assert_eq!(third.editions[0].changes.as_ref().unwrap().changes[0].name, "two");
    let first = HistoryQuery { generation: Some("1.1".parse().unwrap()), ..HistoryQuery::default() };
    assert!(house.history(first).await.unwrap().editions[0].changes.is_none());
    let none = HistoryQuery { generation: Some("7.7".parse().unwrap()), ..HistoryQuery::default() };
    assert_eq!(house.history(none).await.unwrap_err().code, Code::NoSuchName);
}

#[tokio::test]
async fn without_a_seal_there_is_the_file_alone() {
    let text = "[brokers.noc1]\n[brokers.dc1]\n";
    let mut house = House::start("noc1", text);
    house.write(&format!("# mine\n{text}"));
    let (edited, policy, base) = house.hand_edit().await;
    assert_eq!(base, None);
    let made = house.amend(Change::Hand(edited, policy)).await.unwrap();
    assert!(made.edition.unwrap().seal.is_none());
    house.edit(collective("prod")).await.unwrap();
    assert!(house.file().starts_with("# mine\n") && house.file().contains("prod"));
    assert_eq!(house.in_force(), None);
    assert!(house.history(HistoryQuery::default()).await.unwrap().editions.is_empty());
}

#[tokio::test]
async fn the_keeper_ends_with_the_broker() {
    let house = House::start("noc1", TEXT);
    let House { keeper, errands, store, folder, .. } = house;
    drop(errands);
    timeout(Duration::from_secs(20), async {
        // Its right to write there goes with it.
        while store.claim().is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(keeper.reload().await.unwrap_err().to_string(), "the broker is stopping");
    drop(folder);
}

/// Whatever is to be written in the state directory cannot be, until it is removed.
fn full(house: &House) -> PathBuf {
    let way = house.store.dir().join("pending.json");
    fs::create_dir(&way).unwrap();
    way
}

#[tokio::test]
async fn what_cannot_be_written_holds_all_the_same_and_is_written_when_it_can_be() {
    let mut house = House::follower();
    let way = full(&house);
    let adopted = house.adopt(sealed(&house.ca, 1, 2, EDITED), EDITED, false).await.unwrap();
    assert_eq!(&*adopted.edition.text, EDITED);
    house.until(|house| house.policy.has_changed().unwrap()).await;
    assert_eq!((house.file().as_str(), house.in_force().unwrap().as_str()), (TEXT, "1.1"));
    house.until_alarm("policy 1.2 is in force and not on the disk, where a restart finds the one before").await;
    // The next one too, and an edit by hand is still none.
    house.adopt(sealed(&house.ca, 1, 3, AGAIN), AGAIN, false).await.unwrap();
    house.until_alarm("policy 1.3 is in force and not on the disk").await;
    house.write("# mine\n");
    house.until(|house| house.aside() == ["# mine\n"]).await;
    assert_eq!(house.in_force().unwrap(), "1.1");
    fs::remove_dir(&way).unwrap();
    house.until(|house| house.in_force().as_deref() == Some("1.3") && house.file() == AGAIN).await;
    for path in house.store.aside() {
        fs::remove_file(path).unwrap();
    }
    house.until_calm().await;
    assert_eq!(begun(&house), ("1.3".to_owned(), AGAIN.to_owned()));
}

#[tokio::test]
async fn what_is_to_be_set_aside_is_so_once_there_is_room() {
    let mut house = House::follower();
    let way = full(&house);
    house.adopt(sealed(&house.ca, 2, 1, EDITED), EDITED, true).await.unwrap();
    house.until_alarm("policy 2.1 is in force and not on the disk").await;
    // Whoever takes the authority meanwhile does not find an edit by hand in the file of before.
    fs::remove_dir(&way).unwrap();
    house.amend(Change::Take).await.unwrap();
    house.until(|house| house.in_force().as_deref() == Some("3.2")).await;
    house.until(|house| house.aside() == [TEXT]).await;
}

/// What a broker would start with.
fn begun(house: &House) -> (String, String) {
    let begun = begin(&house.store, &Ok(house.ca.notary("dc1")), &name("dc1"), MADE).unwrap();
    (begun.edition.generation().unwrap().to_string(), begun.edition.text.to_string())
}

#[tokio::test]
async fn a_text_that_is_the_same_but_for_who_has_the_authority_is_missed_by_nobody() {
    // A cluster without an authority gets one; and an authority that nobody had heard of before.
    let none = TEXT.replace("authority = \"noc1\"\n", "");
    let taken = with_authority(&none, &name("noc1")).unwrap();
    let other = taken.replace("authority = \"noc1\"", "authority = \"dc1\"");
    for (me, old, is_missed) in
        [("dc2", none.clone(), false), ("dc1", other, false), ("dc2", format!("# mine\n{none}"), true)]
    {
        let mut house = House::start(me, &old);
        house.adopt(sealed(&house.ca, 2, 1, &taken), &taken, true).await.unwrap();
        assert_eq!((house.file(), house.in_force().unwrap().as_str()), (taken.clone(), "2.1"));
        let wanted: Vec<String> = is_missed.then(|| old.clone()).into_iter().collect();
        assert_eq!((house.aside(), house.keeper.alarms().len()), (wanted, usize::from(is_missed)), "{old}");
    }
}

#[tokio::test]
async fn an_edit_by_hand_moves_no_authority() {
    let mut house = House::start("noc1", TEXT);
    house.write(&TEXT.replace("noc1\"", "dc1\""));
    let (text, policy, _) = house.hand_edit().await;
    let refusal = house.amend(Change::Hand(text, policy)).await.unwrap_err();
    assert!(refusal.text.contains("run `muster admin authority take` at dc1"), "{}", refusal.text);
    house.until_alarm("an edit of the file does not move").await;
    assert_eq!(house.in_force().unwrap(), "1.1");
    // Nor does one while the broker is down.
    let notary = Ok(house.ca.notary("noc1"));
    let error = begin(&house.store, &notary, &name("noc1"), MADE).unwrap_err().to_string();
    assert!(error.contains("policy.toml: it says authority = \"dc1\", and noc1 has the authority"), "{error}");
}
