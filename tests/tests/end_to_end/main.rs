//! Does it hold together from end to end? Real processes, real TLS, one binary, a module for each side.

/// Real agents: registration, modules, duplicates, reconnecting.
mod agent;
/// Files that must not be taken: unknown settings, exposed secrets, expired certificates, corrupt keys.
mod bad_files;
/// What must not harm a broker: frames, handshakes, logins, headers, filters, facts. Each ERROR must arrive before the close.
mod bad_input;
/// The real command line: exit codes, JSON, passwords.
mod cli;
/// What the registry believes: documents, deltas, asserted facts, nodes that register or are gone.
mod facts;
/// Who gets in, who is told to wait, which of two sessions of a node lives.
mod login;
/// What a reloaded policy ends, and what scopes and hidden facts keep from whom.
mod policy;
/// The broker as a process: stopping, secrets in logs and files, `ctl`.
mod process;
/// The life of a request, with nodes that answer exactly what the test says.
mod requests;
