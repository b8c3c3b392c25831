//! Which nodes are connected here, and which of them does a filter mean?

mod column;
mod index;
mod matching;
mod rows;

pub use index::{Described, Index, Report};
pub use rows::{Generation, Row, RowTable};

#[cfg(test)]
mod tests;
