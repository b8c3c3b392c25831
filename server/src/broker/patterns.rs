//! What is known of a destination? Values by pattern, found by the segments of a name and not by trying every pattern.
//!
//! A tree over the segments: a name walks down its literals and the wildcards beside them. How many other patterns there are
//! does not matter.

use muster_protocol::destination::{Destination, Kind, Pattern};
use std::collections::BTreeMap;

/// At most one value for each pattern.
#[derive(Debug, Clone, PartialEq)]
pub struct PatternMap<T>(BTreeMap<Kind, Node<T>>);

/// What begins in one way.
#[derive(Debug, Clone, PartialEq)]
struct Node<T> {
    literal: BTreeMap<Box<str>, Node<T>>,
    /// Behind a `*`.
    any: Option<Box<Node<T>>>,
    /// Of the pattern that ends here.
    here: Option<T>,
    /// Of the pattern that ends with `>` here: of all that follows, and of nothing.
    rest: Option<T>,
}

impl<T> Default for PatternMap<T> {
    fn default() -> PatternMap<T> {
        PatternMap(BTreeMap::new())
    }
}

impl<T> Default for Node<T> {
    fn default() -> Node<T> {
        Node { literal: BTreeMap::new(), any: None, here: None, rest: None }
    }
}

impl<T> PatternMap<T> {
    /// The value of a pattern, made if there is none.
    pub fn entry(&mut self, pattern: &Pattern) -> &mut T
    where
        T: Default,
    {
        let mut node = self.0.entry(pattern.kind()).or_default();
        let mut is_rest = false;
        for segment in pattern.segments() {
            node = match segment {
                ">" => {
                    is_rest = true;
                    break;
                }
                "*" => node.any.get_or_insert_default(),
                literal => node.literal.entry(literal.into()).or_default(),
            };
        }
        let place = if is_rest { &mut node.rest } else { &mut node.here };
        place.get_or_insert_default()
    }

    /// Changes the value of a pattern; it goes if `change` says that nothing is left of it. Whether it has gone.
    pub fn shrink(&mut self, pattern: &Pattern, change: impl FnOnce(&mut T) -> bool) -> bool {
        let Some(root) = self.0.get_mut(&pattern.kind()) else { return false };
        let gone = root.shrink(&mut pattern.segments(), change);
        if root.is_empty() {
            self.0.remove(&pattern.kind());
        }
        gone
    }

    /// The values of all patterns that match a name.
    pub fn each<'a>(&'a self, destination: &Destination, mut found: impl FnMut(&'a T)) {
        if let Some(root) = self.0.get(&destination.kind()) {
            root.each(&mut destination.segments(), &mut found);
        }
    }
}

impl<T> Node<T> {
    fn is_empty(&self) -> bool {
        self.literal.is_empty() && self.any.is_none() && self.here.is_none() && self.rest.is_none()
    }

    /// Whether the value has gone.
    fn shrink<'p>(
        &mut self,
        segments: &mut impl Iterator<Item = &'p str>,
        change: impl FnOnce(&mut T) -> bool,
    ) -> bool {
        let place = match segments.next() {
            None => &mut self.here,
            Some(">") => &mut self.rest,
            Some("*") => {
                let gone = self.any.as_mut().is_some_and(|node| node.shrink(segments, change));
                self.any.take_if(|node| node.is_empty());
                return gone;
            }
            Some(literal) => {
                let Some(node) = self.literal.get_mut(literal) else { return false };
                let gone = node.shrink(segments, change);
                if node.is_empty() {
                    self.literal.remove(literal);
                }
                return gone;
            }
        };
        let gone = place.as_mut().is_some_and(change);
        if gone {
            *place = None;
        }
        gone
    }

    fn each<'a, 'n>(&'a self, segments: &mut (impl Iterator<Item = &'n str> + Clone), found: &mut impl FnMut(&'a T)) {
        if let Some(value) = &self.rest {
            found(value);
        }
        let Some(segment) = segments.next() else {
            if let Some(value) = &self.here {
                found(value);
            }
            return;
        };
        if let Some(any) = &self.any {
            any.each(&mut segments.clone(), found);
        }
        if let Some(literal) = self.literal.get(segment) {
            literal.each(segments, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn segment() -> impl Strategy<Value = &'static str> {
        prop_oneof![Just("a"), Just("b"), Just("c")]
    }

    fn patterns() -> impl Strategy<Value = Vec<Pattern>> {
        let part = prop_oneof![3 => segment(), 1 => Just("*")];
        let name = (proptest::collection::vec(part, 0..4), any::<bool>());
        let pattern = (name, any::<bool>()).prop_filter_map("empty", |((mut parts, rest), topic)| {
            if rest {
                parts.push(">");
            }
            let kind = if topic { "/topic/" } else { "/muster/" };
            Pattern::parse(&format!("{kind}{}", parts.join("."))).ok()
        });
        proptest::collection::vec(pattern, 0..12)
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_every_pattern_says(
            put in patterns(),
            taken in patterns(),
            name in proptest::collection::vec(segment(), 1..5),
            topic: bool,
        ) {
            let mut map: PatternMap<BTreeSet<String>> = PatternMap::default();
            let mut kept: BTreeSet<Pattern> = put.iter().cloned().collect();
            for pattern in &put {
                map.entry(pattern).insert(pattern.to_string());
            }
            for pattern in taken.iter().chain(put.iter().step_by(2)) {
                let gone = map.shrink(pattern, |texts| texts.remove(pattern.as_str()) && texts.is_empty());
                prop_assert_eq!(gone, kept.remove(pattern));
            }
            let kind = if topic { "/topic/" } else { "/muster/" };
            let destination = Destination::parse(&format!("{kind}{}", name.join("."))).unwrap();
            let mut found = Vec::new();
            map.each(&destination, |texts| found.extend(texts.iter().cloned()));
            found.sort();
            let matching = kept.iter().filter(|pattern| pattern.matches(&destination));
            let mut expected: Vec<String> = matching.map(ToString::to_string).collect();
            expected.sort();
            prop_assert_eq!(found, expected);
            for pattern in &kept {
                map.shrink(pattern, |_| true);
            }
            prop_assert!(map == PatternMap::default(), "nothing is left behind: {:?}", map);
        }
    }
}
