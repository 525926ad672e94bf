//! Random messages, and what is left of them when their bytes are damaged.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]
#![expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "any bits will do")]

use std::borrow::Cow;

use prost_reflect::prost::Message as _;
use prost_reflect::{
    Cardinality, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage as _, Value,
};

use super::super::super::Whole;
use super::{CHOICE, LISTS, MAPS, OLD_REQUEST, SCALARS, TREE, WELL_KNOWN, name_of, schema};
use crate::test_rng::TestRng;

const LIMIT: usize = 1 << 20;

fn message(kind: &MessageDescriptor, rng: &mut TestRng, depth: usize) -> DynamicMessage {
    let mut message = DynamicMessage::new(kind.clone());
    for field in kind.fields() {
        if rng.below(3) == 0 {
            message.set_field(&field, field_value(&field, rng, depth));
        }
    }
    message
}

fn field_value(field: &FieldDescriptor, rng: &mut TestRng, depth: usize) -> Value {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => {
            let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
            let entries =
                (0..rng.below(3)).map(|_| (key_value(&key.kind(), rng), value_of(&value.kind(), rng, depth)));
            Value::Map(entries.collect())
        }
        kind if field.cardinality() == Cardinality::Repeated => {
            Value::List((0..rng.below(4)).map(|_| value_of(&kind, rng, depth)).collect())
        }
        kind => value_of(&kind, rng, depth),
    }
}

fn key_value(kind: &Kind, rng: &mut TestRng) -> MapKey {
    match value_of(kind, rng, 0) {
        Value::Bool(key) => MapKey::Bool(key),
        Value::I32(key) => MapKey::I32(key),
        Value::I64(key) => MapKey::I64(key),
        Value::U32(key) => MapKey::U32(key),
        Value::U64(key) => MapKey::U64(key),
        Value::String(key) => MapKey::String(key),
        other => panic!("{other:?}"),
    }
}

fn bits(rng: &mut TestRng) -> u64 {
    let wide = (rng.below(1 << 32) as u64) << 32 | rng.below(1 << 32) as u64;
    wide >> rng.below(64)
}

fn value_of(kind: &Kind, rng: &mut TestRng, depth: usize) -> Value {
    let bytes = |rng: &mut TestRng, of: &[u8]| {
        (0..rng.below(9)).map(|_| of[rng.below(of.len())]).collect::<Vec<u8>>()
    };
    let text = |rng: &mut TestRng| String::from_utf8(bytes(rng, b"a\"\\\n\x01\x7f")).unwrap();
    match kind {
        Kind::Double => Value::F64([0.0, 0.1, -1e300, f64::NAN, f64::INFINITY, 5.0][rng.below(6)]),
        Kind::Float => Value::F32([0.0, 0.1, -1e30, f32::NAN, f32::NEG_INFINITY, 1e-7][rng.below(6)]),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(bits(rng) as i32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(bits(rng) as i64),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(bits(rng) as u32),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(bits(rng)),
        Kind::Bool => Value::Bool(rng.below(2) == 0),
        Kind::String => Value::String(text(rng)),
        Kind::Bytes => Value::Bytes(bytes(rng, &[0, 1, 0xff]).into()),
        Kind::Enum(_) => Value::EnumNumber([0, 1, -5, 77][rng.below(4)]),
        Kind::Message(kind) if depth > 3 => Value::Message(DynamicMessage::new(kind.clone())),
        Kind::Message(kind) => Value::Message(message(kind, rng, depth + 1)),
    }
}

/// Whether the oracle leaves something out, corrects it, or writes it as null: fields that the type does not
/// know, nanoseconds that are more than a second or have another sign than the seconds, and infinite numbers
/// in wrappers.
fn is_other_in_oracle(message: &DynamicMessage) -> bool {
    let within = |value: &Value| match value {
        Value::Message(message) => is_other_in_oracle(message),
        _ => false,
    };
    let of = message.descriptor();
    let number = |name: &str| message.get_field_by_name(name).map(Cow::into_owned);
    let is_infinite = of.full_name().starts_with("google.protobuf.")
        && match number("value") {
            Some(Value::F64(number)) => !number.is_finite(),
            Some(Value::F32(number)) => !number.is_finite(),
            _ => false,
        };
    let is_odd_time = match (of.full_name(), number("seconds"), number("nanos")) {
        ("google.protobuf.Timestamp", _, Some(Value::I32(nanos))) => !(0..1_000_000_000).contains(&nanos),
        ("google.protobuf.Duration", Some(Value::I64(seconds)), Some(Value::I32(nanos))) => {
            nanos.unsigned_abs() >= 1_000_000_000 || seconds.signum() * i64::from(nanos.signum()) < 0
        }
        _ => false,
    };
    is_odd_time
        || is_infinite
        || message.unknown_fields().count() > 0
        || message.fields().any(|(_, value)| match value {
            Value::List(list) => list.iter().any(within),
            Value::Map(map) => map.values().any(within),
            value => within(value),
        })
}

/// JSON whose numbers are doubles, of which 1 and 1.0 are the same.
fn value(text: &[u8]) -> serde_json::Value {
    fn doubles(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Number(number) => *value = number.as_f64().into(),
            serde_json::Value::Array(list) => list.iter_mut().for_each(doubles),
            serde_json::Value::Object(members) => members.values_mut().for_each(doubles),
            _ => {}
        }
    }
    let mut value = serde_json::from_slice(text).unwrap();
    doubles(&mut value);
    value
}

/// What the oracle writes. None if it has no form for something.
fn oracle(message: &DynamicMessage) -> Option<serde_json::Value> {
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut out);
    let written = message.serialize_with_options(&mut serializer, &prost_reflect::SerializeOptions::new());
    written.ok()?;
    Some(value(&out))
}

#[test]
fn random_messages_are_as_the_oracle_has_them() {
    let (schema, pool) = schema();
    let mut rng = TestRng(7);
    let mut compared = 0;
    let kinds = [SCALARS, LISTS, MAPS, CHOICE, TREE, WELL_KNOWN, OLD_REQUEST];
    for _ in 0..300 {
        for kind in kinds {
            let of = pool.get_message_by_name(name_of(kind)).unwrap();
            let random = message(&of, &mut rng, 0);
            let data = random.encode_to_vec();
            // What was encoded comes back from it without what implies nothing.
            let decoded = DynamicMessage::decode(of.clone(), data.as_slice()).unwrap();
            let found = schema.json(kind, &data, Whole::Yes, LIMIT).unwrap();
            let value = value(found.text.as_bytes());
            if let Some(expected) = oracle(&decoded).filter(|_| !is_other_in_oracle(&decoded)) {
                assert_eq!(value, expected, "{data:x?}");
                compared += 1;
            }
        }
    }
    assert!(compared > 1500, "{compared}");
}

#[test]
fn damaged_messages_are_as_the_oracle_has_them() {
    let (schema, pool) = schema();
    let mut rng = TestRng(8);
    let (mut both, mut neither) = (0, 0);
    for _ in 0..400 {
        for kind in [SCALARS, LISTS, MAPS, CHOICE, TREE, WELL_KNOWN, OLD_REQUEST] {
            let of = pool.get_message_by_name(name_of(kind)).unwrap();
            let mut data = message(&of, &mut rng, 0).encode_to_vec();
            for _ in 0..=rng.below(3) {
                let at = rng.below(data.len().max(1));
                data.get_mut(at).into_iter().for_each(|byte| *byte = rng.below(256) as u8);
            }
            let found = schema.json(kind, &data, Whole::Yes, LIMIT);
            let _ = schema.json(kind, &data, Whole::No, 200);
            let decoded = DynamicMessage::decode(of.clone(), data.as_slice());
            match (found, decoded) {
                (Ok(found), Ok(decoded)) => {
                    let value = value(found.text.as_bytes());
                    if let Some(expected) = oracle(&decoded).filter(|_| !is_other_in_oracle(&decoded)) {
                        assert_eq!(value, expected, "{kind:?} {data:x?}");
                        both += 1;
                    }
                }
                (Err(_), Err(_)) => neither += 1,
                // The oracle ignores the wire type of maps.
                (Err(_), Ok(_)) if kind == MAPS || kind == WELL_KNOWN => {}
                // Here, what a later member of a oneof or entry of a map replaces is not looked at.
                (Ok(_), Err(_)) if [CHOICE, MAPS, WELL_KNOWN].contains(&kind) => {}
                (found, decoded) => panic!("{kind:?} {data:x?}: {found:?}, {decoded:?}"),
            }
        }
    }
    assert!(both > 200 && neither > 200, "{both} {neither}");
}

/// The oracle's crate reads descriptor sets, too, and must survive whatever is in them.
#[test]
fn damaged_descriptor_sets() {
    let (set, _) = super::compiled();
    let mut rng = TestRng(9);
    let mut added = 0;
    for _ in 0..300 {
        let mut set = set.clone();
        for _ in 0..=rng.below(3) {
            let at = rng.below(set.len());
            set.get_mut(at).into_iter().for_each(|byte| *byte = rng.below(256) as u8);
        }
        let mut schema = super::Schema::default();
        if schema.add(&set).is_ok() {
            added += 1;
            let _ = schema.json(SCALARS, b"\x18\x01", Whole::Yes, 100);
        }
    }
    assert!(added > 20, "{added}");
}
