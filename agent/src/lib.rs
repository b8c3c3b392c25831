//! Muster: agent.
