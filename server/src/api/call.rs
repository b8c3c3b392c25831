//! What does a call say? Token, names in the path, query and body, each read strictly: what is not understood is refused, never ignored.

use super::Front;
use super::listen::Visit;
use super::problem::{Fault, Problem};
use super::seats::Caller;
use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::{FromRequest, Query as Pairs, RawPathParams, Request};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use bytes::Bytes;
use http_body_util::BodyExt;
use muster_protocol::error::Code;
use muster_protocol::message::shown;
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard as Locked, PoisonError};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

/// How long a body may take to come.
const BODY_WITHIN: Duration = Duration::from_secs(30);
/// Longest body before it is known who calls: user and password, with every character escaped.
const LOGIN_MOST: usize = 16 * 1024;
/// Of a body that is too large, so many times the most is read and dropped, as long as something comes within this time.
const DISCARDED: usize = 4;
const DISCARD_WITHIN: Duration = Duration::from_secs(1);
/// When to come back if there is no room for a body.
const ROOM_AGAIN: Duration = Duration::from_secs(1);
/// How deep JSON may be nested: as facts may.
const DEPTH: usize = 32;
/// Of an error of the JSON reader, which may quote what it read, at most so many characters are given back.
const QUOTED: usize = 200;

/// A call.
pub(super) struct Call {
    pub(super) front: Arc<Front>,
    pub(super) visit: Arc<Visit>,
    pub(super) parts: Parts,
    names: Vec<(String, String)>,
    /// Never locked: a call is looked at by reference while it waits, and a body alone could not be.
    body: Mutex<Body>,
}

impl FromRequest<Arc<Front>> for Call {
    type Rejection = Problem;

    async fn from_request(request: Request, front: &Arc<Front>) -> Result<Call, Problem> {
        let (mut parts, body) = request.into_parts();
        let names = axum::RequestPartsExt::extract::<RawPathParams>(&mut parts).await;
        let names = names.map_err(|_| Problem::parameter("the path: it is no UTF-8"))?;
        let names = names.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let visit = parts.extensions.get::<Arc<Visit>>().cloned();
        let visit = visit.ok_or_else(|| Problem::new(Code::Internal, "a call without a connection"))?;
        Ok(Call { front: front.clone(), visit, parts, names, body: Mutex::new(body) })
    }
}

impl Call {
    /// The seat of whoever calls, by the token that the call shows.
    pub(super) async fn caller(&self) -> Result<Caller, Problem> {
        self.refuse_when_stopping()?;
        let _turn = self.visit.turn().await?;
        let sat = match self.token() {
            Some(token) => self.front.seats.sit(token, &self.visit.peer).await,
            None => Err(Problem::unknown_caller()),
        };
        match sat {
            Ok(caller) => {
                self.visit.admit();
                Ok(caller)
            }
            Err(problem) => {
                // As with STOMP: another try costs another connection.
                self.visit.turn_away();
                Err(problem)
            }
        }
    }

    /// Room in memory for the body, as long as what is given back lives.
    pub(super) fn room(&self) -> Result<Option<OwnedSemaphorePermit>, Problem> {
        let (said, most) = (self.said(), self.most());
        let is_empty = lock(&self.body).is_end_stream();
        let bytes = said.map_or(most, |said| usize::try_from(said).unwrap_or(most).min(most));
        if is_empty || bytes == 0 {
            return Ok(None);
        }
        let full = || {
            let text =
                "other calls of this connection have large bodies under way; say content-length, or send fewer at once";
            Problem::new(Code::Busy, text).again_in(Some(ROOM_AGAIN))
        };
        self.visit.room(bytes).map(Some).ok_or_else(full)
    }

    /// Length of the body, as the call says.
    fn said(&self) -> Option<u64> {
        self.parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok())
    }

    /// Longest body that is read.
    fn most(&self) -> usize {
        if self.visit.is_admitted() { self.front.body_most } else { self.front.body_most.min(LOGIN_MOST) }
    }

    /// A broker that is about to stop takes nobody in any more.
    pub(super) fn refuse_when_stopping(&self) -> Result<(), Problem> {
        if *self.front.stopping.borrow() {
            return Err(Problem::new(Code::Draining, "the broker is stopping"));
        }
        Ok(())
    }

    /// What stands after `Bearer`. Two such headers are none.
    pub(super) fn token(&self) -> Option<SecretString> {
        let mut all = self.parts.headers.get_all(AUTHORIZATION).iter();
        let (first, None) = (all.next()?, all.next()) else { return None };
        let (scheme, token) = first.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| SecretString::from(token.trim_matches(' ')))
    }

    /// A name in the path, decoded.
    pub(super) fn name(&self, name: &str) -> &str {
        self.names.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// A name in the path that has a form of its own.
    pub(super) fn parsed<T>(
        &self,
        name: &str,
        form: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, Problem> {
        let text = self.name(name);
        parse(text).ok_or_else(|| Problem::parameter(format!("{name}: `{}` is not {form}", shown(text))))
    }

    /// The query of the address.
    pub(super) fn query(&self) -> Result<Query, Problem> {
        let pairs: Pairs<Vec<(String, String)>> = Pairs::try_from_uri(&self.parts.uri)
            .map_err(|error| Problem::parameter(format!("the query: {}", shown(&error.to_string()))))?;
        let mut all = BTreeMap::new();
        for (name, value) in pairs.0 {
            if all.contains_key(&name) {
                return Err(Problem::parameter(format!("{}: it stands twice", shown(&name))));
            }
            all.insert(name, value);
        }
        Ok(Query(all))
    }

    /// A call without a query: one that is there would be for something else.
    pub(super) fn no_query(&self) -> Result<(), Problem> {
        self.query()?.end()
    }

    /// A call without a body.
    pub(super) fn no_body(&self) -> Result<(), Problem> {
        self.no_query()?;
        self.bodiless()
    }

    /// A call without a body; it may have a query.
    pub(super) fn bodiless(&self) -> Result<(), Problem> {
        let length = self.parts.headers.get(CONTENT_LENGTH);
        if length.is_some_and(|length| length != "0") {
            return Err(Problem::body("a body: this call has none"));
        }
        Ok(())
    }

    /// The JSON object in the body.
    pub(super) async fn json<T: DeserializeOwned>(self) -> Result<T, Problem> {
        read(&self.bytes().await?)
    }

    /// The JSON in the body, as it came.
    pub(super) async fn bytes(self) -> Result<Bytes, Problem> {
        self.check_type()?;
        let (most, said) = (self.most(), self.said());
        let too_large = || {
            let text = format!("the body: more than {most} bytes, which is the most that is possible");
            Problem::new(Code::TooLarge, text)
        };
        let mut body = self.body.into_inner().unwrap_or_else(PoisonError::into_inner);
        if said.is_some_and(|length| length > most as u64) {
            let _ = timeout(BODY_WITHIN, discard(&mut body, most.saturating_mul(DISCARDED))).await;
            return Err(too_large());
        }
        match timeout(BODY_WITHIN, to_bytes(body, most)).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) if is_too_long(&error) => Err(too_large()),
            Ok(Err(_)) => Err(Problem::body("the body: it did not come whole")),
            Err(_) => {
                let text = format!("the body did not come within {} s", BODY_WITHIN.as_secs());
                Err(Problem::fault(Fault::TooSlow, text))
            }
        }
    }

    fn check_type(&self) -> Result<(), Problem> {
        let mut all = self.parts.headers.get_all(CONTENT_TYPE).iter();
        let said = all.next().and_then(|said| said.to_str().ok()).unwrap_or_default();
        let (kind, rest) = said.split_once(';').unwrap_or((said, ""));
        let rest = rest.trim().to_ascii_lowercase();
        let is_json = kind.trim().eq_ignore_ascii_case("application/json");
        if !is_json || !matches!(rest.as_str(), "" | "charset=utf-8" | "charset=\"utf-8\"") || all.next().is_some() {
            let text = format!("content-type: `{}`; a body is application/json", shown(said));
            return Err(Problem::fault(Fault::WrongType, text));
        }
        Ok(())
    }
}

fn lock(body: &Mutex<Body>) -> Locked<'_, Body> {
    body.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads some of what is under way: a connection that is closed before what came over it was read is reset, and the reset would
/// overtake the answer.
async fn discard(body: &mut Body, most: usize) {
    let mut read = 0;
    while read < most {
        match timeout(DISCARD_WITHIN, body.frame()).await {
            Ok(Some(Ok(frame))) => read += frame.data_ref().map_or(0, Bytes::len),
            _ => return,
        }
    }
}

/// An error of `to_bytes` that stands for its limit.
fn is_too_long(error: &axum::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// A JSON object, and nothing that is too deep to be worth reading.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    if depth(bytes) > DEPTH {
        return Err(Problem::body(format!("the body: it is nested deeper than {DEPTH} levels")));
    }
    // serde would also take a list for a struct.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(Problem::body("the body: it is no JSON object"));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let text: String = error.to_string().chars().filter(|c| !c.is_control()).take(QUOTED).collect();
        Problem::body(format!("the body: {text}"))
    })
}

/// How deep brackets are nested outside of texts, whether or not it is JSON.
fn depth(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// The parameters of a query; what is taken is understood, and what is left is refused.
#[derive(Debug, Default)]
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    /// A text.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// A whole number within bounds.
    pub(super) fn number(&mut self, name: &str, within: RangeInclusive<u64>) -> Result<Option<u64>, Problem> {
        let Some(text) = self.0.remove(name) else { return Ok(None) };
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = if digits { text.parse::<u64>().ok() } else { None };
        number.filter(|number| within.contains(number)).map(Some).ok_or_else(|| {
            let (low, high) = (within.start(), within.end());
            Problem::parameter(format!("{name}: `{}` is not a whole number from {low} to {high}", shown(&text)))
        })
    }

    /// The size of a page.
    pub(super) fn limit(&mut self, most: u32) -> Result<Option<u32>, Problem> {
        let limit = self.number("limit", 1..=u64::from(most))?;
        Ok(limit.and_then(|limit| u32::try_from(limit).ok()))
    }

    /// A text with a form of its own.
    pub(super) fn parsed<T>(
        &mut self,
        name: &str,
        form: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.0.remove(name) else { return Ok(None) };
        let wrong = || Problem::parameter(format!("{name}: `{}` is not {form}", shown(&text)));
        parse(&text).map(Some).ok_or_else(wrong)
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<(), Problem> {
        match self.0.keys().next() {
            Some(name) => Err(Problem::parameter(format!("{}: there is no such parameter here", shown(name)))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_protocol::request::FindQuery;

    #[test]
    fn only_an_object_of_known_fields_is_read() {
        let text = |bytes: &[u8]| read::<FindQuery>(bytes).unwrap_err().text;
        assert_eq!(read::<FindQuery>(br#" {"limit":5}"#).unwrap().limit, Some(5));
        assert!(text(br#"{"limits":5}"#).contains("unknown field `limits`"));
        assert!(text(br#"{"limit":5,"limit":6}"#).contains("duplicate field"));
        assert!(text(br#"{"limit":-1}"#).contains("line 1 column"));
        for other in [&b"[]"[..], b"", b"null", b"\"{}\"", b"{", b"{}x", b"\xff\xfe{}"] {
            assert_eq!(read::<FindQuery>(other).unwrap_err().status.as_u16(), 400, "{other:?}");
        }
        let long = format!(r#"{{"{}":1}}"#, "x".repeat(10_000));
        assert!(text(long.as_bytes()).len() < 300, "what is wrong is not given back at length");
    }

    #[test]
    fn depth_is_bounded_before_anything_is_read() {
        let nested = |levels: usize| format!("{}{}", "{\"a\":".repeat(levels), "1");
        assert!(read::<serde_json::Value>(nested(DEPTH + 1).as_bytes()).unwrap_err().text.contains("deeper than 32"));
        assert!(!read::<serde_json::Value>(nested(DEPTH).as_bytes()).unwrap_err().text.contains("deeper"));
        assert_eq!(depth(br#"{"a":"[[[[\"[[[["}"#), 1, "brackets in texts are no nesting");
        assert_eq!(depth(b"]]]][["), 2);
    }

    #[test]
    fn a_query_is_taken_whole_or_refused() {
        let query = |pairs: &[(&str, &str)]| Query(pairs.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect());
        assert_eq!(query(&[("limit", "1000")]).limit(1000).unwrap(), Some(1000));
        for wrong in ["0", "1001", "-1", "+1", " 1", "1e3", "0x10", "", "18446744073709551616", "4294967297"] {
            let problem = query(&[("limit", wrong)]).limit(1000).unwrap_err();
            assert!(problem.text.starts_with("limit: "), "{problem:?}");
            assert_eq!(problem.status.as_u16(), 400);
        }
        let mut one = query(&[("after", "x"), ("Limit", "1")]);
        assert_eq!(one.text("after").as_deref(), Some("x"));
        assert_eq!(one.end().unwrap_err().text, "Limit: there is no such parameter here");
    }
}
