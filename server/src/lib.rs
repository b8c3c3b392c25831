//! Muster: server.
