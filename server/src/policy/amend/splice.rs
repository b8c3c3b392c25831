//! What is put in place of what? Replacements of byte ranges of a text, and the text with all of them.

use std::ops::Range;

/// A text in place of a range; of an empty one, an insertion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Splice {
    range: Range<usize>,
    text: String,
}

impl Splice {
    /// A text in place of a range.
    pub(super) fn new(range: Range<usize>, text: String) -> Splice {
        Splice { range, text }
    }

    /// Nothing in place of a range.
    pub(super) fn cut(range: Range<usize>) -> Splice {
        Splice { range, text: String::new() }
    }
}

/// The text with all of them; those at one place in their order. What is put into a range that another one cuts goes with it.
/// `None`: a range is not one of the text.
pub(super) fn apply(text: &str, mut splices: Vec<Splice>) -> Option<String> {
    splices.sort_by_key(|splice| (splice.range.start, splice.range.end));
    let (mut made, mut at) = (String::with_capacity(text.len() + 1024), 0);
    for Splice { range, text: with } in &splices {
        if range.start >= at {
            made.push_str(text.get(at..range.start)?);
            made.push_str(with);
        }
        at = at.max(range.end);
    }
    made.push_str(text.get(at..)?);
    Some(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_replaced_in_order_and_cuts_may_overlap() {
        let put = |range, text: &str| Splice::new(range, text.to_owned());
        let splices = vec![put(4..4, "x"), put(0..1, "A"), put(4..4, "y"), Splice::cut(2..4), Splice::cut(3..4)];
        assert_eq!(apply("abcdef", splices).as_deref(), Some("Abxyef"));
        assert_eq!(apply("abcdef", vec![Splice::cut(1..5), put(2..3, "lost")]).as_deref(), Some("af"));
        assert_eq!(apply("ä", vec![Splice::cut(1..2)]), None);
        assert_eq!(apply("a", vec![Splice::cut(0..9)]), None);
    }
}
