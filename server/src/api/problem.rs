//! How does a call look that is refused? One JSON object, and one table of codes and statuses.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use muster_protocol::error::Code;
use muster_protocol::frame::Frame;
use muster_protocol::message::header;
use muster_protocol::session::SessionError;
use serde::Serialize;
use std::time::Duration;

/// A call that is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub(super) struct Problem {
    #[serde(skip)]
    #[schema(ignore)]
    pub(super) status: StatusCode,
    /// A stable code: that of the broker (docs/protocol.md), or one of HTTP alone (docs/api.md).
    pub(super) code: String,
    /// What is wrong, and where.
    pub(super) text: String,
    /// What to do about it.
    pub(super) cure: String,
    /// When it is worth trying again, ms from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) retry_after_ms: Option<u64>,
    /// How many nodes match, where a guard of a request refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) count: Option<u64>,
}

/// What only HTTP can get wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing is at that path.
    NoSuchPath,
    /// Something is there, and not for that method.
    WrongMethod,
    /// A body of another type than JSON.
    WrongType,
    /// The answer cannot have any of the types that `Accept` lists.
    NotAcceptable,
    /// A web page of another origin.
    CrossOrigin,
    /// A request whose length is not known before it is read.
    LengthRequired,
    /// The request did not come in time.
    TooSlow,
}

impl Fault {
    fn row(self) -> (u16, &'static str, &'static str) {
        match self {
            Fault::NoSuchPath => (404, "no-such-path", "GET /api/v1/openapi.json lists all paths."),
            Fault::WrongMethod => (405, "wrong-method", "Use one of the methods in the header Allow."),
            Fault::WrongType => (415, "wrong-type", "Send content-type: application/json."),
            Fault::NotAcceptable => (406, "not-acceptable", "Accept one of the types that the text names."),
            Fault::CrossOrigin => {
                (403, "cross-origin", "Have the origin listed in origins of [admin] in musterd.toml.")
            }
            Fault::LengthRequired => (411, "length-required", "Send the body with content-length, in one piece."),
            Fault::TooSlow => (408, "too-slow", "Send the whole request at once."),
        }
    }
}

/// The status of each code of the broker.
fn status_of(code: Code) -> StatusCode {
    match code {
        Code::BadFrame
        | Code::BadVersion
        | Code::ForbiddenHeader
        | Code::BadHeader
        | Code::BadDestination
        | Code::BadFilter
        | Code::TargetRequired
        | Code::BadFacts
        | Code::BadBody
        | Code::BadEdit => StatusCode::BAD_REQUEST,
        Code::AuthFailed | Code::Revoked | Code::Closed => StatusCode::UNAUTHORIZED,
        Code::Denied | Code::HiddenFact | Code::AllNotAllowed => StatusCode::FORBIDDEN,
        Code::NoSuchRequest | Code::NoSuchNode | Code::NoSuchSession | Code::NoSuchName => StatusCode::NOT_FOUND,
        Code::StaleBase
        | Code::TooManyTargets
        | Code::UnexpectedTargets
        | Code::Cancelled
        | Code::DuplicateRequest
        | Code::StaleGeneration
        | Code::LastAdmin
        | Code::Contested => StatusCode::CONFLICT,
        Code::Gone => StatusCode::GONE,
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::Limit => StatusCode::TOO_MANY_REQUESTS,
        Code::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Code::Busy
        | Code::AuthTimeout
        | Code::Partial
        | Code::NoAuthority
        | Code::Draining
        | Code::SlowConsumer
        | Code::Moved
        | Code::HeartBeat => StatusCode::SERVICE_UNAVAILABLE,
        // Between brokers only, or a fault of ours.
        Code::WrongCluster
        | Code::WrongIdentity
        | Code::UnknownBroker
        | Code::NameInUse
        | Code::Superseded
        | Code::LinkDown
        | Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl Problem {
    /// A refusal with a code of the broker.
    pub(super) fn new(code: Code, text: impl Into<String>) -> Problem {
        Problem {
            status: status_of(code),
            code: code.as_str().to_owned(),
            text: text.into(),
            cure: code.cure().to_owned(),
            retry_after_ms: None,
            count: None,
        }
    }

    /// What only HTTP can get wrong.
    pub(super) fn fault(fault: Fault, text: impl Into<String>) -> Problem {
        let (status, code, cure) = fault.row();
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        let (code, cure) = (code.to_owned(), cure.to_owned());
        Problem { status, code, text: text.into(), cure, retry_after_ms: None, count: None }
    }

    /// Who calls is not known: one text, whatever is wrong with the token.
    pub(super) fn unknown_caller() -> Problem {
        let problem = Problem::new(Code::AuthFailed, "the call shows no good token");
        problem.cured("Send the header `Authorization: Bearer TOKEN` with a token that POST /api/v1/login gives, and show the client certificate if the user needs one.")
    }

    /// A body that is not what it is to be.
    pub(super) fn body(text: impl Into<String>) -> Problem {
        Problem::new(Code::BadBody, text).cured("Send the JSON object that GET /api/v1/openapi.json describes.")
    }

    /// A parameter of the query, or a name in the path, that has no meaning.
    pub(super) fn parameter(text: impl Into<String>) -> Problem {
        Problem::new(Code::BadHeader, text).cured("Correct the parameter that the text names.")
    }

    /// Of a `refused` event.
    pub(super) fn of_frame(frame: &Frame) -> Problem {
        let number = |name| frame.headers.get(name).and_then(|text| text.parse::<u64>().ok());
        let text = frame.headers.get(header::MESSAGE).unwrap_or("the broker gave no reason").to_owned();
        let code = frame.headers.get(header::CODE).unwrap_or_default();
        let problem = Problem::new(Code::parse(code).unwrap_or(Code::Internal), text);
        Problem { retry_after_ms: number(header::RETRY_AFTER), count: number(header::COUNT), ..problem }
    }

    /// Why a session inside the broker could not be had, or has ended.
    pub(super) fn of_session(error: &SessionError) -> Problem {
        match error {
            SessionError::Refused { code: Some(Code::AuthFailed), .. } => Problem::unknown_caller(),
            SessionError::Refused { code, text, retry_after } => {
                let problem = Problem::new(code.unwrap_or(Code::Internal), text.clone());
                problem.again_in(*retry_after)
            }
            // The broker ended it without a word: it is stopping, or an admin closed it.
            SessionError::Closed
            | SessionError::Io(_)
            | SessionError::Certificate(_)
            | SessionError::Silent(_)
            | SessionError::LoginTimeout(_) => {
                let text = "the broker ended the session that answers these calls; try again";
                Problem::new(Code::Busy, text).again_in(Some(Duration::from_secs(1)))
            }
            SessionError::Frame(error) => Problem::new(Code::Internal, format!("an answer cannot be read: {error}")),
        }
    }

    /// With another cure than the code's own, which speaks of STOMP.
    pub(super) fn cured(self, cure: &str) -> Problem {
        Problem { cure: cure.to_owned(), ..self }
    }

    /// When to try again.
    pub(super) fn again_in(self, after: Option<Duration>) -> Problem {
        let ms = after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        Problem { retry_after_ms: ms.or(self.retry_after_ms), ..self }
    }

    /// With another status than the code's usual one.
    pub(super) fn with_status(self, status: StatusCode) -> Problem {
        Problem { status, ..self }
    }

    /// As it is sent.
    pub(super) fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.json()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // HTTP knows whole seconds only.
        if let Some(ms) = self.retry_after_ms {
            headers.insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_status_that_says_no() {
        for &code in Code::ALL {
            let status = status_of(code);
            assert!(status.is_client_error() || status.is_server_error(), "{code}: {status}");
        }
        for (code, status) in [("denied", 403), ("auth-failed", 401), ("stale-generation", 409), ("limit", 429)] {
            assert_eq!(status_of(Code::parse(code).unwrap()).as_u16(), status, "{code}");
        }
    }

    #[test]
    fn the_document_lists_every_status_and_code() {
        let document = include_str!("../../../docs/api.md");
        for &code in Code::ALL {
            let status = status_of(code);
            let row = document.lines().find(|line| line.starts_with(&format!("| {} ", status.as_u16())));
            let listed = row.is_some_and(|row| row.contains(&format!("`{code}`")));
            assert!(listed || status == StatusCode::INTERNAL_SERVER_ERROR, "docs/api.md lacks {status} {code}");
        }
        for fault in [
            Fault::NoSuchPath,
            Fault::WrongMethod,
            Fault::WrongType,
            Fault::NotAcceptable,
            Fault::CrossOrigin,
            Fault::LengthRequired,
            Fault::TooSlow,
        ] {
            let (status, code, _) = fault.row();
            let row = document.lines().find(|line| line.starts_with(&format!("| {status} ")));
            assert!(row.is_some_and(|row| row.contains(&format!("`{code}`"))), "docs/api.md lacks {status} {code}");
        }
    }

    #[test]
    fn when_to_try_again_is_said_in_both_units() {
        let response = Problem::new(Code::Busy, "later").again_in(Some(Duration::from_millis(1_200))).into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
    }
}
