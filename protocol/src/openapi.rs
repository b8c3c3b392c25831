//! What do the words that are texts on the wire look like in an OpenAPI document? Patterns and lists of words.
//!
//! What is an object derives its schema where it stands. Only with the feature `openapi`.

use crate::message::NodeId;
use crate::policy::Generation;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{RefOr, SchemaFormat};
use utoipa::{PartialSchema, ToSchema};

impl PartialSchema for NodeId {
    fn schema() -> RefOr<Schema> {
        text("A node's id.", "^n-[a-z2-7]{20}$", "muster-node")
    }
}

impl ToSchema for NodeId {}

impl PartialSchema for Generation {
    fn schema() -> RefOr<Schema> {
        // Bounded, so that each of the two numbers is one.
        let pattern = "^[0-9]{1,19}\\.[0-9]{1,19}$";
        text("A generation of the policy: TERM.NUMBER, such as 3.17.", pattern, "muster-generation")
    }
}

impl ToSchema for Generation {}

/// One of these words.
pub(crate) fn one_of(words: impl Iterator<Item = &'static str>) -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).into()
}

fn text(description: &str, pattern: &str, format: &str) -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(description))
        .pattern(Some(pattern))
        .format(Some(SchemaFormat::Custom(format.to_owned())))
        .into()
}
