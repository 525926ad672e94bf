//! Protocol buffers: messages by the names of their schema, or without it.
//!
//! Owns the wire format, what is shown without a schema, and the mapping to JSON with one. Nothing here reads
//! files: a schema comes as the bytes of a descriptor set.

mod json;
mod known;
mod schema;
mod text;
mod well_known;
mod wire;

pub use json::MAX_JSON;
pub use schema::{MessageJson, Schema, SchemaError};
pub use text::ProtobufText;

pub(super) use text::{grpc_text, text};

#[cfg(test)]
mod tests;
