//! Which paths are there, and what does each take and give? A route is added together with its description, so that the document is
//! what the router does.

use super::call::Call;
use super::problem::{Fault, Problem};
use super::seats::Caller;
use super::{Front, document, guard, login, nodes, policy, probes, requests, sessions};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{MethodFilter, on};
use bytes::Bytes;
use muster_protocol::message::shown;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::ToSchema;

/// All routes, and what is said of them.
pub(super) struct Routes {
    router: Router<Arc<Front>>,
    paths: BTreeMap<String, Map<String, Value>>,
    schemas: BTreeMap<String, Value>,
}

/// One route, as the document describes it.
pub(super) struct Operation {
    method: &'static str,
    path: String,
    id: String,
    tag: &'static str,
    summary: String,
    description: String,
    parameters: Vec<Value>,
    body: Option<(Value, bool)>,
    answers: Vec<(u16, Value)>,
    refusals: Vec<u16>,
    is_open: bool,
    schemas: BTreeMap<String, Value>,
}

/// All of them.
pub(super) fn routes() -> Routes {
    let mut routes = Routes { router: Router::new(), paths: BTreeMap::new(), schemas: BTreeMap::new() };
    login::add(&mut routes);
    nodes::add(&mut routes);
    requests::add(&mut routes);
    policy::add(&mut routes);
    sessions::add(&mut routes);
    probes::add(&mut routes);
    document::add(&mut routes);
    routes
}

impl Routes {
    /// A route for whoever shows a token.
    pub(super) fn add<F, R>(&mut self, operation: Operation, handler: F)
    where
        F: Fn(Caller, Call) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Result<Response, Problem>> + Send + 'static,
    {
        let with_caller = move |call: Call| {
            let handler = handler.clone();
            async move {
                let caller = call.caller().await?;
                let _room = call.room()?;
                handler(caller, call).await
            }
        };
        self.route(operation, with_caller);
    }

    /// A route that looks itself for who calls.
    pub(super) fn add_open<F, R>(&mut self, operation: Operation, handler: F)
    where
        F: Fn(Call) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Result<Response, Problem>> + Send + 'static,
    {
        self.route(Operation { is_open: true, ..operation }, handler);
    }

    fn route<F, R>(&mut self, operation: Operation, handler: F)
    where
        F: Fn(Call) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Result<Response, Problem>> + Send + 'static,
    {
        let filter = match operation.method {
            "post" => MethodFilter::POST,
            "put" => MethodFilter::PUT,
            "delete" => MethodFilter::DELETE,
            _ => MethodFilter::GET,
        };
        let method = on(filter, move |call: Call| handler(call));
        self.router = std::mem::take(&mut self.router).route(&operation.path, method);
        self.schemas.extend(operation.schemas.clone());
        self.paths.entry(operation.path.clone()).or_default().insert(operation.method.into(), operation.described());
    }

    /// The router, with what holds for every call around it.
    pub(super) fn router(self, front: &Arc<Front>) -> Router {
        self.router
            .fallback(no_such_path)
            .method_not_allowed_fallback(wrong_method)
            .layer(from_fn_with_state(front.clone(), guard::guard))
            .with_state(front.clone())
    }

    /// The OpenAPI document.
    pub(super) fn document(&self) -> Bytes {
        document::document(&self.paths, &self.schemas)
    }
}

async fn no_such_path(request: Request) -> Problem {
    Problem::fault(Fault::NoSuchPath, format!("{}: there is nothing at this path", shown(request.uri().path())))
}

async fn wrong_method(request: Request) -> Problem {
    let (method, path) = (request.method().as_str(), request.uri().path());
    Problem::fault(Fault::WrongMethod, format!("{}: {} does not take this method", shown(method), shown(path)))
}

/// An answer in JSON.
pub(super) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer in JSON, made here.
pub(super) fn ok(answer: &impl Serialize) -> Result<Response, Problem> {
    Ok(json(StatusCode::OK, serde_json::to_vec(answer).unwrap_or_default()))
}

/// GET of a path.
pub(super) fn get(path: impl Into<String>, id: &str, tag: &'static str, summary: &str) -> Operation {
    Operation::new("get", path.into(), id, tag, summary)
}

/// POST to a path.
pub(super) fn post(path: impl Into<String>, id: &str, tag: &'static str, summary: &str) -> Operation {
    Operation::new("post", path.into(), id, tag, summary)
}

/// PUT to a path.
pub(super) fn put(path: impl Into<String>, id: &str, tag: &'static str, summary: &str) -> Operation {
    Operation::new("put", path.into(), id, tag, summary)
}

/// DELETE of a path.
pub(super) fn delete(path: impl Into<String>, id: &str, tag: &'static str, summary: &str) -> Operation {
    Operation::new("delete", path.into(), id, tag, summary)
}

impl Operation {
    fn new(method: &'static str, path: String, id: &str, tag: &'static str, summary: &str) -> Operation {
        Operation {
            method,
            path,
            id: id.to_owned(),
            tag,
            summary: summary.to_owned(),
            description: String::new(),
            parameters: Vec::new(),
            body: None,
            answers: Vec::new(),
            refusals: vec![400, 403, 411, 500, 503],
            is_open: false,
            schemas: BTreeMap::new(),
        }
    }

    /// More than the summary.
    pub(super) fn says(mut self, description: &str) -> Operation {
        if !self.description.is_empty() {
            self.description.push_str("\n\n");
        }
        self.description.push_str(description);
        self
    }

    /// It needs the right to write to this destination.
    pub(super) fn writes(self, destination: &str) -> Operation {
        self.says(&format!("Needs the right to write to `{destination}`."))
    }

    /// A name in the path.
    pub(super) fn path_text(self, name: &str, description: &str, schema: Value) -> Operation {
        self.parameter("path", name, description, true, schema)
    }

    /// A parameter of the query.
    pub(super) fn query(self, name: &str, description: &str, schema: Value) -> Operation {
        self.parameter("query", name, description, false, schema)
    }

    /// A header.
    pub(super) fn header(self, name: &str, description: &str, schema: Value) -> Operation {
        self.parameter("header", name, description, false, schema)
    }

    /// The size of a page, and where it begins.
    pub(super) fn pages(self, most: u32, after: &str, schema: Value) -> Operation {
        let limit = json!({ "type": "integer", "format": "int32", "minimum": 1, "maximum": most });
        let begins = format!("{after}: `next` of the page before.");
        let name = if after.starts_with("Those before") { "before" } else { "after" };
        self.query("limit", "At most so many.", limit).query(name, &begins, schema)
    }

    /// The JSON object in the body.
    pub(super) fn takes<T: ToSchema>(mut self) -> Operation {
        self.body = Some((self.reference::<T>(), true));
        self.refuses(&[408, 413, 415])
    }

    /// The usual answer.
    pub(super) fn answers<T: ToSchema>(self, description: &str) -> Operation {
        self.answers_with::<T>(200, description)
    }

    /// An answer of another status than 200.
    pub(super) fn answers_with<T: ToSchema>(mut self, status: u16, description: &str) -> Operation {
        let schema = self.reference::<T>();
        self.answer(status, description, &json!({ "application/json": { "schema": schema } }))
    }

    /// An answer without a body, or of another type than JSON.
    pub(super) fn answer(mut self, status: u16, description: &str, content: &Value) -> Operation {
        let mut answer = json!({ "description": description });
        if !content.is_null() {
            answer["content"] = content.clone();
        }
        self.answers.push((status, answer));
        self
    }

    /// A header of the last answer.
    pub(super) fn with_header(mut self, name: &str, description: &str) -> Operation {
        if let Some((_, answer)) = self.answers.last_mut() {
            answer["headers"][name] = json!({ "description": description, "schema": { "type": "string" } });
        }
        self
    }

    /// More statuses of refusals than every call has.
    pub(super) fn refuses(mut self, statuses: &[u16]) -> Operation {
        self.refusals.extend(statuses);
        self
    }

    /// The reference to a schema, which the document then holds.
    pub(super) fn reference<T: ToSchema>(&mut self) -> Value {
        let mut all = vec![(T::name().into_owned(), T::schema())];
        T::schemas(&mut all);
        for (name, schema) in all {
            self.schemas.insert(name, serde_json::to_value(schema).unwrap_or_default());
        }
        json!({ "$ref": format!("#/components/schemas/{}", T::name()) })
    }

    fn parameter(mut self, place: &str, name: &str, description: &str, required: bool, schema: Value) -> Operation {
        let parameter = json!({
            "name": name, "in": place, "description": description, "required": required, "schema": schema,
        });
        self.parameters.push(parameter);
        self
    }

    /// As the document holds it.
    fn described(self) -> Value {
        let mut operation = json!({
            "operationId": self.id,
            "tags": [self.tag],
            "summary": self.summary,
        });
        if !self.description.is_empty() {
            operation["description"] = self.description.into();
        }
        if !self.parameters.is_empty() {
            operation["parameters"] = self.parameters.into();
        }
        if let Some((schema, required)) = self.body {
            let content = json!({ "application/json": { "schema": schema } });
            operation["requestBody"] = json!({ "required": required, "content": content });
        }
        let mut responses = Map::new();
        for (status, answer) in self.answers {
            responses.insert(status.to_string(), answer);
        }
        // Whoever calls by a token may be refused whatever the broker refuses.
        let by_token: &[u16] = if self.is_open { &[] } else { &[401, 413, 429, 501, 504] };
        for status in self.refusals.iter().chain(by_token) {
            let problem = json!({ "$ref": format!("#/components/responses/{status}") });
            responses.entry(status.to_string()).or_insert(problem);
        }
        operation["responses"] = responses.into();
        if self.is_open {
            operation["security"] = json!([]);
        }
        operation
    }
}
