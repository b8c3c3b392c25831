//! x
pub mod broker;
pub mod hub;
pub mod intake;
