//! What travels between brokers, agents and operators: words and codecs.
//!
//! Everything here is plain (bytes in, values out) but for three files that do I/O: [`tls`], [`dial`] and [`session`].

pub mod admin;
pub mod destination;
pub mod dial;
pub mod error;
pub mod facts;
pub mod filter;
pub mod frame;
pub mod link;
pub mod manifest;
pub mod message;
#[cfg(feature = "openapi")]
mod openapi;
pub mod passwd;
pub mod policy;
pub mod request;
pub mod session;
pub mod tls;
pub mod token;
