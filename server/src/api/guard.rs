//! What holds for every call, wherever it goes? Where it comes from, how its length is told, and headers that keep answers where they belong.

use super::Front;
use super::listen::Visit;
use super::problem::{Fault, Problem};
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, HOST, HeaderName, ORIGIN, REFERRER_POLICY, TRANSFER_ENCODING,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use muster_protocol::message::shown;
use std::sync::Arc;

/// What a browser says of where a request comes from, even where it sends no origin.
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Nothing is kept, nothing is guessed, nothing is framed, nothing runs.
const SAFE: [(HeaderName, &str); 5] = [
    (CACHE_CONTROL, "no-store"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
];

/// Stands before every route.
pub(super) async fn guard(State(front): State<Arc<Front>>, request: Request, next: Next) -> Response {
    let visit = request.extensions().get::<Arc<Visit>>().cloned();
    let in_use = visit.as_ref().map(Visit::enter);
    let (method, path, version) = (request.method().clone(), request.uri().path().to_owned(), request.version());
    let (mut response, is_sound) = match check(&front.config.origins, &request) {
        Ok(()) => (next.run(request).await, true),
        // What follows on the connection of a request that is not well formed may not be what it seems.
        Err(problem) => (problem.clone().into_response(), problem.status == StatusCode::FORBIDDEN),
    };
    let headers = response.headers_mut();
    for (name, value) in SAFE {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // In HTTP/2 the connection says so itself.
    if version < Version::HTTP_2 && (!is_sound || visit.is_some_and(|visit| visit.is_leaving())) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    // Without the query: filters may say whom somebody looks for.
    tracing::debug!(target: "muster::api", %method, path = shown(&path), status = response.status().as_u16(), "call");
    drop(in_use);
    response
}

fn check(origins: &[String], request: &Request) -> Result<(), Problem> {
    let headers = request.headers();
    let host = host(request)?;
    let mut said = headers.get_all(ORIGIN).iter();
    if let Some(origin) = said.next() {
        let origin = origin.to_str().unwrap_or_default();
        let is_known = is_own(origin, &host) || origins.iter().any(|known| known == origin);
        if !is_known || said.next().is_some() {
            return Err(cross_origin(origin));
        }
    } else if text(headers, &SITE) == Some("cross-site") && text(headers, &MODE) != Some("navigate") {
        // What a page may send without asking has no origin; what it shows of itself is enough.
        return Err(cross_origin("another site"));
    }
    // Two parties that read a length differently are how a request is smuggled past one of them. With no chunks there is one length,
    // and of that the HTTP library takes one value only.
    if headers.contains_key(TRANSFER_ENCODING) {
        let text = "transfer-encoding: it is not taken here; a body has its content-length";
        return Err(Problem::fault(Fault::LengthRequired, text));
    }
    Ok(())
}

/// The host that the request is for, said once.
fn host(request: &Request) -> Result<String, Problem> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (header, second) = (hosts.next(), hosts.next());
    let authority = request.uri().authority().map(|authority| authority.as_str().to_owned());
    let header = match header.map(|host| host.to_str().map(str::to_owned)) {
        Some(Err(_)) => return Err(Problem::parameter("host: it is no text")),
        Some(Ok(host)) => Some(host),
        None => None,
    };
    let differ = matches!((&header, &authority), (Some(one), Some(other)) if one != other);
    match header.or(authority).filter(|host| !host.is_empty() && !host.contains('@')) {
        Some(host) if second.is_none() && !differ => Ok(host),
        // HTTP/1.0 knew no hosts; then there is no origin of our own either.
        None if request.version() == Version::HTTP_10 => Ok(String::new()),
        _ => Err(Problem::parameter("host: the request must say once which host it is for")),
    }
}

/// Whether a page of this origin was served by the host that it calls.
fn is_own(origin: &str, host: &str) -> bool {
    let plain = |host: &str| host.strip_suffix(":443").unwrap_or(host).to_ascii_lowercase();
    origin.strip_prefix("https://").is_some_and(|of| !of.is_empty() && plain(of) == plain(host))
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn cross_origin(origin: &str) -> Problem {
    Problem::fault(Fault::CrossOrigin, format!("origin: pages of {} may not call this API", shown(origin)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = uri.parse().unwrap();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        request
    }

    #[test]
    fn pages_of_other_origins_are_refused_and_programs_are_not() {
        let known = ["https://noc.example.net".to_owned()];
        let status = |headers: &[(&str, &str)]| {
            let headers = [&[("host", "noc1:8161")], headers].concat();
            check(&known, &request("/api/v1/health", &headers)).map_err(|problem| problem.status.as_u16())
        };
        assert_eq!(status(&[]), Ok(()));
        for fine in ["https://noc1:8161", "https://NOC1:8161", "https://noc.example.net"] {
            assert_eq!(status(&[("origin", fine)]), Ok(()), "{fine}");
        }
        for other in [
            "null",
            "",
            "https://",
            "https://noc1",
            "https://noc1:8162",
            "http://noc1:8161",
            "https://noc1:8161.example.net",
            "https://noc.example.net.evil.example",
            "https://evil.example",
        ] {
            assert_eq!(status(&[("origin", other)]), Err(403), "{other}");
        }
        assert_eq!(status(&[("origin", "https://noc1:8161"), ("origin", "https://evil.example")]), Err(403));
        assert_eq!(status(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")]), Err(403));
        assert_eq!(status(&[("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")]), Ok(()));
        assert!(is_own("https://noc1", "noc1:443") && is_own("https://noc1:443", "noc1"));
    }

    #[test]
    fn a_request_says_once_whom_it_is_for_and_how_long_it_is() {
        let status = |uri: &str, headers: &[(&str, &str)]| {
            check(&[], &request(uri, headers)).map_err(|problem| problem.status.as_u16())
        };
        assert_eq!(status("/", &[]), Err(400));
        assert_eq!(status("/", &[("host", "a"), ("host", "a")]), Err(400));
        assert_eq!(status("https://a/", &[("host", "b")]), Err(400));
        assert_eq!(status("https://a/", &[("host", "a")]), Ok(()));
        assert_eq!(status("https://a/", &[]), Ok(()));
        assert_eq!(status("/", &[("host", "a@b")]), Err(400));
        assert_eq!(status("/", &[("host", "a"), ("transfer-encoding", "chunked")]), Err(411));
    }
}
