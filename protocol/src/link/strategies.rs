//! What may any frame look like? Strategies for property tests, every type and every field.

use super::*;
use crate::message::NodeKey;
use crate::policy::{Change, DiffAnswer, Generation, How, Made, RightChange, Seal, Stamp, Took};
use crate::request::{FoundNode, GoneNode, Missing, ValueCount, Why};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

pub(super) fn head() -> impl Strategy<Value = Head> {
    prop_oneof![
        hello().prop_map(Head::Hello),
        refused().prop_map(Head::Refused),
        any::<u64>().prop_map(|tick| Head::Ping(Beat { tick })),
        any::<u64>().prop_map(|tick| Head::Alive(Beat { tick })),
        btree_map(broker(), have(), 0..4).prop_map(|have| Head::Digest(Digest { have })),
        (broker(), prop::sample::select(vec![Record::LinkState, Record::Interest, Record::Summary]))
            .prop_map(|(origin, what)| Head::Want(Want { origin, what })),
        link_state().prop_map(Head::LinkState),
        interest().prop_map(Head::Interest),
        summary().prop_map(Head::Summary),
        policy_state().prop_map(Head::Policy),
        (text(), any::<(u64, u64)>()).prop_map(|(sha256, (from, bytes))| Head::WantPolicy(WantPolicy {
            sha256,
            from,
            bytes
        })),
        (seal(), any::<u64>()).prop_map(|(seal, from)| Head::PolicyPart(Box::new(PolicyPart { seal, from }))),
        forward().prop_map(Head::Forward),
        direct().prop_map(Head::Direct),
        Just(Head::Unknown),
    ]
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,12}"
}

fn broker() -> impl Strategy<Value = BrokerName> {
    "[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?".prop_map(|name| BrokerName::parse(&name).unwrap())
}

fn node() -> impl Strategy<Value = NodeId> {
    any::<u8>().prop_map(|byte| NodeId::of(&NodeKey::new([byte; 32])))
}

/// No null: an optional value that is null is one that is not there.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter_map("finite", |float| serde_json::Number::from_f64(float).map(Value::Number)),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(prop_oneof![inner.clone(), Just(Value::Null)], 0..3).prop_map(Value::from),
            btree_map(text(), inner, 0..3).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn map() -> impl Strategy<Value = Map<String, Value>> {
    btree_map(text(), value(), 0..3).prop_map(|members| members.into_iter().collect())
}

fn state() -> impl Strategy<Value = State> {
    prop::sample::select(State::ALL)
}

fn hello() -> impl Strategy<Value = Hello> {
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
    (text(), broker(), numbers, any::<(u16, u16)>()).prop_map(
        |(cluster, name, (instance, incarnation, nonce, clock, max_body), (oldest, newest))| Hello {
            cluster,
            name,
            instance,
            incarnation,
            nonce,
            oldest,
            newest,
            clock,
            max_body,
        },
    )
}

fn refused() -> impl Strategy<Value = Refused> {
    (text(), text()).prop_map(|(code, text)| Refused { code, text })
}

fn have() -> impl Strategy<Value = Have> {
    any::<([(u64, u64); 3], u64)>().prop_map(|([link_state, interest, summary], incarnation)| Have {
        link_state,
        incarnation,
        interest,
        summary,
    })
}

fn link_state() -> impl Strategy<Value = LinkState> {
    let neighbour = (1..=MAX_COST, option::of(vec(text(), 0..3))).prop_map(|(cost, send)| Neighbour { cost, send });
    (broker(), any::<[u64; 4]>(), any::<bool>(), btree_map(broker(), neighbour, 0..4)).prop_map(
        |(origin, [instance, sequence, incarnation, born], draining, neighbours)| LinkState {
            origin,
            instance,
            sequence,
            incarnation,
            born,
            draining,
            neighbours,
        },
    )
}

fn interest() -> impl Strategy<Value = Interest> {
    let texts = || btree_set(text(), 0..4);
    (broker(), any::<(u64, u64, Option<u64>)>(), texts(), texts()).prop_map(
        |(origin, (instance, sequence, base), add, remove)| Interest { origin, instance, sequence, base, add, remove },
    )
}

fn summary() -> impl Strategy<Value = Summary> {
    let words = || option::of(prop_oneof![btree_set(text(), 0..4).prop_map(Words::These), Just(Words::Many)]);
    let known = (option::of(vec(value(), 0..3)), option::of(value()), option::of(value()), any::<[bool; 3]>())
        .prop_map(|(values, minimum, maximum, [texts, lacking, bare])| PathSummary {
            values,
            minimum,
            maximum,
            texts,
            lacking,
            bare,
        });
    let paths = btree_map(text(), option::of(known), 0..4);
    let numbers = any::<(u64, u64, Option<u64>, u64, bool, bool)>();
    (broker(), numbers, paths, words(), words()).prop_map(
        |(origin, (instance, sequence, base, nodes, restless, others), paths, classes, modules)| Summary {
            origin,
            instance,
            sequence,
            base,
            nodes,
            restless,
            paths,
            others,
            classes,
            modules,
        },
    )
}

fn stamp() -> impl Strategy<Value = Stamp> {
    (broker(), text(), any::<[u64; 3]>()).prop_map(|(authority, sha256, [term, number, bytes])| Stamp {
        generation: Generation { term, number },
        authority,
        sha256,
        bytes,
    })
}

fn policy_state() -> impl Strategy<Value = PolicyState> {
    (option::of(stamp()), btree_set(broker(), 0..3)).prop_map(|(stamp, rivals)| PolicyState { stamp, rivals })
}

fn seal() -> impl Strategy<Value = Seal> {
    let made = (text(), text(), any::<u64>(), text(), text()).prop_map(|(by, via, at, what, reason)| Made {
        by,
        via,
        at,
        what,
        reason,
    });
    let took = stamp().prop_map(|stamp| Took {
        generation: stamp.generation,
        authority: stamp.authority,
        sha256: stamp.sha256,
    });
    (text(), stamp(), made, vec(took, 0..3), text(), text()).prop_map(
        |(cluster, stamp, made, lineage, certificate, signature)| Seal {
            cluster,
            stamp,
            made,
            lineage,
            certificate,
            signature,
        },
    )
}

fn letter() -> impl Strategy<Value = Letter> {
    let optional = || option::of(text());
    let ends = (text(), text(), vec((text(), text()), 0..3));
    (ends, optional(), option::of(vec(node(), 0..3)), optional(), optional(), any::<Option<u64>>()).prop_map(
        |((caller, destination, headers), target, nodes, reply_to, request, expires_within)| Letter {
            caller,
            destination,
            headers,
            target,
            nodes,
            reply_to,
            request,
            expires_within,
        },
    )
}

fn announce() -> impl Strategy<Value = Announce> {
    let before = (value(), any::<bool>()).prop_map(|(facts, labels)| Before { facts, labels });
    (node(), text(), text(), option::of(text()), value(), btree_set(text(), 0..3), option::of(before)).prop_map(
        |(node, event, destination, reason, facts, classes, before)| Announce {
            event,
            node,
            destination,
            reason,
            facts: Arc::new(facts),
            classes,
            before,
        },
    )
}

fn forward() -> impl Strategy<Value = Forward> {
    let serial = || any::<u64>().prop_map(|serial| Serial { serial });
    let prepare = (letter(), any::<[u64; 3]>(), any::<[bool; 2]>()).prop_map(
        |(letter, [serial, start_within, reply_within], [dry_run, hold])| Prepare {
            serial,
            letter,
            start_within,
            reply_within,
            dry_run,
            hold,
        },
    );
    let load = prop_oneof![
        letter().prop_map(Load::Message),
        prepare.prop_map(Load::Prepare),
        serial().prop_map(Load::Commit),
        serial().prop_map(Load::Abort),
        serial().prop_map(Load::Cancel),
        announce().prop_map(|announce| Load::Announce(Box::new(announce))),
        (any::<u64>(), text(), any::<u64>()).prop_map(|(n, hash, at)| Load::AuditHead(AuditHead { n, hash, at })),
        Just(Load::Unknown),
    ];
    (broker(), any::<([u64; 3], bool, u8)>(), vec(broker(), 0..4), load).prop_map(
        |(origin, ([instance, sequence, epoch], flood, hops), to, load)| Forward {
            origin,
            instance,
            sequence,
            epoch,
            flood,
            hops,
            to: to.into(),
            load,
        },
    )
}

fn direct() -> impl Strategy<Value = Direct> {
    (broker(), broker(), any::<(u64, u8)>(), word()).prop_map(|(from, to, (instance, hops), word)| Direct {
        from,
        instance,
        to,
        hops,
        word,
    })
}

fn key() -> impl Strategy<Value = RequestKey> {
    (broker(), any::<(u64, u64)>()).prop_map(|(broker, (instance, serial))| RequestKey { broker, instance, serial })
}

fn word() -> impl Strategy<Value = Word> {
    prop_oneof![
        (key(), any::<u64>(), happened()).prop_map(|(key, number, event)| Word::Report(Report { key, number, event })),
        (key(), any::<u64>()).prop_map(|(key, upto)| Word::Heard(Heard { key, upto })),
        key().prop_map(Word::Forgotten),
        (any::<u64>(), letter(), ask()).prop_map(|(serial, letter, ask)| Word::Query(Query { serial, letter, ask })),
        (any::<u64>(), said()).prop_map(|(serial, said)| Word::Answer(Answer { serial, said })),
        (letter(), any::<u64>()).prop_map(|(letter, session)| Word::Reply(ReplyLetter { letter, session })),
        (text(), any::<u64>()).prop_map(|(queue, session)| Word::Gone(Gone { queue, session })),
        (vec((node(), any::<u64>()), 0..3), any::<u64>())
            .prop_map(|(nodes, upto)| Word::Present(Present { nodes, upto })),
        any::<u64>().prop_map(|upto| Word::Noted(Noted { upto })),
        Just(Word::Unknown),
    ]
}

fn happened() -> impl Strategy<Value = Happened> {
    let target = (node(), any::<u64>(), map()).prop_map(|(id, number, display)| Target { id, number, display });
    prop_oneof![
        (any::<u64>(), vec(target, 0..3)).prop_map(|(count, nodes)| Happened::Accepted { count, nodes }),
        node().prop_map(|node| Happened::Started { node }),
        (node(), state(), map()).prop_map(|(node, state, display)| Happened::Reply { node, state, display }),
        (state(), vec(node(), 0..3), text()).prop_map(|(state, nodes, reason)| Happened::Ended {
            state,
            nodes,
            reason
        }),
        (text(), text()).prop_map(|(code, text)| Happened::Refused { code, text }),
    ]
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        (vec(text(), 0..3), any::<u64>(), option::of(node()), option::of(text()))
            .prop_map(|(facts, limit, after, module)| Ask::Find { facts, limit, after, module }),
        (text(), any::<u64>()).prop_map(|(fact, limit)| Ask::Report { fact, limit }),
        (node(), option::of(text())).prop_map(|(node, explain)| Ask::Node { node, explain }),
        (text(), text()).prop_map(|(user, destination)| Ask::Reach { user, destination }),
        Just(Ask::Edit),
        Just(Ask::Unknown),
    ]
}

fn missing() -> impl Strategy<Value = Missing> {
    (text(), prop::sample::select(Why::ALL), text(), any::<Option<u64>>())
        .prop_map(|(broker, why, text, nodes)| Missing { broker, why, text, nodes })
}

fn said() -> impl Strategy<Value = Said> {
    let found = (node(), map(), map(), any::<u64>()).prop_map(|(id, display, facts, since)| FoundNode {
        id,
        display,
        facts,
        since,
    });
    let gone = (node(), map(), text(), any::<(u64, u64)>()).prop_map(|(id, display, reason, (at, since))| GoneNode {
        id,
        display,
        reason,
        at,
        since,
    });
    let without = || vec(missing(), 0..2);
    let find = (any::<(u64, u64)>(), vec(found, 0..3), option::of(text()), vec(gone, 0..2), without()).prop_map(
        |((count, registering), nodes, next, gone, without)| FindAnswer {
            count,
            nodes,
            next,
            registering,
            gone,
            without,
        },
    );
    let counted = (value(), any::<u64>()).prop_map(|(value, count)| ValueCount { value, count });
    let report = (any::<[u64; 3]>(), vec(counted, 0..3), without())
        .prop_map(|([count, missing, more], values, without)| ReportAnswer { count, values, missing, more, without });
    let change =
        (text(), text(), prop::sample::select(vec![How::Added, How::Removed, How::Changed]), vec(text(), 0..3))
            .prop_map(|(what, name, how, details)| Change { what, name, how, details });
    let right = (text(), any::<bool>(), text(), text()).prop_map(|(user, granted, right, pattern)| RightChange {
        user,
        granted,
        right,
        pattern,
    });
    let edited = (option::of(any::<(u64, u64)>()), vec(change, 0..2), vec(right, 0..2), any::<(u64, bool)>()).prop_map(
        |(generation, changes, rights, (more, dry_run))| EditAnswer {
            generation: generation.map(|(term, number)| Generation { term, number }),
            changes: DiffAnswer { changes, rights, more },
            dry_run,
        },
    );
    prop_oneof![
        any::<u64>().prop_map(|nodes| Said::Reach(Reached { nodes })),
        edited.prop_map(Said::Edit),
        find.prop_map(Said::Find),
        report.prop_map(Said::Report),
        node_answer().prop_map(|answer| Said::Node(Box::new(answer))),
        refused().prop_map(Said::Refused),
    ]
}

fn node_answer() -> impl Strategy<Value = NodeAnswer> {
    let gone = (any::<u64>(), text()).prop_map(|(at, reason)| crate::request::Gone { at, reason });
    let texts = (text(), text(), text());
    let lists = (vec(text(), 0..3), vec(text(), 0..3), btree_map(text(), text(), 0..3));
    (node(), texts, any::<u64>(), option::of(gone), map(), lists, map(), option::of(value())).prop_map(
        |(id, (state, collective, broker), since, gone, facts, (asserted, classes, modules), display, explanation)| {
            NodeAnswer {
                id,
                state,
                collective,
                since,
                gone,
                facts: facts.into(),
                asserted,
                classes,
                modules,
                display,
                explanation,
                broker,
            }
        },
    )
}
