//! What does the OpenAPI document say? What routes say of themselves, with the schemas of the types that travel, made true where a
//! derived schema cannot be.

use super::call::Call;
use super::problem::Problem;
use super::routes::{Routes, get, json};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Map, Value, json as object};
use std::collections::BTreeMap;
use utoipa::PartialSchema;

/// What every refusal may be, by its status.
const REFUSALS: [(u16, &str); 17] = [
    (400, "The call is not well formed, or asks for what makes no sense; the code says which."),
    (401, "No good token; or the session of the token was ended, because a policy revoked it."),
    (403, "The policy does not grant it, or the call comes from a web page of another origin."),
    (404, "There is nothing of that name."),
    (406, "No type that `Accept` lists."),
    (408, "The body did not come in time."),
    (409, "It does not fit what is there now."),
    (410, "It was there, and is no more."),
    (411, "A body comes with its content-length."),
    (412, "The condition of the call does not hold."),
    (413, "More than the broker takes."),
    (415, "A body is application/json."),
    (429, "Too many; the header Retry-After says when to try again, if it helps to wait."),
    (500, "A fault of the broker."),
    (501, "This broker does not do that."),
    (503, "Not now: the header Retry-After says when to try again."),
    (504, "The broker gave no answer in time; what was asked for may still be done."),
];

const DESCRIPTION: &str = "What an admin can see and do at a broker, for programs. Each call is a message to a destination of the \
    broker, with the rights and limits of the caller's user; docs/api.md is the guide, docs/protocol.md says what the answers mean.";

/// The route to the document itself: it holds nothing that is not in the sources.
pub(super) fn add(routes: &mut Routes) {
    let operation = get("/api/v1/openapi.json", "openapi", "api", "This document.");
    let operation =
        operation.answer(200, "OpenAPI 3.1.", &object!({ "application/json": { "schema": { "type": "object" } } }));
    routes.add_open(operation, show);
}

async fn show(call: Call) -> Result<Response, Problem> {
    call.no_body()?;
    Ok(json(StatusCode::OK, call.front.document.clone()))
}

/// The whole document.
pub(super) fn document(paths: &BTreeMap<String, Map<String, Value>>, schemas: &BTreeMap<String, Value>) -> Bytes {
    let mut schemas = schemas.clone();
    schemas.insert("Problem".into(), serde_json::to_value(Problem::schema()).unwrap_or_default());
    let problem = object!({ "application/json": { "schema": { "$ref": "#/components/schemas/Problem" } } });
    let refusal =
        |(status, text): (u16, &str)| (status.to_string(), object!({ "description": text, "content": problem }));
    let refusals: Map<String, Value> = REFUSALS.into_iter().map(refusal).collect();
    let mut schemas: Map<String, Value> = schemas.into_iter().collect();
    flatten_edits(&mut schemas);
    name_destination_once(&mut schemas);
    let mut document = object!({
        "openapi": "3.1.0",
        "info": {
            "title": "Muster",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": refusals,
            "securitySchemes": { "token": {
                "type": "http",
                "scheme": "bearer",
                "bearerFormat": "mt1",
                "description": "A token that POST /api/v1/login gives.",
            } },
        },
    });
    bound_numbers(&mut document, "");
    Bytes::from(serde_json::to_vec(&document).unwrap_or_default())
}

/// An edit is one object: the fields of what is edited beside the field `edit`. Derived, each part would refuse the other's fields.
fn flatten_edits(schemas: &mut Map<String, Value>) {
    let parts = schemas.clone();
    let Some(edits) = schemas.get_mut("Edit").and_then(|edit| edit["oneOf"].as_array_mut()) else { return };
    for edit in edits {
        let Some(all) = edit["allOf"].as_array().cloned() else { continue };
        let description = edit["description"].clone();
        let mut whole = object!({ "type": "object", "additionalProperties": false, "required": [], "properties": {} });
        if description.is_string() {
            whole["description"] = description;
        }
        for part in all {
            let name = part["$ref"].as_str().and_then(|place| place.rsplit('/').next());
            let part = name.and_then(|name| parts.get(name)).unwrap_or(&part);
            for (name, schema) in part["properties"].as_object().into_iter().flatten() {
                whole["properties"][name] = schema.clone();
            }
            if let (Some(all), Some(more)) = (whole["required"].as_array_mut(), part["required"].as_array()) {
                all.extend(more.iter().cloned());
            }
        }
        *edit = whole;
    }
}

/// A request has its destination whole or in parts.
fn name_destination_once(schemas: &mut Map<String, Value>) {
    let text = object!({ "type": "string", "format": "muster-destination" });
    let none = object!({ "type": "null" });
    let segment = object!({ "type": "string", "pattern": "^[^.]+$" });
    let Some(request) = schemas.get_mut("NewRequest") else { return };
    request["oneOf"] = object!([
        {
            "required": ["destination"],
            "properties": { "destination": text, "collective": none, "module": none, "action": none },
        },
        {
            "required": ["collective", "module", "action"],
            "properties": { "destination": none, "collective": segment, "module": segment, "action": segment },
        },
    ]);
}

/// Numbers have as many bits as they have here, and a page as many members as one may have.
fn bound_numbers(value: &mut Value, name: &str) {
    match value {
        Value::Object(fields) => {
            let is_number = |kind: Option<&Value>| match kind {
                Some(Value::String(kind)) => kind == "integer",
                Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "integer"),
                _ => false,
            };
            let least = fields.get("minimum").and_then(Value::as_u64);
            if is_number(fields.get("type")) && least.is_some() {
                // The bounds say it all; a format has a sign, and so half of the numbers.
                let is_short = fields.remove("format").is_some_and(|format| format == "int32");
                let most = if is_short { u64::from(u32::MAX) } else { u64::MAX };
                fields.entry("maximum").or_insert(most.into());
                if name == "limit" && is_short {
                    fields.insert("minimum".into(), 1.into());
                    fields.insert("maximum".into(), muster_protocol::policy::PAGE_MOST.into());
                }
            }
            fields.iter_mut().for_each(|(name, value)| bound_numbers(value, name));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| bound_numbers(value, "")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::routes::routes;
    use super::*;
    use muster_protocol::policy::{Edit, EditQuery, Named, UserFields};

    fn made() -> Value {
        serde_json::from_slice(&routes().document()).unwrap()
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = made();
        let mut places = Vec::new();
        references(&document, &mut places);
        assert!(places.len() > 100, "{}", places.len());
        for place in places {
            let pointer = place.trim_start_matches('#');
            assert!(document.pointer(pointer).is_some(), "{place} leads nowhere");
        }
    }

    fn references(value: &Value, into: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                into.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|value| references(value, into));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, into)),
            _ => {}
        }
    }

    #[test]
    fn every_call_says_what_it_answers_and_how_it_is_refused() {
        let document = made();
        let mut ids = std::collections::BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let place = format!("{method} {path}");
                assert!(ids.insert(operation["operationId"].to_string()), "{place}: its id stands twice");
                let answers = operation["responses"].as_object().unwrap();
                assert!(answers.keys().any(|status| status.starts_with('2')), "{place} answers nothing");
                assert!(answers.contains_key("400") && answers.contains_key("503"), "{place}");
                let names: Vec<&str> = operation["parameters"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(|p| p["in"] == "path")
                    .filter_map(|p| p["name"].as_str())
                    .collect();
                let in_path: Vec<&str> =
                    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
                assert_eq!(names, in_path, "{place}");
                assert_eq!(operation["requestBody"].is_object(), answers.contains_key("415"), "{place}");
            }
        }
        assert!(ids.len() > 35, "{ids:?}");
    }

    #[test]
    fn an_edit_is_what_the_broker_reads() {
        let document = made();
        let edits = document["components"]["schemas"]["Edit"]["oneOf"].as_array().unwrap().clone();
        assert!(edits.len() > 20);
        let of = |name: &str| {
            edits.iter().find(|edit| edit["properties"]["edit"]["enum"][0] == name).unwrap_or_else(|| panic!("{name}"))
        };
        for edit in [
            Edit::UserAdd(UserFields { name: "a".into(), ..UserFields::default() }),
            Edit::UserRemove(Named { name: "a".into() }),
        ] {
            let query = EditQuery { edit, generation: None, reason: String::new(), force: false, dry_run: false };
            let sent = serde_json::to_value(&query).unwrap();
            let schema = of(sent["edit"]["edit"].as_str().unwrap());
            for field in sent["edit"].as_object().unwrap().keys() {
                assert!(schema["properties"][field].is_object(), "{field} in {schema}");
            }
            for field in schema["required"].as_array().unwrap() {
                assert!(sent["edit"][field.as_str().unwrap()].is_string(), "{field}");
            }
            assert_eq!(schema["additionalProperties"], false);
        }
    }

    #[test]
    fn numbers_have_their_bounds() {
        let document = made();
        let find = &document["components"]["schemas"]["FindNodes"]["properties"]["limit"];
        assert_eq!((&find["minimum"], &find["maximum"]), (&1.into(), &1000.into()), "{find}");
        let session = &document["components"]["schemas"]["SessionShown"]["properties"]["session"];
        assert_eq!(session["maximum"], u64::MAX);
    }
}
