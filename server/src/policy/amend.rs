//! What text does an edit make of a policy.toml? Comments, order and style of everything else stay as they are.

mod edits;
mod facts;
mod list;
mod outline;
mod splice;
mod written;

use crate::broker::access::{Kind, Policy, PolicyError, Right, diff, never_matches, place};
use edits::{additions, only_takes, removals};
use muster_protocol::destination::{Destination, Pattern};
use muster_protocol::error::{Code, Refusal};
use muster_protocol::message::BrokerName;
use muster_protocol::policy::{DiffAnswer, Edit, EditQuery};
use outline::Outline;
use splice::{Splice, apply};
use std::borrow::Cow;
use std::sync::Arc;
use toml_edit::Document;

/// What an edit makes of a policy.
#[derive(Debug)]
pub struct Amendment {
    /// The text.
    pub text: String,
    /// What it says.
    pub policy: Arc<Policy>,
    /// What is otherwise in it; empty if the policy stood so already.
    pub changes: DiffAnswer,
}

/// The text after an edit. What does not fit is a [`Code::BadEdit`]; whether the result is a policy is for [`Policy::parse`] to
/// say. [`Edit::Revert`] names no text and is for the caller to resolve.
pub fn amend(text: &str, edit: &Edit) -> Result<String, Refusal> {
    match edit {
        Edit::Text(whole) => Ok(whole.policy.clone()),
        Edit::Revert(_) => Err(Refusal::new(Code::Internal, "the text of an earlier generation was not looked up")),
        // A large text is not read again for nothing.
        _ if only_takes(edit) => change(text, &[&|outline| removals(outline, edit)]),
        _ => change(text, &[&|outline| removals(outline, edit), &|outline| additions(outline, edit)]),
    }
}

/// The text with `authority = "BROKER"`.
pub fn with_authority(text: &str, broker: &BrokerName) -> Result<String, Refusal> {
    change(text, &[&|outline| edits::set_root(outline, "authority", broker.as_str().into())])
}

/// Refuses an edit by hand that gives the authority of `me` to another broker.
pub fn keeps_authority(policy: &Policy, me: &BrokerName) -> Result<(), Refusal> {
    match policy.authority() {
        Some(named) if named != me => Err(bad_edit(format!(
            "it says authority = \"{named}\", and {me} has the authority over the policy, which an edit of the file does not move: \
             put authority = \"{me}\" back, then run `muster admin authority take` at {named}"
        ))),
        _ => Ok(()),
    }
}

/// Makes the policy that an edit asks for, and looks at what it does. `before` is what `text` says; `now` is Unix seconds.
///
/// Refused are edits that do not fit or make no policy ([`Code::BadEdit`]), that leave nobody who may edit the policy
/// ([`Code::LastAdmin`]) or add an entry that can never match, both unless `force` is set; and any that would
/// change who has the authority.
pub fn amended(before: &Policy, text: &str, query: &EditQuery, now: u64) -> Result<Amendment, Refusal> {
    let edit = &query.edit;
    let lists = |policy: &Policy, broker: &BrokerName| policy.brokers().contains_key(broker);
    if let (Edit::BrokerRemove(broker), Some(authority)) = (edit, before.authority())
        && broker.name == authority.as_str()
        && lists(before, authority)
    {
        return Err(moves_authority(authority));
    }
    if let (Edit::AclAdd(entry), false) = (edit, query.force)
        && let Ok(pattern) = Pattern::parse(&entry.destination)
        && let Some((what, cure)) = never_matches(&pattern)
    {
        return Err(bad_edit(format!("{what}; {cure}, or use --force")));
    }
    let text = amend(text, edit)?;
    let policy = Policy::parse(&text).map_err(|error| no_policy(&error))?;
    match (before.authority(), policy.authority()) {
        (Some(old), Some(new)) if old == new && (lists(&policy, old) || !lists(before, old)) => {}
        (None, None) => {}
        (Some(authority), _) => return Err(moves_authority(authority)),
        (None, Some(authority)) => {
            let text =
                format!("an edit cannot give the authority to {authority}; run `muster admin authority take` there");
            return Err(bad_edit(text));
        }
    }
    if !query.force && has_admin(before, now) && !has_admin(&policy, now) {
        let text = "after this edit no operator or service that can log in may write to /muster/admin.edit, so nobody \
                    could edit the policy any more; give that right to another user first, or use --force";
        return Err(Refusal::new(Code::LastAdmin, text));
    }
    let changes = diff(before, &policy);
    Ok(Amendment { text, policy: Arc::new(policy), changes })
}

/// Whether somebody can edit the policy at this time (Unix seconds).
fn has_admin(policy: &Policy, now: u64) -> bool {
    let Ok(edit) = Destination::parse("/muster/admin.edit") else { return false };
    policy
        .users()
        .any(|user| user.kind != Kind::Agent && user.is_usable(now) && policy.allows(user, Right::Write, &edit))
}

fn moves_authority(authority: &BrokerName) -> Refusal {
    bad_edit(format!(
        "{authority} has the authority over the policy, and an edit cannot take it away; run `muster admin authority take` \
         at the broker that is to have it, then repeat the edit"
    ))
}

fn no_policy(error: &PolicyError) -> Refusal {
    bad_edit(format!("the policy would be wrong after this edit: {error}"))
}

fn bad_edit(text: impl Into<String>) -> Refusal {
    Refusal::new(Code::BadEdit, text)
}

type Step<'s> = &'s dyn Fn(&Outline<'_>) -> Result<Vec<Splice>, Refusal>;

/// Does one step after the other, each on the text that the one before has made.
fn change(text: &str, steps: &[Step<'_>]) -> Result<String, Refusal> {
    let mut text = Cow::Borrowed(text);
    let mut rest = steps.iter();
    while !rest.as_slice().is_empty() {
        let Some(splices) = next_change(&text, &mut rest)? else { break };
        let made = apply(&text, splices);
        text = Cow::Owned(made.ok_or_else(|| Refusal::new(Code::Internal, "an edit lost its place in the policy"))?);
    }
    Ok(text.into_owned())
}

/// What the next step that changes something changes. What changes nothing needs no reading again.
fn next_change(text: &str, steps: &mut std::slice::Iter<'_, Step<'_>>) -> Result<Option<Vec<Splice>>, Refusal> {
    let document = Document::parse(text).map_err(|error| {
        let (line, _) = place(text, error.span().map_or(0, |span| span.start));
        bad_edit(format!("line {line} of the policy is no TOML: {}; correct the file", error.message()))
    })?;
    let outline = Outline::of(text, &document);
    for step in steps {
        let splices = step(&outline)?;
        if !splices.is_empty() {
            return Ok(Some(splices));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
