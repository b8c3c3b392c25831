//! Which nodes does each construct of the language match? The table that evaluator, index and documentation share.
