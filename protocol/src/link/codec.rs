//! How do link frames become bytes? Length-prefixed, bodies in pieces, so that a control frame never waits for a long body.
