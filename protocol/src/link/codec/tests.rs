//! Does every frame survive the wire, does nothing else get in, and does the wire stay as it is?

use super::*;
use crate::facts::Facts;
use crate::filter::{Document, Filter};
use crate::link::{Beat, Direct, Forward, Hello, Letter, Load, Word, strategies};
use crate::message::BrokerName;
use data_encoding::HEXLOWER;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const BODY: usize = 128 * 1024;

fn limits() -> Limits {
    Limits::after_hello(BODY)
}

fn name(text: &str) -> BrokerName {
    BrokerName::parse(text).unwrap()
}

fn ping(tick: u64) -> Head {
    Head::Ping(Beat { tick })
}

/// The bytes of a whole frame.
fn frame(head: &Head, body: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    let mut sending = Sending::new(head, Bytes::copy_from_slice(body)).unwrap();
    while sending.next_unit(&mut out) {}
    out
}

/// A unit by hand.
fn unit(head: &[u8], body_length: usize, piece: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u32(head.len() as u32);
    out.put_u32(body_length as u32);
    out.extend_from_slice(head);
    out.extend_from_slice(piece);
    out
}

/// A head by hand.
fn packed(value: &Value) -> Vec<u8> {
    rmp_serde::to_vec_named(value).unwrap()
}

fn decode(bytes: &[u8]) -> Result<Vec<(Head, Bytes)>, LinkError> {
    let (mut decoder, mut buffer, mut frames) = (Decoder::new(limits()), BytesMut::from(bytes), Vec::new());
    while let Some(frame) = decoder.decode(&mut buffer)? {
        frames.push(frame);
    }
    Ok(frames)
}

fn decode_one(head: &[u8]) -> Result<Head, LinkError> {
    decode(&unit(head, 0, b"")).map(|mut frames| frames.remove(0).0)
}

fn letter() -> Letter {
    Letter {
        caller: "ops".to_owned(),
        destination: "/topic/prod.a".to_owned(),
        headers: vec![("k".to_owned(), "v".to_owned())],
        target: Some("dc = a".to_owned()),
        nodes: None,
        reply_to: None,
        request: None,
        expires_within: Some(1000),
    }
}

fn forward() -> Head {
    Head::Forward(Forward {
        origin: name("a"),
        instance: 1,
        sequence: 2,
        epoch: 3,
        flood: false,
        hops: 0,
        to: [name("b"), name("c")].into(),
        load: Load::Message(letter()),
    })
}

/// Who changes these bytes breaks meshes of two versions: raise the version of the protocol first.
#[test]
fn the_wire_stays_as_it_is() {
    let hello = Head::Hello(Hello {
        cluster: "noc".to_owned(),
        name: name("a"),
        instance: 7,
        incarnation: 1 << 40,
        nonce: 3,
        oldest: 1,
        newest: 1,
        clock: 1_700_000_000_000,
        max_body: 1 << 20,
    });
    let golden_hello = "00000072000000008aa474797065a568656c6c6fa7636c7573746572a36e6f63a46e616d65a161a8696e7374616e636507ab\
        696e6361726e6174696f6ecf0000010000000000a56e6f6e636503a66f6c6465737401a66e657765737401a5636c6f636bcf\
        0000018bcfe56800a86d61785f626f6479ce00100000";
    let golden_forward = "000000ad0000000289a474797065a7666f7277617264a66f726967696ea161a8696e7374616e636501a873657175656e6365\
        02a565706f636803a5666c6f6f64c2a4686f707300a2746f92a162a163a46c6f616486a46c6f6164a76d657373616765a663\
        616c6c6572a36f7073ab64657374696e6174696f6ead2f746f7069632f70726f642e61a7686561646572739192a16ba176a6\
        746172676574a66463203d2061ae657870697265735f77697468696ecd03e86869";
    for (head, body, golden) in [(hello, "", golden_hello), (forward(), "hi", golden_forward)] {
        let bytes = frame(&head, body.as_bytes());
        assert_eq!(HEXLOWER.encode(&bytes), golden);
        assert_eq!(decode(&bytes).unwrap(), [(head, Bytes::from(body))]);
    }
}

#[test]
fn a_newer_version_is_understood_as_far_as_it_can_be() {
    let more = json!({"deep": [{"er": null}], "why": 1.5});
    let frames = [
        packed(&json!({"new": more, "type": "ping", "tick": 9, "also": [1, 2]})),
        packed(&json!({"type": "gossip", "tick": "no number", "about": more})),
        packed(&json!({"type": "forward", "origin": "a", "instance": 1, "sequence": 2, "epoch": 3, "to": ["b"],
            "load": {"load": "sing", "song": more}, "tone": "high"})),
        packed(&json!({"type": "direct", "from": "a", "instance": 1, "to": "b", "word": {"word": "psst", "x": more}})),
        packed(&json!({"type": "forward", "origin": "a", "instance": 1, "sequence": 2, "epoch": 3, "to": [],
            "load": {"load": "message", "caller": "u", "destination": "/topic/a", "new": more}})),
    ];
    let mut bytes = BytesMut::new();
    for (head, body) in frames.iter().zip(["", "whatever", "song", "", "text"]) {
        bytes.unsplit(unit(head, body.len(), body.as_bytes()));
    }
    let bare = Forward {
        origin: name("a"),
        instance: 1,
        sequence: 2,
        epoch: 3,
        flood: false,
        hops: 0,
        to: [name("b")].into(),
        load: Load::Unknown,
    };
    let letter = Letter {
        caller: "u".to_owned(),
        destination: "/topic/a".to_owned(),
        headers: Vec::new(),
        target: None,
        expires_within: None,
        ..letter()
    };
    let message = Forward { to: [].into(), load: Load::Message(letter), ..bare.clone() };
    let direct = Direct { from: name("a"), instance: 1, to: name("b"), hops: 0, word: Word::Unknown };
    let expected = [
        (ping(9), Bytes::new()),
        (Head::Unknown, Bytes::new()),
        (Head::Forward(bare), Bytes::from("song")),
        (Head::Direct(direct), Bytes::new()),
        (Head::Forward(message), Bytes::from("text")),
    ];
    assert_eq!(decode(&bytes).unwrap(), expected);
}

#[test]
fn what_json_cannot_say_may_stand_in_unknown_fields() {
    // {"type": "ping", "tick": 1, "x": a timestamp extension, "y": bytes, 5: "z"}
    let mut head = vec![0x85, 0xa4];
    head.extend(b"type\xa4ping\xa4tick\x01\xa1x\xd6\xff\0\0\0\x01\xa1y\xc4\x02\xff\xfe\x05\xa1z");
    assert_eq!(decode_one(&head), Ok(ping(1)));
}

#[test]
fn control_goes_between_the_pieces_of_a_body() {
    let body: Bytes = (0..3 * PIECE + 5).map(|i| i as u8).collect::<Vec<u8>>().into();
    let mut sending = Sending::new(&forward(), body.clone()).unwrap();
    let (mut bytes, mut units) = (BytesMut::new(), 0);
    while sending.next_unit(&mut bytes) {
        assert!(bytes.len() <= (units + 1) * (PIECE + 512), "a unit holds at most a piece");
        units += 1;
        encode(&ping(units as u64), &mut bytes).unwrap();
    }
    assert!(sending.is_done());
    assert_eq!(units, 4);
    // The body is whole before the fourth ping comes.
    let expected = [(ping(1), Bytes::new()), (ping(2), Bytes::new()), (ping(3), Bytes::new()), (forward(), body)];
    let frames = decode(&bytes).unwrap();
    assert_eq!(frames[..4], expected);
    assert_eq!(frames[4..], [(ping(4), Bytes::new())]);
}

#[test]
fn an_unknown_frame_s_body_is_read_and_dropped() {
    let body = vec![7; PIECE + 1];
    let mut bytes = frame(&Head::Unknown, &body);
    bytes.unsplit(frame(&ping(1), b""));
    assert_eq!(decode(&bytes).unwrap(), [(Head::Unknown, Bytes::new()), (ping(1), Bytes::new())]);
}

#[test]
fn lengths_are_refused_before_the_bytes_come() {
    let refused = |limits, bytes: &[u8]| Decoder::new(limits).decode(&mut BytesMut::from(bytes)).unwrap_err();
    let most = u32::MAX as usize;
    let prefix = |head: u32, body: u32| [head.to_be_bytes(), body.to_be_bytes()].concat();
    let before = Limits::BEFORE_HELLO;
    assert_eq!(refused(before, &prefix(4097, 0)), LinkError::HeadTooLong(4097, 4096));
    assert_eq!(refused(before, &prefix(4096, 1)), LinkError::BodyTooLong(1, 0));
    assert_eq!(refused(limits(), &prefix(u32::MAX, 0)), LinkError::HeadTooLong(most, MAX_HEAD));
    assert_eq!(refused(limits(), &prefix(10, u32::MAX)), LinkError::BodyTooLong(most, BODY));
    let mut decoder = Decoder::new(before);
    let bytes = frame(&forward(), b"body");
    decoder.set_limits(limits());
    assert!(decoder.decode(&mut bytes.clone()).unwrap().is_some(), "raised after HELLO");
}

#[test]
fn pieces_are_held_to_the_order() {
    let piece = |length: usize| unit(b"", length, &vec![0; length]);
    let begun = || unit(&packed(&json!({"type": "ping", "tick": 1})), PIECE + 10, &[0; PIECE]);
    let after = |bytes: BytesMut| {
        let mut all = begun();
        all.unsplit(bytes);
        decode(&all)
    };
    assert_eq!(decode(&piece(1)), Err(LinkError::PieceWithoutFrame));
    assert_eq!(decode(&piece(0)), Err(LinkError::PieceWithoutFrame));
    assert_eq!(after(piece(0)), Err(LinkError::PieceLength(0, 10)));
    assert_eq!(after(piece(11)), Err(LinkError::PieceLength(11, 10)));
    assert_eq!(after(begun()), Err(LinkError::SecondBody(10)));
    assert_eq!(after(piece(9)), Ok(vec![]));
    let frames = after([piece(9), piece(1)].concat()[..].into()).unwrap();
    assert_eq!(frames, [(ping(1), Bytes::from(vec![0; PIECE + 10]))], "pieces may be small");
}

#[test]
fn a_head_is_one_whole_map_and_an_error_stays() {
    let fine = packed(&json!({"type": "ping", "tick": 1}));
    assert_eq!(decode_one(&fine), Ok(ping(1)));
    for end in 1..fine.len() {
        assert_eq!(decode_one(&fine[..end]), Err(LinkError::Truncated), "{end}");
    }
    assert_eq!(decode_one(&[&fine[..], b"\xc0\xc0"].concat()), Err(LinkError::Trailing(2)));
    assert_eq!(decode_one(b"GET / HTTP/1.1"), Err(LinkError::NotAMap(b'G')));
    assert_eq!(decode_one(&packed(&json!(["ping", {"tick": 1}]))), Err(LinkError::NotAMap(0x92)));
    assert!(matches!(decode_one(b"\x81\xa1x\xc1"), Err(LinkError::Malformed(_))));
    for wrong in [json!({}), json!({"tick": 1}), json!({"type": "ping"}), json!({"type": "ping", "tick": "\u{7}no"})] {
        let error = decode_one(&packed(&wrong)).unwrap_err();
        assert!(matches!(&error, LinkError::Malformed(text) if !text.chars().any(char::is_control)), "{error}");
    }
    let mut decoder = Decoder::new(limits());
    let error = decoder.decode(&mut unit(b"", 1, b"x")).unwrap_err();
    assert_eq!(decoder.decode(&mut frame(&ping(1), b"")), Err(error));
}

#[test]
fn announced_lengths_take_no_memory() {
    let begin = [&b"\x82\xa4type\xa7summary\xa5paths"[..], b"\x81\xa1a\x81\xa6values"].concat();
    // A list, a map, a text and bytes, each of 4 billion.
    for marker in [0xdd, 0xdf, 0xdb, 0xc6, 0xc9] {
        let head = [&begin[..], &[marker, 0xff, 0xff, 0xff, 0xff]].concat();
        assert_eq!(decode_one(&head), Err(LinkError::Truncated), "{marker:#x}");
    }
    // Many lists within each other, each of which alone might be true.
    let mut head = begin;
    for _ in 0..50 {
        head.extend([0xdc, 0, 200]);
    }
    head.extend([0xc0; 300]);
    assert_eq!(decode_one(&head), Err(LinkError::Truncated));
}

#[test]
fn nesting_has_an_end() {
    let nested = |depth: usize, map: bool| {
        let mut head = b"\x82\xa4type\xa4ping\xa4tick".to_vec();
        let level: &[u8] = if map { b"\x81\xa1x" } else { b"\x91" };
        head.extend(level.repeat(depth));
        head.push(0xc0);
        head
    };
    for map in [false, true] {
        assert_eq!(decode_one(&nested(10_000, map)), Err(LinkError::TooDeep));
        assert_eq!(decode_one(&nested(MAX_DEPTH, map)), Err(LinkError::TooDeep));
        assert!(matches!(decode_one(&nested(MAX_DEPTH - 1, map)), Err(LinkError::Malformed(_))), "the stack bears it");
    }
}

#[test]
fn the_deepest_that_brokers_say_passes() {
    let filter = format!("{}a=1{}", "(b=1 or c=1 and ".repeat(64), ")".repeat(64));
    let filter = Filter::parse(&filter).unwrap();
    let mut facts = json!("x");
    for _ in 1..crate::facts::MAX_DEPTH {
        facts = json!({ "a": facts });
    }
    let facts = Facts::from_value(facts).unwrap();
    let explanation = filter.explain(&Document::new(facts.as_value(), &BTreeSet::new()));
    let answer = json!({"id": "n-aaaaaaaaaaaaaaaaaaaa", "state": "connected", "collective": "c", "since": 1,
        "facts": facts.as_value(), "classes": [], "modules": {}, "explanation": explanation});
    let answer = serde_json::from_value(answer).unwrap();
    let word = Word::Answer(crate::link::Answer { serial: 1, said: crate::link::Said::Node(Box::new(answer)) });
    let head = Head::Direct(Direct { from: name("a"), instance: 1, to: name("b"), hops: 0, word });
    assert_eq!(decode(&frame(&head, b"")).unwrap(), [(head, Bytes::new())]);
}

#[test]
fn what_is_too_long_is_not_sent() {
    let mut out = BytesMut::from("before");
    let head = Head::Refused(crate::link::Refused { code: "x".to_owned(), text: "x".repeat(MAX_HEAD) });
    assert!(matches!(encode(&head, &mut out), Err(LinkError::HeadTooLong(_, MAX_HEAD))));
    assert_eq!(out, "before");
    assert!(Sending::new(&head, Bytes::new()).is_err());
}

/// Feeds a decoder as a socket would, in parts of these sizes.
fn decode_in_parts(bytes: &[u8], sizes: &[usize]) -> Result<Vec<(Head, Bytes)>, LinkError> {
    let (mut decoder, mut buffer, mut frames) = (Decoder::new(limits()), BytesMut::new(), Vec::new());
    let (mut rest, mut sizes) = (bytes, sizes.iter().cycle());
    while !rest.is_empty() {
        let (part, after) = rest.split_at((*sizes.next().unwrap_or(&1)).clamp(1, rest.len()));
        rest = after;
        buffer.extend_from_slice(part);
        while let Some((head, body)) = decoder.decode(&mut buffer)? {
            assert!(body.len() <= BODY);
            frames.push((head, body));
        }
        let open = decoder.open.as_ref();
        assert!(open.is_none_or(|open| open.body.capacity() <= 2 * open.body.len()), "memory for what came");
    }
    Ok(frames)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_frames_survive_however_they_are_cut(
        frames in prop::collection::vec((strategies::head(), prop_oneof![0usize..50, 0..3 * PIECE], any::<u8>()), 1..5),
        between in prop::collection::vec(strategies::head(), 0..4),
        sizes in prop::collection::vec(prop_oneof![1usize..64, 1usize..40_000], 1..8),
    ) {
        let (mut bytes, mut expected) = (BytesMut::new(), Vec::new());
        for (head, length, byte) in frames {
            let body = Bytes::from(vec![byte; length]);
            let mut sending = Sending::new(&head, body.clone()).unwrap();
            let mut between = between.iter();
            while sending.next_unit(&mut bytes) {
                if let Some(control) = between.next().filter(|_| !sending.is_done()) {
                    encode(control, &mut bytes).unwrap();
                    expected.push((control.clone(), Bytes::new()));
                }
            }
            let body = if head == Head::Unknown { Bytes::new() } else { body };
            expected.push((head, body));
        }
        prop_assert_eq!(decode_in_parts(&bytes, &sizes).unwrap(), expected);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), sizes in prop::collection::vec(1usize..40, 1..4)) {
        let _ = decode_in_parts(&bytes, &sizes);
        // The same as the head of a frame, and as a map's members.
        let _ = decode_in_parts(&unit(&bytes, 0, b""), &sizes);
        let head = [&b"\x8f\xa4type\xa7summary"[..], &bytes].concat();
        let _ = decode_in_parts(&unit(&head, 0, b""), &sizes);
    }

    #[test]
    fn damaged_frames_never_panic(
        head in strategies::head(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..6),
    ) {
        let mut bytes = frame(&head, b"body").to_vec();
        for (at, byte, how) in damage {
            // The first bytes are lengths, which others test; what is damaged is the map.
            let at = 8 + at.index(bytes.len() - 8);
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => { bytes.remove(at); }
            }
            if bytes.len() <= 12 {
                break;
            }
        }
        let length = (bytes.len() - 12) as u32;
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        let _ = decode_in_parts(&bytes, &[7, 1000]);
    }

    #[test]
    fn ages_add_up(head in strategies::head(), a in 0u64..1 << 40, b in 0u64..1 << 40) {
        let (twice, once) = (head.aged(a).aged(b).into_owned(), head.aged(a + b).into_owned());
        prop_assert_eq!(twice, once);
    }
}
