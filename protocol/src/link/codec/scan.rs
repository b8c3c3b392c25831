//! Is this one whole MessagePack map, before anybody takes memory for what it announces?

use super::LinkError;

/// Deepest nesting of maps and lists in a head. The explanation of the deepest filter is below it, and a stack bears it.
pub const MAX_DEPTH: usize = 288;

/// Checks that `bytes` hold exactly one map, complete and not nested deeper than [`MAX_DEPTH`].
///
/// Each value takes at least a byte, so a reader that takes memory for announced lengths then takes it for bytes that are there.
pub(super) fn check_map(bytes: &[u8]) -> Result<(), LinkError> {
    let first = *bytes.first().ok_or(LinkError::Truncated)?;
    if !matches!(first, 0x80..=0x8f | 0xde | 0xdf) {
        return Err(LinkError::NotAMap(first));
    }
    let mut rest = bytes;
    // How many values are still to come in each map and list that is open.
    let mut open: Vec<u64> = Vec::new();
    loop {
        match step(&mut rest)? {
            Step::Bytes(length) => {
                rest =
                    usize::try_from(length).ok().and_then(|length| rest.get(length..)).ok_or(LinkError::Truncated)?;
            }
            Step::Values(_) if open.len() == MAX_DEPTH => return Err(LinkError::TooDeep),
            Step::Values(count) => open.push(count),
        }
        while open.last() == Some(&0) {
            open.pop();
        }
        match open.last_mut() {
            Some(left) => *left -= 1,
            None if rest.is_empty() => return Ok(()),
            None => return Err(LinkError::Trailing(rest.len())),
        }
    }
}

/// What follows a marker.
enum Step {
    /// Bytes of no interest.
    Bytes(u64),
    /// Values of their own; a map has two for each entry.
    Values(u64),
}

fn step(rest: &mut &[u8]) -> Result<Step, LinkError> {
    let marker = number(rest, 1)? as u8;
    Ok(match marker {
        0x00..=0x7f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => Step::Bytes(0),
        0x80..=0x8f => Step::Values(2 * u64::from(marker & 0x0f)),
        0x90..=0x9f => Step::Values(u64::from(marker & 0x0f)),
        0xa0..=0xbf => Step::Bytes(u64::from(marker & 0x1f)),
        0xc1 => return Err(LinkError::Malformed("the byte 0xc1 has no meaning in MessagePack".to_owned())),
        // Binary and text by the size of their length; extensions have a byte for their type.
        0xc4..=0xc6 => Step::Bytes(number(rest, 1 << (marker - 0xc4))?),
        0xd9..=0xdb => Step::Bytes(number(rest, 1 << (marker - 0xd9))?),
        0xc7..=0xc9 => Step::Bytes(number(rest, 1 << (marker - 0xc7))? + 1),
        0xd4..=0xd8 => Step::Bytes((1 << (marker - 0xd4)) + 1),
        0xca => Step::Bytes(4),
        0xcb => Step::Bytes(8),
        0xcc..=0xcf => Step::Bytes(1 << (marker - 0xcc)),
        0xd0..=0xd3 => Step::Bytes(1 << (marker - 0xd0)),
        0xdc | 0xdd => Step::Values(number(rest, 2 << (marker - 0xdc))?),
        0xde | 0xdf => Step::Values(2 * number(rest, 2 << (marker - 0xde))?),
    })
}

/// A big-endian number of so many bytes, at most 4.
fn number(rest: &mut &[u8], bytes: usize) -> Result<u64, LinkError> {
    let (taken, after) = rest.split_at_checked(bytes).ok_or(LinkError::Truncated)?;
    *rest = after;
    Ok(taken.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}
