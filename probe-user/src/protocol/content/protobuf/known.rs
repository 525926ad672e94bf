//! The fields that a message's type knows, extensions among them.

use std::collections::BTreeMap;

use prost_reflect::{Kind, MessageDescriptor};

use super::wire::{WireField, WireValue};

/// A field.
#[derive(Clone)]
pub(super) struct KnownField {
    /// Its name in JSON.
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) shape: FieldShape,
}

/// How many values a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldShape {
    /// One, and it is known whether it is there.
    Single,
    /// One that is not told apart from none if it is zero or empty.
    Implicit,
    List,
    Map,
}

/// The field of a number.
pub(super) fn field(kind: &MessageDescriptor, number: u32) -> Option<KnownField> {
    let shape = |is_list: bool, is_map: bool, has_presence: bool| match (is_list, is_map, has_presence) {
        (true, ..) => FieldShape::List,
        (_, true, _) => FieldShape::Map,
        (.., true) => FieldShape::Single,
        (.., false) => FieldShape::Implicit,
    };
    if let Some(field) = kind.get_field(number) {
        return Some(KnownField {
            name: field.json_name().to_owned(),
            kind: field.kind(),
            shape: shape(field.is_list(), field.is_map(), field.supports_presence()),
        });
    }
    let field = kind.get_extension(number)?;
    Some(KnownField {
        name: field.json_name().to_owned(),
        kind: field.kind(),
        shape: shape(field.is_list(), field.is_map(), field.supports_presence()),
    })
}

/// How a value is on the wire, if several of them may be packed into bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packable {
    Varint,
    Fixed64,
    Fixed32,
}

pub(super) fn packable(kind: &Kind) -> Option<Packable> {
    match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => Some(Packable::Fixed64),
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => Some(Packable::Fixed32),
        Kind::Int32
        | Kind::Int64
        | Kind::Uint32
        | Kind::Uint64
        | Kind::Sint32
        | Kind::Sint64
        | Kind::Bool
        | Kind::Enum(_) => Some(Packable::Varint),
        Kind::String | Kind::Bytes | Kind::Message(_) => None,
    }
}

/// Whether the values of a kind that is no message are on the wire as values of the kind are.
pub(super) fn fits(kind: &Kind, same: &[WireField<'_>]) -> bool {
    let packable = packable(kind);
    same.iter().all(|field| match field.value {
        WireValue::Varint(_) => packable == Some(Packable::Varint),
        WireValue::Fixed64(_) => packable == Some(Packable::Fixed64),
        WireValue::Fixed32(_) => packable == Some(Packable::Fixed32),
        WireValue::Bytes(_) => packable.is_none(),
        WireValue::Group(_) | WireValue::Cut(_) => false,
    })
}

/// Removes the members of each oneof that a later member has replaced.
pub(super) fn drop_replaced(kind: &MessageDescriptor, fields: &mut Vec<WireField<'_>>) {
    if kind.oneofs().all(|oneof| oneof.is_synthetic()) {
        return;
    }
    // The member of each oneof that is set, and where its values are.
    let mut set: BTreeMap<String, (u32, Vec<usize>)> = BTreeMap::new();
    let mut replaced = vec![false; fields.len()];
    for (index, WireField { number, .. }) in fields.iter().enumerate() {
        let oneof = kind.get_field(*number).and_then(|field| field.containing_oneof());
        let Some(oneof) = oneof.filter(|oneof| !oneof.is_synthetic()) else { continue };
        let (member, values) = set.entry(oneof.name().to_owned()).or_insert((*number, Vec::new()));
        if member != number {
            for value in values.drain(..) {
                replaced.get_mut(value).into_iter().for_each(|replaced| *replaced = true);
            }
            *member = *number;
        }
        values.push(index);
    }
    let mut replaced = replaced.into_iter();
    fields.retain(|_| replaced.next() != Some(true));
}

/// The bytes of a message as far as they are whole fields, for one that was cut. A text or message that is
/// cut itself stays as far as it goes.
pub(super) fn whole_part(kind: &MessageDescriptor, data: &[u8], depth: usize) -> Vec<u8> {
    let mut rest = data;
    loop {
        let before = data.len().saturating_sub(rest.len());
        let whole = || data.get(..before).unwrap_or_default().to_vec();
        if rest.is_empty() {
            return whole();
        }
        match super::wire::field(&mut rest) {
            Ok(WireField { number, value: WireValue::Cut(bytes) }) => {
                let mut whole = whole();
                let part = field(kind, number).and_then(|field| part(&field, bytes, depth));
                if let Some(part) = part.filter(|part| !part.is_empty()) {
                    super::wire::push_bytes(number, &part, &mut whole);
                }
                return whole;
            }
            Ok(_) => {}
            Err(super::wire::NoField::Cut) => return whole(),
            // Whoever parses it will find that.
            Err(super::wire::NoField::Malformed) => return data.to_vec(),
        }
    }
}

/// What can be shown of a value that is cut.
fn part(field: &KnownField, bytes: &[u8], depth: usize) -> Option<Vec<u8>> {
    match &field.kind {
        Kind::Message(kind) if field.shape != FieldShape::Map => {
            let depth = depth.checked_sub(1)?;
            Some(whole_part(kind, bytes, depth))
        }
        Kind::Message(_) => None,
        Kind::String => {
            let valid = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
            Some(valid.as_bytes().to_vec())
        }
        Kind::Bytes => Some(bytes.to_vec()),
        kind => {
            let length = match packable(kind)? {
                Packable::Fixed64 => bytes.len() / 8 * 8,
                Packable::Fixed32 => bytes.len() / 4 * 4,
                Packable::Varint => {
                    bytes.iter().rposition(|byte| byte & 0x80 == 0).map_or(0, |last| last + 1)
                }
            };
            (field.shape == FieldShape::List).then(|| bytes.get(..length).unwrap_or_default().to_vec())
        }
    }
}
