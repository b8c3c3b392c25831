//! How do brokers find each other and pass messages on? Link state as arithmetic: who is there, who wants what, which way.

pub mod graph;
pub mod interest;
pub mod lanes;
pub mod routes;
pub mod seen;
pub mod summary;
pub mod topology;
mod weight;
