//! Which editions of the policy were there, and what did each change? Answered from those that are kept on disk.

use super::seal::Notary;
use super::store::Store;
use crate::broker::access::{Policy, diff};
use muster_protocol::error::{Code, Refusal};
use muster_protocol::policy::{EditionShown, Generation, HistoryAnswer, HistoryQuery, PAGE_MOST, Seal, Stamp};
use std::cmp::Reverse;
use std::sync::Arc;

/// Editions on a page unless told.
const PAGE: u32 = 50;

/// One page, the newest first; or one generation with what it changed.
pub fn history(store: &Store, query: &HistoryQuery) -> Result<HistoryAnswer, Refusal> {
    let mut kept = store.kept();
    kept.sort_by_key(|seal| Reverse(seal.stamp.generation));
    if let Some(wanted) = query.generation {
        let those = kept.iter().filter(|seal| seal.stamp.generation == wanted);
        let editions: Vec<EditionShown> = those.map(|seal| with_changes(store, seal, &kept)).collect();
        return if editions.is_empty() {
            Err(not_kept(wanted, &kept))
        } else {
            Ok(HistoryAnswer { editions, next: None })
        };
    }
    let most = query.limit.unwrap_or(PAGE).clamp(1, PAGE_MOST) as usize;
    let before = query.before;
    let mut rest = kept.iter().filter(|seal| before.is_none_or(|before| seal.stamp.generation < before)).peekable();
    let mut editions: Vec<EditionShown> = rest.by_ref().take(most).map(shown).collect();
    // Two brokers may have made the same generation apart from each other: both belong on one page.
    while let Some(last) = editions.last().map(|edition| edition.generation)
        && let Some(seal) = rest.next_if(|seal| seal.stamp.generation == last)
    {
        editions.push(shown(seal));
    }
    let next = rest.peek().and(editions.last()).map(|last| last.generation);
    Ok(HistoryAnswer { editions, next })
}

/// The text of an earlier edition, if it is still what its authority has sealed.
pub fn text_of(store: &Store, notary: &Notary, wanted: Generation) -> Result<Arc<str>, Refusal> {
    let kept = store.kept();
    let seal = kept.iter().find(|seal| seal.stamp.generation == wanted).ok_or_else(|| not_kept(wanted, &kept))?;
    let about = format!("generation {wanted} cannot be taken from the history of this broker");
    let text = store.text(&seal.stamp).map_err(|error| Refusal::new(Code::Internal, format!("{about}: {error}")))?;
    notary.verify(seal, &text).map(|(text, _)| text).map_err(|error| error.refusal(&about))
}

fn not_kept(wanted: Generation, kept: &[Seal]) -> Refusal {
    let there = match (kept.last(), kept.first()) {
        (Some(oldest), Some(newest)) => {
            format!("those from {} to {} are", oldest.stamp.generation, newest.stamp.generation)
        }
        _ => "none is, for its policy has no seal".to_owned(),
    };
    Refusal::new(Code::NoSuchName, format!("generation {wanted} is not kept at this broker; {there}"))
}

/// What it changed: against the newest of those that are kept and that it was built on.
fn with_changes(store: &Store, seal: &Seal, kept: &[Seal]) -> EditionShown {
    let policy = |stamp: &Stamp| Policy::parse(std::str::from_utf8(&store.text(stamp).ok()?).ok()?).ok();
    let before = kept.iter().find(|old| old.stamp < seal.stamp && seal.builds_on(&old.stamp));
    let changes = before.and_then(|before| Some(diff(&policy(&before.stamp)?, &policy(&seal.stamp)?)));
    EditionShown { changes, ..shown(seal) }
}

fn shown(seal: &Seal) -> EditionShown {
    let (stamp, made) = (seal.stamp.clone(), seal.made.clone());
    EditionShown {
        generation: stamp.generation,
        authority: stamp.authority.to_string(),
        by: made.by,
        via: made.via,
        at: made.at,
        what: made.what,
        reason: made.reason,
        sha256: stamp.sha256,
        changes: None,
    }
}
