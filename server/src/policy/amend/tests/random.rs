//! Does it hold for random policies, in any mix of styles and with comments everywhere?

mod effect;
mod written;

use super::*;
use effect::{Shown, inverse};
use proptest::prelude::*;
use written::{Line, policy_lines};

/// Decisions from bytes, so that what fails shrinks to the plainest case: what is left out is 0.
pub(super) struct Dice<'b> {
    bytes: std::slice::Iter<'b, u8>,
}

impl Dice<'_> {
    fn of(bytes: &[u8]) -> Dice<'_> {
        Dice { bytes: bytes.iter() }
    }

    /// A number below `sides`.
    fn roll(&mut self, sides: usize) -> usize {
        usize::from(self.bytes.next().copied().unwrap_or_default()) % sides
    }

    /// True once in `sides`, never when nothing is left.
    fn hit(&mut self, sides: usize) -> bool {
        self.roll(sides) == sides - 1
    }

    fn one_of<'a>(&mut self, these: &[&'a str]) -> &'a str {
        these[self.roll(these.len())]
    }

    /// Some of these, in their order.
    fn some_of(&mut self, these: &[&str]) -> Vec<String> {
        these.iter().filter(|_| self.hit(2)).map(|it| (*it).to_owned()).collect()
    }
}

pub(super) const USERS: [&str; 4] = ["alice", "bob.x", "c@d", "node-1"];
pub(super) const GROUPS: [&str; 3] = ["noc", "a.b", "x@y"];
pub(super) const PLACES: [&str; 4] = ["/muster/find", "/muster/admin.>", "/topic/prod.*.status", "/topic/x.>"];
pub(super) const FACTS: [&str; 4] = ["hostname", "rack.**", "ip*", "dmi.**"];
pub(super) const NETWORKS: [&str; 2] = ["192.0.2.0/24", "2001:db8::/32"];
pub(super) const BROKERS: [&str; 3] = ["noc1", "dc1", "dc2"];
pub(super) const LIMITS: [&str; 4] = ["max-targets", "requests-per-minute", "in-flight", "sessions"];
pub(super) const SCOPES: [&str; 2] = ["customer = a", "customer = \"b c\""];
const GHOST: &str = "ghost";

/// An edit of anything; now and then of something that is not there.
fn any_edit(dice: &mut Dice<'_>) -> Json {
    let named = |dice: &mut Dice<'_>, these: &[&str]| {
        if dice.hit(8) { GHOST.to_owned() } else { dice.one_of(these).to_owned() }
    };
    let groups = |dice: &mut Dice<'_>| {
        let mut groups = dice.some_of(&GROUPS);
        if dice.hit(16) {
            groups.push(GHOST.to_owned());
        }
        groups
    };
    let facts = |dice: &mut Dice<'_>| match dice.roll(4) {
        0 => json!({}),
        1 => json!({"customer": "a"}),
        2 => json!({"rack": {"row": 1, "unit": "x"}, "customer": dice.one_of(&["a", "b"])}),
        _ => json!({"rack": [1, "2", {"z": true}], "customer": "it's \"quoted\""}),
    };
    match dice.roll(21) {
        0 => {
            let mut edit = json!({"edit": "user-add", "name": named(dice, &USERS), "password": PHC});
            let kind = dice.one_of(&["operator", "service", "agent"]);
            edit["kind"] = json!(kind);
            if kind == "agent" && dice.hit(2) {
                edit["facts"] = facts(dice);
            }
            if dice.hit(2) {
                edit["groups"] = json!(groups(dice));
            }
            if dice.hit(3) {
                edit["expires"] = json!("2031-02-03T04:05:06Z");
                edit["networks"] = json!(dice.some_of(&NETWORKS));
                edit["disabled"] = json!(true);
            }
            edit
        }
        1 | 2 => {
            let mut edit = json!({"edit": "user-set", "name": named(dice, &USERS)});
            let mut unset = Vec::new();
            for (field, value) in [
                ("groups", json!(groups(dice))),
                ("networks", json!(dice.some_of(&NETWORKS))),
                ("disabled", json!(dice.hit(2))),
                ("expires", json!("2031-02-03")),
                ("certificate", json!(dice.one_of(&["alice.example.net", "Alice \"A\" Example"]))),
                ("revoked-before", json!("2026-11-21T10:00:00Z")),
            ] {
                match dice.roll(4) {
                    0 => edit[field] = value,
                    1 => unset.push(field),
                    _ => {}
                }
            }
            // Only an agent has facts; which of them is one is not known here.
            if edit["name"] == "node-1" && dice.hit(2) {
                edit["facts"] = facts(dice);
            }
            edit["unset"] = json!(unset);
            edit
        }
        3 => json!({"edit": "user-remove", "name": named(dice, &USERS)}),
        4 => {
            let limits: serde_json::Map<String, Json> =
                dice.some_of(&LIMITS).into_iter().map(|limit| (limit, json!(7))).collect();
            let mut edit = json!({"edit": "group-add", "name": named(dice, &GROUPS), "limits": limits});
            if dice.hit(2) {
                edit["scope"] = json!(dice.one_of(&SCOPES));
                edit["all"] = json!(true);
            }
            edit
        }
        5 | 6 => {
            let mut edit = json!({"edit": "group-set", "name": named(dice, &GROUPS)});
            let mut unset = Vec::new();
            for (field, value) in [("scope", json!(dice.one_of(&SCOPES))), ("all", json!(dice.hit(2)))] {
                match dice.roll(3) {
                    0 => edit[field] = value,
                    1 => unset.push(field),
                    _ => {}
                }
            }
            match dice.roll(3) {
                0 => edit["limits"] = json!({"sessions": 5, "in-flight": 6}),
                1 => unset.extend(["sessions", "max-targets"]),
                _ => {}
            }
            edit["unset"] = json!(unset);
            edit
        }
        7 => json!({"edit": "group-remove", "name": named(dice, &GROUPS)}),
        8 => json!({"edit": "group-add-member", "group": named(dice, &GROUPS), "user": named(dice, &USERS)}),
        9 => json!({"edit": "group-remove-member", "group": named(dice, &GROUPS), "user": named(dice, &USERS)}),
        10 | 11 => {
            json!({"edit": "acl-add", "destination": dice.one_of(&PLACES), "read": groups(dice), "write": groups(dice), "admin": groups(dice)})
        }
        12 => json!({"edit": "acl-remove", "destination": dice.one_of(&PLACES)}),
        13 => {
            json!({"edit": "acl-remove", "destination": dice.one_of(&PLACES), "write": groups(dice), "read": groups(dice)})
        }
        14 => json!({"edit": "scope-set", "group": named(dice, &GROUPS), "filter": dice.one_of(&SCOPES)}),
        15 => json!({"edit": "scope-remove", "name": named(dice, &GROUPS)}),
        16 => json!({"edit": dice.one_of(&["hidden-add", "hidden-remove"]), "pattern": dice.one_of(&FACTS)}),
        17 => json!({"edit": "limit-set", "group": named(dice, &GROUPS), "limit": dice.one_of(&LIMITS), "most": 9}),
        18 => json!({"edit": "limit-remove", "group": named(dice, &GROUPS), "limit": dice.one_of(&LIMITS)}),
        19 => match dice.roll(3) {
            0 => json!({"edit": "collective-add", "name": dice.one_of(&["dev", "prod"]), "targeted": dice.hit(2)}),
            1 => json!({"edit": "collective-set", "name": dice.one_of(&["dev", "prod"]), "targeted": dice.hit(2)}),
            _ => json!({"edit": "collective-remove", "name": dice.one_of(&["dev", "prod"])}),
        },
        _ => match dice.roll(2) {
            0 => {
                json!({"edit": "broker-set", "name": dice.one_of(&BROKERS), "link": "h:7", "stomp": dice.some_of(&["p:1", "q:2"])})
            }
            _ => json!({"edit": "broker-remove", "name": named(dice, &BROKERS)}),
        },
    }
}

fn text_of(lines: &[Line], newline: &str, open_end: bool) -> String {
    let mut text: String = lines.iter().map(|line| line.text.clone() + newline).collect();
    if open_end {
        text.truncate(text.trim_end().len());
    }
    text
}

/// The comments of a text, by their numbers.
fn comments(text: &str) -> Vec<usize> {
    let numbers = text.split("# c").skip(1);
    numbers.filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()).collect()
}

fn is_subsequence<T: PartialEq>(these: impl IntoIterator<Item = T>, of: impl IntoIterator<Item = T>) -> Result<(), T> {
    let mut of = of.into_iter();
    for it in these {
        if !of.any(|other| other == it) {
            return Err(it);
        }
    }
    Ok(())
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..most)
}

/// What an edit may meet: parts of TOML, and of policies.
const PARTS: [&str; 44] = [
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    ",",
    "=",
    ".",
    "\n",
    "\r\n",
    " ",
    "\t",
    "#",
    "# c\n",
    "'",
    "\"",
    "'''",
    "\"\"\"",
    "\\",
    "users",
    "groups",
    "acl",
    "alice",
    "noc",
    "[users.alice]\n",
    "[groups.noc]\n",
    "[[acl]]\n",
    "[users]\n",
    "users.alice.kind = 1\n",
    "groups = ['noc']\n",
    "facts.a = 1\n",
    "destination = \"/muster/find\"\n",
    "write = [\"noc\",\n]\n",
    "hidden = [",
    "authority",
    "[users.alice.facts]\n",
    "x = { a.b = 1, }\n",
    "1",
    "2027-01-31",
    "true",
    "ä",
    "\u{feff}",
    "a = [1, # c\n 'noc' ]\n",
];

proptest! {
    #[test]
    fn an_edit_does_what_it_says_and_leaves_all_other_lines(
        written in bytes(400), wanted in bytes(40), crlf: bool, open_end: bool, page in 1u32..5,
    ) {
        let lines = policy_lines(&mut Dice::of(&written));
        let newline = if crlf { "\r\n" } else { "\n" };
        let text = text_of(&lines, newline, open_end);
        let before = Policy::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let shown = Shown::of(&before, page);
        let json = any_edit(&mut Dice::of(&wanted));
        let mut expected = shown.clone();
        let fits = expected.apply(&json);
        let made = match amend(&text, &edit(json.clone())) {
            Ok(made) => made,
            Err(refusal) => {
                prop_assert_eq!(refusal.code, Code::BadEdit);
                prop_assert!(!fits, "{}: {}\n{}", json, refusal, text);
                return Ok(());
            }
        };
        prop_assert!(fits, "{} was to be refused:\n{}", json, text);

        // What it says.
        let after = match Policy::parse(&made) {
            Ok(after) => after,
            Err(error) => {
                let is_wrong = expected.names_nobody() || json["edit"] == "collective-remove" || json["edit"] == "broker-remove";
                prop_assert!(is_wrong, "{}: {}\n{}\n-->\n{}", json, error, text, made);
                return Ok(());
            }
        };
        prop_assert!(!expected.names_nobody(), "{} was to be refused:\n{}", json, made);
        prop_assert_eq!(&Shown::of(&after, page), &expected, "{}\n{}\n-->\n{}", json, text, made);

        // Older TOML knows no comma at the end of braces.
        prop_assert!(!made.contains(", }") && !made.contains(",}"), "{}\n{}\n-->\n{}", json, text, made);

        // All other lines, byte for byte and in order; and no comment twice.
        let ends: Vec<String> = made.split_inclusive('\n').map(str::to_owned).collect();
        let concerned = effect::concerned(&json, &shown);
        let kept = lines.iter().filter(|line| !line.text.is_empty() && !concerned(&line.owner, &line.text));
        let mut kept: Vec<String> = kept.map(|line| line.text.clone() + newline).collect();
        let mut found = ends;
        if open_end {
            // The last line may have got its end.
            kept.iter_mut().chain(&mut found).for_each(|line| line.truncate(line.trim_end().len()));
        }
        let lost = is_subsequence(&kept, &found);
        prop_assert!(lost.is_ok(), "{}: {:?} is lost:\n{}\n-->\n{}", json, lost, text, made);
        let (was, is) = (comments(&text), comments(&made));
        prop_assert!(is_subsequence(&is, &was).is_ok(), "{}: comments moved:\n{}\n-->\n{}", json, text, made);
        if effect::only_adds(&json) {
            prop_assert_eq!(was, is, "{}: comments are gone:\n{}\n-->\n{}", json, text, made);
        }

        // And back again.
        if let Some(back) = inverse(&json, &shown) {
            let again = amend(&made, &edit(back.clone())).unwrap();
            let policy = Policy::parse(&again).unwrap();
            prop_assert!(diff(&before, &policy).is_empty(), "{} and {}:\n{}\n-->\n{}\n-->\n{}", json, back, text, made, again);
            prop_assert_eq!(&Shown::of(&policy, page), &shown, "{} and {}", json, back);
        }
    }

    #[test]
    fn the_authority_is_set_and_nothing_else(written in bytes(400), crlf: bool, dc1: bool) {
        let newline = if crlf { "\r\n" } else { "\n" };
        let lines = policy_lines(&mut Dice::of(&written));
        let text = text_of(&lines, newline, false);
        let before = Policy::parse(&text).unwrap();
        let name = match before.brokers().keys().nth(usize::from(dc1)).or(before.brokers().keys().next()) {
            Some(name) => name.clone(),
            None => BrokerName::parse("alone").unwrap(),
        };
        let made = with_authority(&text, &name).unwrap();
        let after = Policy::parse(&made).unwrap();
        prop_assert_eq!(after.authority(), Some(&name));
        prop_assert_eq!(Shown::of(&after, 3), Shown::of(&before, 3));
        let others = text.split_inclusive('\n').filter(|line| !line.trim().is_empty() && !line.starts_with("authority"));
        prop_assert!(is_subsequence(others, made.split_inclusive('\n')).is_ok(), "{}\n-->\n{}", text, made);
        prop_assert_eq!(comments(&text), comments(&made));
    }

    #[test]
    fn nothing_panics_on_any_toml(
        parts in proptest::collection::vec(prop::sample::select(&PARTS[..]), 0..30), wanted in bytes(40),
    ) {
        survives(&parts.concat(), &wanted)?;
    }

    #[test]
    fn nothing_panics_on_any_text(text in "\\PC{0,60}|[\\[\\]{}=.,#'\"\\\\\\s\\w]{0,60}", wanted in bytes(40)) {
        survives(&text, &wanted)?;
    }

    #[test]
    fn nothing_panics_on_a_damaged_policy(
        written in bytes(400), wanted in bytes(40), at in 0usize..2000, gone in 0usize..30, part in prop::sample::select(&PARTS[..]),
    ) {
        let text = text_of(&policy_lines(&mut Dice::of(&written)), "\n", false);
        let (from, to) = (at.min(text.len()), (at + gone).min(text.len()));
        if let (Some(head), Some(tail)) = (text.get(..from), text.get(to..)) {
            survives(&format!("{head}{part}{tail}"), &wanted)?;
        }
    }
}

/// An edit of an arbitrary text ends in a text or a refusal; of TOML, in TOML.
fn survives(text: &str, wanted: &[u8]) -> Result<(), TestCaseError> {
    let json = any_edit(&mut Dice::of(wanted));
    let edit = edit(json.clone());
    let query = EditQuery { edit, generation: None, reason: String::new(), force: false, dry_run: true };
    let _ = amended(&Policy::default(), text, &query, 0);
    for made in [amend(text, &query.edit), with_authority(text, &BrokerName::parse("noc1").unwrap())] {
        match made {
            Ok(made) => {
                let error = Document::parse(made.as_str()).err();
                prop_assert!(error.is_none(), "{}: {:?}\n{:?}\n-->\n{:?}", json, error, text, made);
            }
            Err(refusal) => prop_assert_eq!(refusal.code, Code::BadEdit, "{}: {:?}", json, text),
        }
    }
    Ok(())
}
