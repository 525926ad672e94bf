//! Schemas: the types and services of descriptor sets.

use std::fmt;

use prost_reflect::{DescriptorError, DescriptorPool, MessageDescriptor};

use super::super::Whole;
use super::json::Writer;
use super::known;
use super::wire::{self, NoField, WireField, WireValue};
use crate::event::Role;

/// The numbers of the fields of descriptors that are used here: `FileDescriptorSet.file`,
/// `FileDescriptorProto.syntax` and `.edition` (google/protobuf/descriptor.proto).
const FILE: u32 = 1;
const SYNTAX: u32 = 12;
const EDITION: u32 = 14;

/// The types and services of some descriptor sets. Of each set, names are resolved within it, so sets may
/// contain different types of one name; the first one counts.
#[derive(Clone, Default)]
pub struct Schema {
    pools: Vec<DescriptorPool>,
}

/// Why a descriptor set cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The bytes are none.
    #[error("these bytes are no descriptor set")]
    NoDescriptorSet,
    /// Something in it is wrong, or refers to what it does not contain.
    #[error("{0:?}")]
    Inconsistent(#[source] DescriptorError),
}

/// A message as JSON.
#[derive(Clone, PartialEq, Eq)]
pub struct MessageJson {
    /// The text, on one line.
    pub text: String,
    /// Whether that is all.
    pub is_whole: bool,
}

impl Schema {
    /// Adds a set, which contains all files that its files import.
    pub fn add(&mut self, descriptor_set: &[u8]) -> Result<(), SchemaError> {
        let set = without_editions(descriptor_set).map_err(|_| SchemaError::NoDescriptorSet)?;
        let pool = DescriptorPool::decode(set.as_slice()).map_err(SchemaError::Inconsistent)?;
        if pool.files().len() == 0 {
            return Err(SchemaError::NoDescriptorSet);
        }
        self.pools.push(pool);
        Ok(())
    }

    /// Whether it has no service. Then no message of a call has a type.
    pub fn has_no_service(&self) -> bool {
        self.pools.iter().all(|pool| pool.services().len() == 0)
    }

    /// A type by its full name.
    pub(super) fn message(&self, name: &str) -> Option<MessageDescriptor> {
        self.pools.iter().find_map(|pool| pool.get_message_by_name(name))
    }

    /// The type of the messages that one end sends in calls of a method (`package.Service/Method`).
    fn message_of(&self, method: &str, sender: Role) -> Option<MessageDescriptor> {
        let (service, name) = method.rsplit_once('/')?;
        let found = self.pools.iter().find_map(|pool| {
            let service = pool.get_service_by_name(service)?;
            service.methods().find(|method| method.name() == name)
        })?;
        Some(match sender {
            Role::Client => found.input(),
            Role::Server => found.output(),
        })
    }

    /// Whether it has a method: `package.Service/Method`.
    pub fn has_method(&self, method: &str) -> bool {
        self.message_of(method, Role::Client).is_some()
    }

    /// A message as JSON of at most about `limit` bytes, or why it is none.
    pub fn json(
        &self,
        (method, sender): (&str, Role),
        data: &[u8],
        whole: Whole,
        limit: usize,
    ) -> Result<MessageJson, String> {
        let kind =
            self.message_of(method, sender).ok_or_else(|| format!("no schema has the method {method}"))?;
        let part = match whole {
            Whole::Yes => None,
            Whole::No => Some(known::whole_part(&kind, data, super::json::MAX_DEPTH)),
        };
        let mut writer = Writer::new(self, limit);
        writer
            .message(&kind, part.as_deref().unwrap_or(data), 0)
            .map_err(|why| format!("it is no {} of the schema: {why}", kind.full_name()))?;
        let is_whole = whole == Whole::Yes && !writer.is_cut;
        Ok(MessageJson { text: writer.out, is_whole })
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files: usize = self.pools.iter().map(|pool| pool.files().len()).sum();
        write!(f, "Schema({} sets, {files} files)", self.pools.len())
    }
}

impl fmt::Debug for MessageJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageJson({} bytes, whole: {})", self.text.len(), self.is_whole)
    }
}

/// A descriptor set whose files with an edition have a syntax instead. What differs is not needed here: how
/// values are packed and delimited is seen in the bytes, and that a field has presence is true of proto2.
fn without_editions(set: &[u8]) -> Result<Vec<u8>, NoField> {
    let mut out = Vec::with_capacity(set.len());
    for field in wire::fields(set)? {
        match field {
            WireField { number: FILE, value: WireValue::Bytes(file) } => {
                wire::push_bytes(FILE, &file_without_edition(file)?, &mut out);
            }
            // Nothing else is in a set.
            _ => return Err(NoField::Malformed),
        }
    }
    Ok(out)
}

fn file_without_edition(file: &[u8]) -> Result<Vec<u8>, NoField> {
    let mut out = Vec::with_capacity(file.len());
    let mut rest = file;
    while !rest.is_empty() {
        let before = rest;
        match wire::field(&mut rest)? {
            WireField { value: WireValue::Cut(_), .. } => return Err(NoField::Cut),
            WireField { number: SYNTAX, value: WireValue::Bytes(b"editions") } => {
                wire::push_bytes(SYNTAX, b"proto2", &mut out);
            }
            // The crate does not expect any other.
            WireField { number: SYNTAX, value }
                if !matches!(value, WireValue::Bytes(b"proto2" | b"proto3")) =>
            {
                return Err(NoField::Malformed);
            }
            WireField { number: EDITION, .. } => {}
            _ => {
                let length = before.len().saturating_sub(rest.len());
                out.extend_from_slice(before.get(..length).unwrap_or_default());
            }
        }
    }
    Ok(out)
}
