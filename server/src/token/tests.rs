//! Is a token good for its holder alone, and for nobody after any change?

use super::*;
use muster_protocol::message::NodeKey;
use proptest::prelude::*;
use secrecy::ExposeSecret;

const PHC: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$b25l";
const OTHER_PHC: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$dHdv";
const LIFE: u64 = 1_000;
const NOW: u64 = 1_790_000_000;

fn tokens(secret: u8) -> Tokens {
    Tokens::new(&ClusterKey::new([secret; 32]), None, Duration::from_secs(LIFE))
}

fn node(number: u8) -> NodeId {
    NodeId::of(&NodeKey::new([number; 32]))
}

fn alice() -> Holder<'static> {
    Holder { user: "alice", node: None, phc: PHC }
}

fn agent(number: u8) -> Holder<'static> {
    Holder { user: "node-a", node: Some(node(number)), phc: PHC }
}

fn made(tokens: &Tokens, holder: Holder<'_>) -> String {
    tokens.make(holder, NOW).expect("tokens are on").expose_secret().to_owned()
}

#[test]
fn a_token_is_good_for_its_holder_at_every_broker_of_the_cluster() {
    let (here, there) = (tokens(1), tokens(1));
    let longest = Holder { user: &"u".repeat(128), ..agent(1) };
    for holder in [alice(), agent(1), longest] {
        let text = made(&here, holder);
        assert!(token::is_token(&text), "{} bytes", text.len());
        assert_eq!(there.check(&text, holder, NOW), Ok(Good { made: NOW, is_ageing: false }));
    }
    assert!(here.make(Holder { user: &"u".repeat(129), ..alice() }, NOW).is_none());
}

#[test]
fn what_it_claims_can_be_read_by_anybody() {
    let text = made(&tokens(1), alice());
    assert_eq!(claim(&text), Some(Claim { user: "alice".into(), made: NOW, expires: NOW + LIFE }));
    for other in ["", "secret", &text[..text.len() - 1], &format!("{PREFIX}{}", "A".repeat(100))] {
        assert_eq!(claim(other), None, "{other}");
    }
}

#[test]
fn it_is_good_for_nobody_else() {
    let here = tokens(1);
    let (mine, nodes) = (made(&here, alice()), made(&here, agent(1)));
    let refused = |text: &str, holder| here.check(text, holder, NOW).expect_err("refused");
    assert_eq!(refused(&mine, Holder { user: "alicf", ..alice() }), TokenError::OtherUser);
    assert_eq!(refused(&mine, Holder { user: "", ..alice() }), TokenError::OtherUser);
    assert_eq!(refused(&mine, Holder { node: Some(node(1)), ..alice() }), TokenError::OtherNode);
    assert_eq!(refused(&nodes, agent(2)), TokenError::OtherNode);
    assert_eq!(refused(&nodes, Holder { node: None, ..agent(1) }), TokenError::OtherNode);
    assert_eq!(refused(&mine, Holder { phc: OTHER_PHC, ..alice() }), TokenError::Forged, "another password");
    assert_eq!(tokens(2).check(&mine, alice(), NOW), Err(TokenError::UnknownKey));
}

#[test]
fn it_has_its_time() {
    let here = tokens(1);
    let text = made(&here, alice());
    let at = |now: u64| here.check(&text, alice(), now);
    assert_eq!(at(NOW + LIFE / 2).map(|good| good.is_ageing), Ok(false), "half of it is left");
    assert_eq!(at(NOW + LIFE / 2 + 1).map(|good| good.is_ageing), Ok(true));
    assert_eq!(at(NOW + LIFE - 1).map(|good| good.made), Ok(NOW));
    assert_eq!(at(NOW + LIFE), Err(TokenError::Expired));
    assert_eq!(at(u64::MAX), Err(TokenError::Expired));
    // Clocks differ by some seconds; more is an error of somebody.
    assert_eq!(at(NOW - SKEW).map(|good| good.made), Ok(NOW));
    assert_eq!(at(NOW - SKEW - 1), Err(TokenError::NotYet));
    assert_eq!(at(0), Err(TokenError::NotYet));
    // What the clock says is never added up beyond its end.
    let last = here.make(alice(), u64::MAX).expect("on");
    assert_eq!(here.check(last.expose_secret(), alice(), u64::MAX), Err(TokenError::Expired));
}

#[test]
fn a_shorter_life_holds_for_tokens_that_are_out_there_and_none_at_all_ends_them() {
    let with = |seconds| Tokens::new(&ClusterKey::new([1; 32]), None, Duration::from_secs(seconds));
    let text = made(&with(LIFE), alice());
    assert_eq!(with(10).check(&text, alice(), NOW + 10), Err(TokenError::Expired));
    assert!(with(10).check(&text, alice(), NOW + 9).is_ok());
    assert_eq!(with(10 * LIFE).check(&text, alice(), NOW + LIFE), Err(TokenError::Expired), "what it was given");
    assert_eq!(with(0).check(&text, alice(), NOW), Err(TokenError::Off));
    assert!(with(0).make(alice(), NOW).is_none());
}

#[test]
fn after_a_change_of_the_cluster_key_the_previous_one_still_counts() {
    let (old, new) = (ClusterKey::new([1; 32]), ClusterKey::new([2; 32]));
    let life = Duration::from_secs(LIFE);
    let before = Tokens::new(&old, None, life);
    let between = Tokens::new(&new, Some(&old), life);
    let after = Tokens::new(&new, None, life);
    let (first, second) = (made(&before, alice()), made(&between, alice()));
    assert!(between.check(&first, alice(), NOW).is_ok() && between.check(&second, alice(), NOW).is_ok());
    assert!(after.check(&second, alice(), NOW).is_ok(), "new tokens are of the new key");
    assert_eq!(after.check(&first, alice(), NOW), Err(TokenError::UnknownKey));
    assert_eq!(before.check(&second, alice(), NOW), Err(TokenError::UnknownKey));
}

#[test]
fn debug_shows_no_key_and_no_token() {
    let here = tokens(0x61);
    let shown = format!("{here:?} {:?}", here.make(alice(), NOW));
    assert!(!shown.contains("97") && !shown.contains("61") && !shown.contains("mt1."), "{shown}");
}

#[test]
fn what_only_looks_like_a_token_is_refused() {
    let here = tokens(1);
    let body = "A".repeat(200);
    for text in
        ["", "mt1.", "password", &body, &format!("mt2.{body}"), &format!("mt1.{body}="), &format!("mt1.{body}A")]
    {
        assert_eq!(here.check(text, alice(), NOW), Err(TokenError::Malformed), "{text}");
    }
    assert_eq!(here.check(&format!("mt1.{body}"), alice(), NOW), Err(TokenError::UnknownKey));
    // Whoever could make proofs could still not make a token say more than it says.
    let key = &here.keys[0];
    let mut bytes = [&key.id[..], &NOW.to_be_bytes(), &(NOW + 9).to_be_bytes(), b"\0\x05alice!"].concat();
    let end = proof(key, &bytes, PHC).expect("a key").finalize().into_bytes();
    bytes.extend_from_slice(&end);
    let text = format!("mt1.{}", BASE64URL_NOPAD.encode(&bytes));
    assert_eq!(here.check(&text, alice(), NOW), Err(TokenError::Malformed));
}

proptest! {
    #[test]
    fn any_change_of_any_byte_is_refused(at in 0..10_000_usize, bit in 0..8_u32, of_node: bool) {
        let here = tokens(1);
        let holder = if of_node { agent(1) } else { alice() };
        let text = made(&here, holder);
        let mut bytes = BASE64URL_NOPAD.decode(&text.as_bytes()[PREFIX.len()..]).expect("base64");
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let changed = format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes));
        prop_assert!(here.check(&changed, holder, NOW).is_err());
        // Longer and shorter ones too.
        prop_assert!(here.check(&text[..text.len() - 1], holder, NOW).is_err());
        let longer = format!("{text}{}", &text[text.len() - 4..]);
        prop_assert!(here.check(&longer, holder, NOW).is_err());
    }

    #[test]
    fn any_change_of_any_character_is_refused(at in 0..10_000_usize, to in "[A-Za-z0-9_-]") {
        let here = tokens(1);
        let text = made(&here, alice());
        let at = PREFIX.len() + at % (text.len() - PREFIX.len());
        let changed = format!("{}{to}{}", &text[..at], &text[at + 1..]);
        prop_assume!(changed != text);
        prop_assert!(here.check(&changed, alice(), NOW).is_err());
    }

    #[test]
    fn no_text_makes_it_panic_or_pass(text in "mt1\\.[A-Za-z0-9_-]{0,508}|.{0,600}") {
        prop_assert!(tokens(1).check(&text, alice(), NOW).is_err());
    }

    #[test]
    fn it_is_good_for_exactly_who_it_was_made_for(user in "[a-c]{1,3}", other in "[a-c]{1,3}", one in 0..3_u8, two in 0..3_u8) {
        let here = tokens(1);
        let node = |n: u8| (n > 0).then(|| node(n));
        let text = made(&here, Holder { user: &user, node: node(one), phc: PHC });
        let shown = here.check(&text, Holder { user: &other, node: node(two), phc: PHC }, NOW);
        prop_assert_eq!(shown.is_ok(), user == other && one == two);
    }
}
