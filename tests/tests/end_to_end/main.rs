//! Does it hold together from end to end? Real processes, real TLS, one binary, a module for each side.

/// The real command line edits the policy of a real broker.
mod admin_edit;
/// Real agents: registration, modules, duplicates, reconnecting.
mod agent;
/// The HTTP API: what programs see and do, with the rights of their users.
mod api;
/// The HTTP API for admins: the policy edited, sessions closed, what is on record, metrics.
mod api_admin;
/// The HTTP API: what must not harm it, and from where it is not to be called.
mod api_h2;
mod api_hostile;
/// The audit log: what is on record, what is not, and whether it shows that it was touched.
mod audit;
/// The audit log over the network: who sees what of it, as text, within bounds.
mod audit_network;
/// Files that must not be taken: unknown settings, exposed secrets, expired certificates, corrupt keys.
mod bad_files;
/// What must not harm a broker: frames, handshakes, logins, headers, filters, facts. Each ERROR must arrive before the close.
mod bad_input;
/// The real command line: exit codes, JSON, passwords.
mod cli;
/// Client certificates beside the password: who gets in, who does not, and who does not any more.
mod client_certificates;
/// What the registry believes: documents, deltas, asserted facts, nodes that register or are gone.
mod facts;
/// Limits of groups: sessions, requests, targets.
mod limits;
/// Who gets in, who is told to wait, which of two sessions of a node lives.
mod login;
/// The mesh: every message and request over whatever shape, exactly once.
mod mesh;
/// The mesh: brokers killed, stopped, paused and restarted, links that flap under load.
mod mesh_faults;
/// The mesh: what must not harm it, at the port for links.
mod mesh_links;
/// The mesh: edits of the policy, who makes them, and that they hold everywhere.
mod mesh_policy;
/// The mesh: guards, cancel, paging, reply queues, scopes and sessions over several brokers.
mod mesh_requests;
/// Numbers for Prometheus: exact counts, a valid page, and samples that ask for what there is.
mod metrics;
/// What admins see of sessions, and what becomes of those that they close.
mod oversight;
/// What a reloaded policy ends, and what scopes and hidden facts keep from whom.
mod policy;
/// What the command line says about policies: explain, diff, lint.
mod policy_advice;
/// policy.toml: edits by hand while the broker runs and while it does not, what is set aside, a full disk, tampering.
mod policy_file;
/// The broker as a process: stopping, secrets in logs and files, `ctl`.
mod process;
/// The life of a request, with nodes that answer exactly what the test says.
mod requests;
/// More who come at once than may log in: everybody gets in, and an operator is answered.
mod storm;
/// Resumption tokens: what stands for a password at the next login, for whom, where, and until when.
mod token;
