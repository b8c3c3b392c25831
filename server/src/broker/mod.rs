//! Where are all decisions made? (the broker's parts)

pub mod nodes;
