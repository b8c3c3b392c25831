//! Muster: client.
