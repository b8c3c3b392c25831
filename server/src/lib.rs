//! The broker: `musterd`. One plain value decides ([`broker`]); everything else turns bytes into events and outboxes into bytes.

pub mod broker;
pub mod config;
pub mod control;
pub mod hub;
pub mod init;
pub mod intake;
pub mod listener;
pub mod login;
pub mod passwd;
pub mod policy;
pub mod server;
pub mod session;
