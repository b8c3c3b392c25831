//! Muster: server.

pub mod broker;
