//! Which nodes are connected here, and which of them does a filter mean?

mod column;
mod index;
mod matching;
mod registry;
mod rows;
mod summarise;

pub use index::{Described, Index, Report};
pub use registry::{Departed, Generation, Memory, Node, Nodes, Whole, display, shown};
pub use rows::Row;

#[cfg(test)]
pub(super) use summarise::Bounds;
#[cfg(test)]
pub(super) mod tests;
