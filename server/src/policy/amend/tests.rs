//! Does an edit change what it names, and nothing else?

use super::*;

const SAMPLE: &str = include_str!("../../../../conf/policy.toml");

fn edit(json: serde_json::Value) -> Edit {
    serde_json::from_value(json).unwrap()
}

fn amended_text(text: &str, json: serde_json::Value) -> String {
    amend(text, &edit(json)).unwrap()
}

#[test]
fn smoke() {
    use serde_json::json;
    let mut text = SAMPLE.to_owned();
    for step in [
        json!({"edit": "user-add", "name": "bob.x", "kind": "operator", "password": "$argon2id$v=19$m=19456,t=2,p=1$cmVwbGFjZSB0aGlzIHNhbHQ$Lt8jyGVDOSDdlkBfqgwJZ4xsnDEQ+Xwz/gkb1+EE7Lg", "groups": ["noc"], "expires": "2027-01-31"}),
        json!({"edit": "user-set", "name": "alice", "groups": ["noc", "admin"], "disabled": true}),
        json!({"edit": "user-set", "name": "carol", "groups": ["noc"], "unset": ["expires", "revoked-before"]}),
        json!({"edit": "user-set", "name": "node-a-acme", "facts": {"datacenter": "b"}}),
        json!({"edit": "user-remove", "name": "cmdb"}),
        json!({"edit": "group-add", "name": "night", "scope": "customer = \"a b\"", "limits": {"max-targets": 5}}),
        json!({"edit": "group-remove", "name": "noc-acme"}),
        json!({"edit": "acl-add", "destination": "/topic/prod.x.*", "write": ["night"]}),
        json!({"edit": "acl-add", "destination": "/muster/mesh", "read": ["night"], "write": ["night"]}),
        json!({"edit": "acl-remove", "destination": "/muster/cancel"}),
        json!({"edit": "hidden-add", "pattern": "foo.**"}),
        json!({"edit": "hidden-remove", "pattern": "fqdn"}),
        json!({"edit": "broker-set", "name": "dc2", "stomp": ["dc2.example.net"]}),
        json!({"edit": "collective-add", "name": "test"}),
    ] {
        println!("{step}");
        text = amended_text(&text, step);
        Policy::parse(&text).unwrap();
    }
    text = with_authority(&text, &BrokerName::parse("noc1").unwrap()).unwrap();
}
