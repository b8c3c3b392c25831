//! Which nodes are connected here, and which of them does a filter mean?

mod column;
mod index;
mod matching;
mod registry;
mod rows;

pub use index::{Described, Index, Report};
pub use registry::{Departed, Generation, Memory, Node, Nodes, Whole, shown};
pub use rows::Row;

#[cfg(test)]
mod tests;
