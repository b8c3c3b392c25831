//! How are real processes put on trial? Brokers, agents and command lines in temporary folders, and raw sockets against them.
//!
//! A test starts what it needs ([`Broker`], [`Node`], [`Agent`], [`Muster`]), waits with [`until`] for what it names, and never
//! for a time. Everything ends when its value is dropped; a failing test shows the logs of its processes.

pub mod account;
pub mod agent;
pub mod broker;
pub mod client_ca;
pub mod cluster;
pub mod crew;
pub mod exposition;
pub mod http;
pub mod link;
pub mod made;
pub mod muster;
pub mod node;
pub mod policy;
pub mod process;
pub mod stomp;

pub use account::Account;
pub use agent::Agent;
pub use broker::{Broker, Setup};
pub use client_ca::{ClientCa, Leaf};
pub use cluster::{Cluster, Plan};
pub use crew::{Crew, Listener};
pub use http::Http;
pub use muster::Muster;
pub use node::Node;
pub use stomp::{Refused, Stomp, request};

use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything takes that is right, on a machine that is busy with other tests.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Looks again and again until `condition` gives a value; panics with `what` when [`LIMIT`] is over.
pub fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    until_within(what, LIMIT, condition)
}

/// As [`until`], with another limit.
pub fn until_within<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        // Between two looks, not instead of one.
        thread::park_timeout(Duration::from_millis(10));
    }
}
