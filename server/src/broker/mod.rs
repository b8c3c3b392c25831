//! Every decision of the broker, as a plain value.

pub mod access;
