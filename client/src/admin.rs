//! How does a program look after a cluster? The policy shown and edited, its generations, who may edit it, and the sessions of a broker.

use crate::client::{Client, ClientError};
use crate::events::Misunderstood;
use muster_protocol::admin::{CloseAnswer, CloseQuery, SessionsAnswer, SessionsQuery};
use muster_protocol::policy::{
    AuthorityAnswer, AuthorityQuery, EditAnswer, EditQuery, HistoryAnswer, HistoryQuery, PAGE_MOST, Part, ShowAnswer,
    ShowQuery,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How often a list is begun again because the policy was edited between two of its pages.
const TRIES: u32 = 5;

impl Client {
    /// Changes the policy, or says what an edit would change. When the connection is lost before the answer, it is not known
    /// whether the edit was made: the history says.
    pub async fn edit(&self, query: &EditQuery) -> Result<EditAnswer, ClientError> {
        self.admin("edit", query).await
    }

    /// One page of a part of the policy.
    pub async fn show(&self, query: &ShowQuery) -> Result<ShowAnswer, ClientError> {
        self.admin("show", query).await
    }

    /// A part of the policy, or one member of it, page after page, as one answer without `next`. All of it is of one
    /// generation: after an edit between two pages it is fetched again.
    pub async fn show_all(&self, what: Part, name: Option<String>) -> Result<ShowAnswer, ClientError> {
        for _ in 0..TRIES {
            if let Some(whole) =
                self.show_once(ShowQuery { what, name: name.clone(), after: None, limit: None }).await?
            {
                return Ok(whole);
            }
        }
        Err(ClientError::Unsettled(TRIES))
    }

    /// `None` if the policy was edited meanwhile.
    async fn show_once(&self, query: ShowQuery) -> Result<Option<ShowAnswer>, ClientError> {
        let mut query = ShowQuery { limit: Some(PAGE_MOST), ..query };
        let mut whole = self.show(&query).await?;
        while let Some(after) = whole.next.take() {
            onward("show", query.after.as_ref(), &after)?;
            query.after = Some(after);
            let page = self.show(&query).await?;
            if page.generation != whole.generation {
                return Ok(None);
            }
            whole.users.extend(page.users);
            whole.groups.extend(page.groups);
            whole.acl.extend(page.acl);
            whole.hidden.extend(page.hidden);
            whole.collectives.extend(page.collectives);
            whole.brokers.extend(page.brokers);
            whole.next = page.next;
        }
        Ok(Some(whole))
    }

    /// One page of the generations that the broker keeps.
    pub async fn history(&self, query: &HistoryQuery) -> Result<HistoryAnswer, ClientError> {
        self.admin("history", query).await
    }

    /// All generations that the broker keeps, or the newest `most`, as one answer without `next`.
    pub async fn history_all(&self, most: Option<u64>) -> Result<HistoryAnswer, ClientError> {
        let mut query = HistoryQuery { limit: Some(page(most, 0)), ..HistoryQuery::default() };
        let mut whole = self.history(&query).await?;
        while let Some(before) = whole.next.take().filter(|_| wanted(most, whole.editions.len())) {
            onward("history", query.before.as_ref(), &before)?;
            query.before = Some(before);
            query.limit = Some(page(most, whole.editions.len()));
            let next = self.history(&query).await?;
            whole.editions.extend(next.editions);
            whole.next = next.next;
        }
        cut(&mut whole.editions, most);
        Ok(whole)
    }

    /// Who may edit the policy.
    pub async fn authority(&self) -> Result<AuthorityAnswer, ClientError> {
        self.admin("authority", &AuthorityQuery::default()).await
    }

    /// Makes the broker that we are connected to the authority over the policy. That is a new generation, answered as an edit is.
    pub async fn take_authority(&self, reason: &str) -> Result<EditAnswer, ClientError> {
        self.admin("take", &AuthorityQuery { reason: reason.to_owned() }).await
    }

    /// One page of the sessions of the broker that we are connected to.
    pub async fn sessions(&self, query: &SessionsQuery) -> Result<SessionsAnswer, ClientError> {
        self.admin("sessions", query).await
    }

    /// All of its sessions, or the first `most`, as one answer without `next`.
    pub async fn sessions_all(&self, query: SessionsQuery, most: Option<u64>) -> Result<SessionsAnswer, ClientError> {
        let mut query = SessionsQuery { limit: Some(page(most, 0)), ..query };
        let mut whole = self.sessions(&query).await?;
        while let Some(after) = whole.next.take().filter(|_| wanted(most, whole.sessions.len() + whole.closed.len())) {
            onward("sessions", query.after.as_ref(), &after)?;
            query.after = Some(after);
            query.limit = Some(page(most, whole.sessions.len() + whole.closed.len()));
            let next = self.sessions(&query).await?;
            whole.sessions.extend(next.sessions);
            whole.closed.extend(next.closed);
            whole.next = next.next;
        }
        cut(&mut whole.sessions, most);
        cut(&mut whole.closed, most);
        Ok(whole)
    }

    /// Ends a session of the broker that we are connected to.
    pub async fn close_session(&self, query: &CloseQuery) -> Result<CloseAnswer, ClientError> {
        self.admin("close", query).await
    }

    async fn admin<T: DeserializeOwned>(&self, what: &str, query: &impl Serialize) -> Result<T, ClientError> {
        self.query(&format!("/muster/admin.{what}"), None, query).await
    }
}

/// The size of the next page, of `most` members, when there are `have`.
fn page(most: Option<u64>, have: usize) -> u32 {
    let left = most.map_or(u64::MAX, |most| most.saturating_sub(have as u64));
    u32::try_from(left).unwrap_or(u32::MAX).clamp(1, PAGE_MOST)
}

fn wanted(most: Option<u64>, have: usize) -> bool {
    most.is_none_or(|most| (have as u64) < most)
}

fn cut<T>(members: &mut Vec<T>, most: Option<u64>) {
    members.truncate(most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX));
}

/// A page that leads to itself would be asked for without end.
fn onward<T: PartialEq>(what: &str, last: Option<&T>, next: &T) -> Result<(), ClientError> {
    if last == Some(next) {
        return Err(Misunderstood(format!("a page of `{what}` that leads to itself")).into());
    }
    Ok(())
}
