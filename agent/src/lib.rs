//! What does an agent do? It publishes facts of its node, subscribes to requests and runs their actions.
//!
//! [`agent::run`] is the whole of it; the binary `muster-agent` reads a configuration and calls it.

mod classes;
pub mod config;
pub mod duplicates;
pub mod facts;
pub mod identity;
pub mod modules;
pub mod run;
pub mod status;
mod whole;
