//! The broker: its modules.

pub mod broker;
