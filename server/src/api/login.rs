//! How does a caller get a token, and end what it stands for? The login is that of STOMP: one path and one time for all that are wrong.

use super::call::Call;
use super::problem::Problem;
use super::routes::{Routes, ok, post};
use super::seats::Caller;
use crate::passwd::MAX_PASSWORD;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use muster_protocol::error::Code;
use muster_protocol::session::SessionError;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The longest name of a user, bytes.
const USER_MOST: usize = 128;

/// Who logs in. No `Debug`: it holds a password.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Login {
    /// The user.
    #[schema(min_length = 1, max_length = 128, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    user: String,
    /// The password; or a token, to get a fresh one once less than half of its life is left.
    #[schema(min_length = 1, max_length = 1024, format = Password, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    password: String,
}

/// What stands for the password from now on.
#[derive(Serialize, utoipa::ToSchema)]
struct LoggedIn {
    /// Send it as `Authorization: Bearer TOKEN`. It is good at every broker of the cluster, also as `passcode` of STOMP.
    token: String,
    /// For so many seconds.
    expires_in: u64,
    /// The broker.
    broker: String,
}

pub(super) fn add(routes: &mut Routes) {
    let operation = post("/api/v1/login", "login", "login", "Gives a token for a password.")
        .says("Whatever is wrong with user or password, the answer is one and takes the same time. Too many tries from one address are answered with 429. \
               A user of whom the policy says `certificate` has to show that client certificate on the connection, here and at each call.")
        .takes::<Login>()
        .answers::<LoggedIn>("The token.")
        .refuses(&[401, 429, 501]);
    routes.add_open(operation, log_in);
    let operation = post("/api/v1/logout", "logout", "login", "Ends the session of the token.")
        .says(
            "Its requests are not accounted for any more. The token itself stays good until it expires: brokers keep no list of \
             tokens. To make it void set `revoked-before` of the user, or change the password.",
        )
        .answer(204, "It is over.", &Value::Null);
    routes.add(operation, log_out);
}

/// A login goes on when its caller hangs up, as its password is checked then too: turn and place are taken until that is over.
async fn log_in(call: Call) -> Result<Response, Problem> {
    let login = tokio::spawn(give_token(call));
    login.await.unwrap_or_else(|_| Err(Problem::new(Code::Internal, "the login ended early")))
}

async fn give_token(call: Call) -> Result<Response, Problem> {
    call.refuse_when_stopping()?;
    call.no_query()?;
    let (front, visit) = (call.front.clone(), call.visit.clone());
    let _turn = visit.turn().await?;
    let _room = call.room()?;
    let Login { user, password } = call.json().await?;
    let password = SecretString::from(password);
    refuse_odd("user", &user, USER_MOST)?;
    refuse_odd("password", password.expose_secret(), MAX_PASSWORD)?;
    let (session, incoming) = match front.seats.way().log_in(&user, password.clone(), visit.peer.clone()).await {
        Ok(opened) => opened,
        Err(error) => {
            visit.turn_away();
            return Err(refused(&error));
        }
    };
    visit.admit();
    // A call opens a session by the token, so that it ends when the token does: this one was opened by the password.
    let fresh = incoming.welcome().token.clone();
    let broker = incoming.welcome().broker.clone();
    tokio::spawn(async move {
        let _ = session.disconnect().await;
        drop(incoming);
    });
    // A token that is far from its end is given back.
    let token = fresh.unwrap_or(password);
    let Some(expires_in) = front.seats.life_left(&token) else {
        return Err(Problem::new(Code::Unsupported, "this broker gives no tokens"));
    };
    ok(&LoggedIn { token: token.expose_secret().to_owned(), expires_in, broker })
}

async fn log_out(caller: Caller, call: Call) -> Result<Response, Problem> {
    call.no_body()?;
    call.front.seats.close(&caller);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// What no login can be: said before anything is looked up, so it tells nothing.
fn refuse_odd(field: &str, text: &str, most: usize) -> Result<(), Problem> {
    if text.is_empty() || text.len() > most || text.chars().any(char::is_control) {
        return Err(Problem::body(format!("{field}: expected 1 to {most} bytes without control characters")));
    }
    Ok(())
}

/// Whoever has to wait is told so by the status of a rate limit; what is wrong with a login is never said.
fn refused(error: &SessionError) -> Problem {
    match error {
        SessionError::Refused { code: Some(Code::AuthFailed), text, .. } => {
            Problem::new(Code::AuthFailed, text.clone())
                .cured("Check user and password, and the client certificate if the user needs one.")
        }
        SessionError::Refused { code: Some(Code::Busy), .. } => {
            Problem::of_session(error).with_status(StatusCode::TOO_MANY_REQUESTS)
        }
        _ => Problem::of_session(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn a_login_that_fails_says_nothing_and_one_that_waits_says_how_long() {
        let of = |code, retry_after| {
            let text = "login refused".into();
            refused(&SessionError::Refused { code: Some(code), text, retry_after })
        };
        assert_eq!(of(Code::AuthFailed, None).status.as_u16(), 401);
        let busy = of(Code::Busy, Some(Duration::from_secs(3)));
        assert_eq!((busy.status.as_u16(), busy.retry_after_ms), (429, Some(3_000)));
        assert_eq!(of(Code::Draining, None).status.as_u16(), 503);
        let odd = json!({ "user": "a", "password": "b", "node": "n" });
        assert!(serde_json::from_value::<Login>(odd).is_err());
        for odd in ["", "a\nb", "a\0", &"u".repeat(129)] {
            assert!(refuse_odd("user", odd, USER_MOST).is_err(), "{odd:?}");
        }
    }
}
