//! The broker of Muster. [`server::start`] puts it together; [`broker::Broker`] makes every decision.

pub mod api;
pub mod audit;
pub mod broker;
pub mod cluster_key;
pub mod config;
pub mod control;
pub mod gate;
pub mod hub;
pub mod init;
pub mod instance;
pub mod intake;
mod line;
pub mod links;
pub mod listener;
pub mod login;
pub mod metrics;
pub mod passwd;
pub mod policy;
pub mod server;
pub mod session;
pub mod token;
