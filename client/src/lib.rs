//! How does an operator command nodes? The library, and the command line `muster` on top of it.
//!
//! [`client::Client`] is a logged-in connection, [`admin`] what admins ask over it; [`replies::Replies`] is the plain account of one request, [`summary::Summary`] that of a command; `cli` has one file a command.

pub mod admin;
pub mod cli;
pub mod client;
pub mod config;
pub mod connect;
pub mod events;
pub mod replies;
pub mod summary;
pub mod token;
pub mod without;

#[cfg(test)]
mod fake;
