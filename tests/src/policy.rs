//! Who may do what in these tests? One policy of two customers, and a way to write variants of it.

/// The password of every user of the test policy.
pub const PASSWORD: &str = "correct-horse-battery-staple-7";

/// The policy of most tests; `{phc}` stands for the hash of [`PASSWORD`].
///
/// - `noc` may do everything, but does not see hidden facts; `peek` sees them too.
/// - `acme` has the scope `customer=acmeinc`; `viewer` may only look; `nobody` may do nothing.
/// - `node-acme` and `node-beta` are agents of customers acmeinc and beta; `node-bare` has no asserted facts.
/// - `gone` is disabled, `late` has expired, `elsewhere` may only come from another network.
pub const POLICY: &str = r#"
asserted = ["customer", "datacenter"]
display = ["os.family", "customer", "hostname"]

[[collective]]
name = "prod"

[[collective]]
name = "mcollective"
targeted = false

[users.noc]
kind = "operator"
password = "{phc}"
groups = ["noc"]

[users.peek]
kind = "operator"
password = "{phc}"
groups = ["noc", "peek"]

[users.acme]
kind = "operator"
password = "{phc}"
groups = ["noc-acme"]

[users.viewer]
kind = "operator"
password = "{phc}"
groups = ["viewers"]

[users.nobody]
kind = "operator"
password = "{phc}"

[users.cmdb]
kind = "service"
password = "{phc}"
groups = ["viewers"]

[users.gone]
kind = "operator"
password = "{phc}"
disabled = true
groups = ["noc"]

[users.late]
kind = "operator"
password = "{phc}"
expires = 2020-01-01
groups = ["noc"]

[users.elsewhere]
kind = "operator"
password = "{phc}"
networks = ["192.0.2.0/24"]
groups = ["noc"]

[users.node-acme]
kind = "agent"
password = "{phc}"
groups = ["agents"]
facts = { customer = "acmeinc", datacenter = "a" }

[users.node-beta]
kind = "agent"
password = "{phc}"
groups = ["agents"]
facts = { customer = "beta", datacenter = "b" }

[users.node-bare]
kind = "agent"
password = "{phc}"
groups = ["agents"]

[groups.noc]
all = true

[groups.peek]
shows = ["**"]

[groups.noc-acme]
scope = "customer=acmeinc"

[groups.viewers]

[groups.agents]

[[acl]]
destination = "/topic/prod.>"
read = ["noc"]
write = ["noc", "noc-acme"]

[[acl]]
destination = "/topic/mcollective.>"
read = ["noc", "agents"]
write = ["noc"]

[[acl]]
destination = "/topic/open.>"
read = ["noc", "viewers"]
write = ["noc", "viewers", "noc-acme"]

[[acl]]
destination = "/topic/prod.*.*"
read = ["agents"]

[[acl]]
destination = "/topic/prod.registration"
read = ["noc-acme", "viewers"]

[[acl]]
destination = "/topic/prod.*.status"
write = ["viewers"]

[[acl]]
destination = "/muster/find"
write = ["noc", "noc-acme", "viewers"]

[[acl]]
destination = "/muster/report"
write = ["noc", "noc-acme", "viewers"]

[[acl]]
destination = "/muster/node"
write = ["noc", "noc-acme", "viewers"]

[[acl]]
destination = "/muster/mesh"
write = ["noc"]

[[acl]]
destination = "/muster/cancel"
write = ["noc", "noc-acme", "viewers"]

[[acl]]
destination = "/muster/admin.>"
write = ["noc"]

[[acl]]
destination = "/muster/facts"
write = ["agents"]
"#;

/// [`POLICY`] without the table of a user.
pub fn without_user(user: &str) -> String {
    let head = format!("[users.{user}]\n");
    let start = POLICY.find(&head).unwrap_or_else(|| panic!("no user {user}"));
    let rest = &POLICY[start + 1..];
    let end = rest.find("\n[").map_or(POLICY.len(), |at| start + 1 + at + 1);
    format!("{}{}", &POLICY[..start], &POLICY[end..])
}

/// [`POLICY`] with one text in place of another, which must stand there.
pub fn with(old: &str, new: &str) -> String {
    assert!(POLICY.contains(old), "the policy has no {old:?}");
    POLICY.replacen(old, new, 1)
}
