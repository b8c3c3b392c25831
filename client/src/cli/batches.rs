//! How are nodes cut into batches? `--limit` and `--batch` as arithmetic.

use muster_protocol::message::{MAX_NODES_HEADER, NodeId};
use std::num::NonZeroU64;
use std::str::FromStr;

/// `N` nodes or `N%` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Amount {
    Nodes(NonZeroU64),
    Percent(u8),
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Amount, String> {
        let wrong = || format!("`{text}` is neither a number of nodes nor a percentage from 1% to 100%");
        match text.strip_suffix('%') {
            Some(percent) => {
                percent.parse().ok().filter(|p| (1..=100).contains(p)).map(Amount::Percent).ok_or_else(wrong)
            }
            None => text.parse().map(Amount::Nodes).map_err(|_| wrong()),
        }
    }
}

impl Amount {
    /// Of so many nodes; at least one, rounded up.
    pub(crate) fn of(self, total: u64) -> u64 {
        match self {
            Amount::Nodes(nodes) => nodes.get(),
            Amount::Percent(percent) => (total * u64::from(percent)).div_ceil(100).max(1),
        }
    }
}

/// The nodes in groups of `size`, each as the node lists of its requests: no list is longer than a request can name.
pub(crate) fn cut(nodes: &[NodeId], size: u64) -> Vec<Vec<Vec<NodeId>>> {
    let size = usize::try_from(size).unwrap_or(usize::MAX).max(1);
    let requests = |group: &[NodeId]| group.chunks(MAX_NODES_HEADER).map(<[NodeId]>::to_vec).collect();
    nodes.chunks(size).map(requests).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_protocol::message::NodeKey;

    #[test]
    fn amounts_are_numbers_or_percentages() {
        for (text, total, expected) in [("3", 100, 3), ("10%", 25, 3), ("1%", 5, 1), ("100%", 7, 7), ("50%", 0, 1)] {
            assert_eq!(text.parse::<Amount>().map(|amount| amount.of(total)), Ok(expected), "{text}");
        }
        for wrong in ["", "0", "0%", "101%", "-1", "x", "5 %"] {
            assert!(wrong.parse::<Amount>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_node_is_in_exactly_one_request_and_none_names_too_many() {
        let nodes: Vec<NodeId> = (0..1203u32)
            .map(|n| {
                let mut key = [0; 32];
                key[..4].copy_from_slice(&n.to_be_bytes());
                NodeId::of(&NodeKey::new(key))
            })
            .collect();
        for size in [1, 7, 500, 600, 1203, u64::MAX] {
            let groups = cut(&nodes, size);
            assert!(groups.iter().flatten().all(|list| !list.is_empty() && list.len() <= MAX_NODES_HEADER));
            assert_eq!(groups.concat().concat(), nodes);
            assert!(groups.iter().all(|group| group.concat().len() as u64 <= size));
        }
    }
}
