//! Muster: tests.
