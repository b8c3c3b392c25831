//! What does an agent do? It publishes facts of its node, subscribes to requests and runs their actions.
//!
//! [`agent::run`] is the whole of it; the binary `muster-agent` reads a configuration and calls it.

pub mod agent;
mod answer;
mod classes;
pub mod config;
pub mod duplicates;
pub mod facts;
pub mod identity;
pub mod modules;
mod publish;
mod requests;
pub mod run;
pub mod status;
mod token;
mod whole;
