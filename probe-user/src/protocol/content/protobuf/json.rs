//! A message and its type → JSON, as the mapping of protocol buffers says.
//!
//! What the type does not know is kept: such a field has its number as its name. Written while the bytes are
//! walked, so that memory and output stay bounded whatever a peer sends.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use prost_reflect::{EnumDescriptor, Kind, MessageDescriptor};

use super::known::{self, FieldShape, KnownField, Packable};
use super::schema::Schema;
use super::text::{is_shown_as_message, readable};
use super::wire::{self, NoField, WireField, WireValue};

/// The most bytes of JSON of a body, except for its last value. Bodies are limited, but may become longer by
/// what they contain.
pub const MAX_JSON: usize = 4 << 20;
/// The deepest nesting of messages. Implementations of protocol buffers accept 100 by default.
pub(super) const MAX_DEPTH: usize = 100;
/// The deepest nesting of messages whose type is unknown, and that look like some.
const MAX_UNKNOWN_DEPTH: usize = 32;

const OTHER_KIND: &str = "there is a value of another kind";

/// Why bytes are no message of a type.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    /// The names of the fields, innermost first.
    path: Vec<String>,
    what: &'static str,
}

impl Mismatch {
    pub(super) fn new(what: &'static str) -> Self {
        Self { path: Vec::new(), what }
    }

    fn within(mut self, name: &str) -> Self {
        // A type may contain itself, deeper than anyone reads.
        if self.path.len() < 8 {
            self.path.push(name.to_owned());
        }
        self
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            let names: Vec<&str> = self.path.iter().rev().map(String::as_str).collect();
            write!(f, "in {}, ", names.join("."))?;
        }
        f.write_str(self.what)
    }
}

impl From<NoField> for Mismatch {
    fn from(error: NoField) -> Self {
        Self::new(match error {
            NoField::Cut => "it ends within a field",
            NoField::Malformed => "there are bytes that are no field",
        })
    }
}

/// Which values are written, and where they go.
pub(super) struct Writer<'a> {
    schema: &'a Schema,
    pub(super) out: String,
    limit: usize,
    /// Whether something was left out because of the limit.
    pub(super) is_cut: bool,
}

/// What a message's members are written into.
#[derive(Default)]
pub(super) struct Separator {
    is_behind_one: bool,
}

impl<'a> Writer<'a> {
    pub(super) fn new(schema: &'a Schema, limit: usize) -> Self {
        Self { schema, out: String::new(), limit, is_cut: false }
    }

    pub(super) fn schema(&self) -> &'a Schema {
        self.schema
    }

    /// Whether nothing more is written.
    pub(super) fn is_full(&mut self) -> bool {
        let is_full = self.out.len() >= self.limit;
        self.is_cut |= is_full;
        is_full
    }

    pub(super) fn separate(&mut self, separator: &mut Separator) {
        if std::mem::replace(&mut separator.is_behind_one, true) {
            self.out.push(',');
        }
    }

    pub(super) fn name(&mut self, name: &str, separator: &mut Separator) {
        self.separate(separator);
        self.text(name);
        self.out.push(':');
    }

    /// Writes a message of a type.
    pub(super) fn message(
        &mut self,
        kind: &MessageDescriptor,
        data: &[u8],
        depth: usize,
    ) -> Result<(), Mismatch> {
        if depth >= MAX_DEPTH {
            return Err(Mismatch::new("messages are nested too deep"));
        }
        let mut fields = wire::fields(data)?;
        known::drop_replaced(kind, &mut fields);
        if self.well_known(kind, &fields, depth)? {
            return Ok(());
        }
        self.out.push('{');
        self.members(kind, fields, &mut Separator::default(), depth)?;
        self.out.push('}');
        Ok(())
    }

    /// Writes the fields of a message, of which members of oneofs that were replaced are removed.
    pub(super) fn members(
        &mut self,
        kind: &MessageDescriptor,
        mut fields: Vec<WireField<'_>>,
        separator: &mut Separator,
        depth: usize,
    ) -> Result<(), Mismatch> {
        fields.sort_by_key(|field| field.number);
        for same in fields.chunk_by(|one, other| one.number == other.number) {
            if self.is_full() {
                break;
            }
            let number = same.first().map_or(0, |field| field.number);
            match known::field(kind, number) {
                None => self.unknown(number, same, separator),
                Some(field) if is_absent(&field, same) => {}
                Some(field) => {
                    self.name(&field.name, separator);
                    self.value(&field, same, depth).map_err(|error| error.within(&field.name))?;
                }
            }
        }
        Ok(())
    }

    /// Writes the value of a field, which may be in several places.
    pub(super) fn value(
        &mut self,
        field: &KnownField,
        same: &[WireField<'_>],
        depth: usize,
    ) -> Result<(), Mismatch> {
        match (field.shape, &field.kind) {
            (FieldShape::Map, Kind::Message(entry)) => self.map(entry, same, depth),
            (FieldShape::List, kind) => {
                self.out.push('[');
                let mut separator = Separator::default();
                same.iter().try_for_each(|one| self.elements(kind, one.value, &mut separator, depth))?;
                self.out.push(']');
                Ok(())
            }
            (_, Kind::Message(kind)) => {
                // Several occurrences of a message are merged, which is what parsing one after the other
                // does.
                let data = match same {
                    [only] => Cow::Borrowed(message_bytes(only.value)?),
                    several => {
                        let parts = several.iter().map(|one| message_bytes(one.value));
                        Cow::Owned(parts.collect::<Result<Vec<_>, _>>()?.concat())
                    }
                };
                self.message(kind, &data, depth + 1)
            }
            (_, kind) if !known::fits(kind, same) => Err(Mismatch::new(OTHER_KIND)),
            (_, kind) => {
                let value = same.last().map_or(WireValue::Bytes(b""), |last| last.value);
                self.scalar(kind, value)
            }
        }
    }

    /// Writes an element of a list, or several packed ones.
    fn elements(
        &mut self,
        kind: &Kind,
        value: WireValue<'_>,
        separator: &mut Separator,
        depth: usize,
    ) -> Result<(), Mismatch> {
        if self.is_full() {
            return Ok(());
        }
        match (kind, value, known::packable(kind)) {
            (Kind::Message(kind), value, _) => {
                let data = message_bytes(value)?;
                self.separate(separator);
                self.message(kind, data, depth + 1)
            }
            (kind, WireValue::Bytes(mut rest), Some(packable)) => {
                while !rest.is_empty() && !self.is_full() {
                    let value = match packable {
                        Packable::Varint => WireValue::Varint(wire::varint(&mut rest)?),
                        Packable::Fixed64 => WireValue::Fixed64(u64::from_le_bytes(*wire::array(&mut rest)?)),
                        Packable::Fixed32 => WireValue::Fixed32(u32::from_le_bytes(*wire::array(&mut rest)?)),
                    };
                    self.separate(separator);
                    self.scalar(kind, value)?;
                }
                Ok(())
            }
            (kind, value, _) => {
                self.separate(separator);
                self.scalar(kind, value)
            }
        }
    }

    /// Writes a map, sorted by its keys. Of entries with the same key, the last one counts.
    fn map(
        &mut self,
        entry: &MessageDescriptor,
        same: &[WireField<'_>],
        depth: usize,
    ) -> Result<(), Mismatch> {
        if depth + 1 >= MAX_DEPTH {
            return Err(Mismatch::new("messages are nested too deep"));
        }
        let (key, value) = (known::field(entry, 1), known::field(entry, 2));
        let (Some(key), Some(value)) = (key, value) else {
            return Err(Mismatch::new("its type has no key or no value"));
        };
        let mut entries = BTreeMap::new();
        for one in same {
            let data = message_bytes(one.value)?;
            let fields = wire::fields(data)?;
            let last = fields.iter().rfind(|field| field.number == 1).map(|field| field.value);
            entries.insert(map_key(&key.kind, last)?, data);
        }
        self.out.push('{');
        let mut separator = Separator::default();
        for (key, data) in entries {
            if self.is_full() {
                break;
            }
            let name = key.to_string();
            self.name(&name, &mut separator);
            let mut fields = wire::fields(data)?;
            fields.retain(|field| field.number == 2);
            if fields.is_empty() {
                self.default(&value.kind, depth + 1)
            } else {
                self.value(&KnownField { shape: FieldShape::Single, ..value.clone() }, &fields, depth + 1)
            }
            .map_err(|error| error.within(&name))?;
        }
        self.out.push('}');
        Ok(())
    }

    /// Writes the value of a kind that is not on the wire.
    pub(super) fn default(&mut self, kind: &Kind, depth: usize) -> Result<(), Mismatch> {
        let zero = match (kind, known::packable(kind)) {
            (Kind::Message(kind), _) => return self.message(kind, b"", depth),
            (Kind::Enum(kind), _) => {
                self.enumeration(kind, kind.default_value().number());
                return Ok(());
            }
            (_, Some(Packable::Varint)) => WireValue::Varint(0),
            (_, Some(Packable::Fixed64)) => WireValue::Fixed64(0),
            (_, Some(Packable::Fixed32)) => WireValue::Fixed32(0),
            (_, None) => WireValue::Bytes(b""),
        };
        self.scalar(kind, zero)
    }

    #[expect(clippy::cast_possible_truncation, reason = "parsers take the low bits of a number, too")]
    #[expect(clippy::cast_possible_wrap, reason = "negative numbers are written as their two's complement")]
    fn scalar(&mut self, kind: &Kind, value: WireValue<'_>) -> Result<(), Mismatch> {
        // Writing to a string does not fail. Numbers of 64 bits are strings, because readers of JSON take
        // numbers for doubles.
        let _ = match (kind, value) {
            (Kind::Double, WireValue::Fixed64(bits)) => {
                self.float(f64::from_bits(bits));
                Ok(())
            }
            (Kind::Float, WireValue::Fixed32(bits)) => {
                self.float(f32::from_bits(bits));
                Ok(())
            }
            (Kind::Int32, WireValue::Varint(bits)) => write!(self.out, "{}", bits as i32),
            (Kind::Int64, WireValue::Varint(bits)) | (Kind::Sfixed64, WireValue::Fixed64(bits)) => {
                write!(self.out, "\"{}\"", bits as i64)
            }
            (Kind::Uint32, WireValue::Varint(bits)) => write!(self.out, "{}", bits as u32),
            (Kind::Uint64, WireValue::Varint(bits)) | (Kind::Fixed64, WireValue::Fixed64(bits)) => {
                write!(self.out, "\"{bits}\"")
            }
            (Kind::Sint32, WireValue::Varint(bits)) => {
                let bits = bits as u32;
                write!(self.out, "{}", (bits >> 1) as i32 ^ -((bits & 1) as i32))
            }
            (Kind::Sint64, WireValue::Varint(bits)) => {
                write!(self.out, "\"{}\"", (bits >> 1) as i64 ^ -((bits & 1) as i64))
            }
            (Kind::Fixed32, WireValue::Fixed32(bits)) => write!(self.out, "{bits}"),
            (Kind::Sfixed32, WireValue::Fixed32(bits)) => write!(self.out, "{}", bits as i32),
            (Kind::Bool, WireValue::Varint(bits)) => write!(self.out, "{}", bits != 0),
            (Kind::Enum(kind), WireValue::Varint(bits)) => {
                self.enumeration(kind, bits as i32);
                Ok(())
            }
            (Kind::String, WireValue::Bytes(bytes)) => {
                let text =
                    str::from_utf8(bytes).map_err(|_| Mismatch::new("there is a text that is not UTF-8"))?;
                self.text(text);
                Ok(())
            }
            (Kind::Bytes, WireValue::Bytes(bytes)) => {
                self.bytes(bytes);
                Ok(())
            }
            _ => return Err(Mismatch::new(OTHER_KIND)),
        };
        Ok(())
    }

    /// Writes a value of an enumeration: its name, or its number if it has none.
    fn enumeration(&mut self, kind: &EnumDescriptor, number: i32) {
        if kind.full_name() == "google.protobuf.NullValue" {
            self.out.push_str("null");
        } else if let Some(value) = kind.get_value(number) {
            self.text(value.name());
        } else {
            let _ = write!(self.out, "{number}");
        }
    }

    /// Writes a number by the fewest digits that identify it.
    fn float<T: fmt::Debug + Into<f64> + Copy>(&mut self, number: T) {
        let wide: f64 = number.into();
        if wide.is_finite() {
            let digits = format!("{number:?}");
            self.out.push_str(digits.strip_suffix(".0").unwrap_or(&digits));
        } else {
            self.out.push_str(match wide {
                f64::INFINITY => "\"Infinity\"",
                f64::NEG_INFINITY => "\"-Infinity\"",
                _ => "\"NaN\"",
            });
        }
    }

    pub(super) fn text(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                c if c < ' ' => {
                    let _ = write!(self.out, "\\u{:04x}", u32::from(c));
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.out.push('"');
        base64_simd::STANDARD.encode_append(bytes, &mut self.out);
        self.out.push('"');
    }

    /// Writes a field that the type does not know, by its number.
    fn unknown(&mut self, number: u32, same: &[WireField<'_>], separator: &mut Separator) {
        self.unknown_nested(number, same, separator, 0);
    }

    fn unknown_nested(
        &mut self,
        number: u32,
        same: &[WireField<'_>],
        separator: &mut Separator,
        depth: usize,
    ) {
        self.name(&number.to_string(), separator);
        if let [only] = same {
            return self.unknown_value(only.value, depth);
        }
        self.out.push('[');
        let mut separator = Separator::default();
        for one in same {
            if self.is_full() {
                break;
            }
            self.separate(&mut separator);
            self.unknown_value(one.value, depth);
        }
        self.out.push(']');
    }

    fn unknown_value(&mut self, value: WireValue<'_>, depth: usize) {
        // Writing to a string does not fail.
        let _ = match value {
            WireValue::Varint(bits) | WireValue::Fixed64(bits) => write!(self.out, "\"{bits}\""),
            WireValue::Fixed32(bits) => write!(self.out, "{bits}"),
            WireValue::Group(bytes) if depth < MAX_UNKNOWN_DEPTH => {
                self.unknown_message(bytes, depth + 1);
                Ok(())
            }
            WireValue::Bytes(bytes) if depth < MAX_UNKNOWN_DEPTH && is_shown_as_message(bytes) => {
                self.unknown_message(bytes, depth + 1);
                Ok(())
            }
            WireValue::Group(bytes) | WireValue::Bytes(bytes) | WireValue::Cut(bytes) => {
                match readable(bytes) {
                    Some(text) => self.text(text),
                    None => self.bytes(bytes),
                }
                Ok(())
            }
        };
    }

    /// Writes a message whose type is unknown, by the numbers of its fields.
    fn unknown_message(&mut self, data: &[u8], depth: usize) {
        self.out.push('{');
        self.unknown_members(data, &mut Separator::default(), depth);
        self.out.push('}');
    }

    pub(super) fn unknown_members(&mut self, data: &[u8], separator: &mut Separator, depth: usize) {
        let mut fields = wire::fields(data).unwrap_or_default();
        fields.sort_by_key(|field| field.number);
        for same in fields.chunk_by(|one, other| one.number == other.number) {
            if self.is_full() {
                break;
            }
            let number = same.first().map_or(0, |field| field.number);
            self.unknown_nested(number, same, separator, depth);
        }
    }
}

/// Whether a field that is on the wire counts as absent.
fn is_absent(field: &KnownField, same: &[WireField<'_>]) -> bool {
    let is_empty = |value: WireValue<'_>| match value {
        WireValue::Varint(bits) | WireValue::Fixed64(bits) => bits == 0,
        WireValue::Fixed32(bits) => bits == 0,
        WireValue::Bytes(bytes) => bytes.is_empty(),
        WireValue::Group(_) | WireValue::Cut(_) => false,
    };
    match field.shape {
        FieldShape::Implicit => {
            known::fits(&field.kind, same) && same.last().is_some_and(|last| is_empty(last.value))
        }
        // Packed ones may be none.
        FieldShape::List if known::packable(&field.kind).is_some() => {
            same.iter().all(|one| matches!(one.value, WireValue::Bytes(b"")))
        }
        FieldShape::Single | FieldShape::List | FieldShape::Map => false,
    }
}

fn message_bytes(value: WireValue<'_>) -> Result<&[u8], Mismatch> {
    match value {
        WireValue::Bytes(bytes) | WireValue::Group(bytes) => Ok(bytes),
        _ => Err(Mismatch::new(OTHER_KIND)),
    }
}

/// The key of an entry of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum MapKey<'a> {
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Text(&'a str),
}

impl fmt::Display for MapKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(key) => write!(f, "{key}"),
            Self::Signed(key) => write!(f, "{key}"),
            Self::Unsigned(key) => write!(f, "{key}"),
            Self::Text(key) => f.write_str(key),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "parsers take the low bits of a number, too")]
#[expect(clippy::cast_possible_wrap, reason = "negative numbers are written as their two's complement")]
fn map_key<'a>(kind: &Kind, value: Option<WireValue<'a>>) -> Result<MapKey<'a>, Mismatch> {
    let zigzag = |bits: u64| (bits >> 1) as i64 ^ -((bits & 1) as i64);
    Ok(match (kind, value) {
        (Kind::String, None) => MapKey::Text(""),
        (Kind::String, Some(WireValue::Bytes(bytes))) => {
            let text = str::from_utf8(bytes);
            MapKey::Text(text.map_err(|_| Mismatch::new("there is a key that is not UTF-8"))?)
        }
        (Kind::Bool, None) => MapKey::Bool(false),
        (Kind::Bool, Some(WireValue::Varint(bits))) => MapKey::Bool(bits != 0),
        (Kind::Uint32 | Kind::Uint64 | Kind::Fixed32 | Kind::Fixed64, None) => MapKey::Unsigned(0),
        (Kind::Uint32, Some(WireValue::Varint(bits))) => MapKey::Unsigned(u64::from(bits as u32)),
        (Kind::Uint64, Some(WireValue::Varint(bits))) | (Kind::Fixed64, Some(WireValue::Fixed64(bits))) => {
            MapKey::Unsigned(bits)
        }
        (Kind::Fixed32, Some(WireValue::Fixed32(bits))) => MapKey::Unsigned(bits.into()),
        (Kind::Int32 | Kind::Int64 | Kind::Sint32 | Kind::Sint64 | Kind::Sfixed32 | Kind::Sfixed64, None) => {
            MapKey::Signed(0)
        }
        (Kind::Int32, Some(WireValue::Varint(bits))) => MapKey::Signed((bits as i32).into()),
        (Kind::Int64, Some(WireValue::Varint(bits))) | (Kind::Sfixed64, Some(WireValue::Fixed64(bits))) => {
            MapKey::Signed(bits as i64)
        }
        (Kind::Sint32, Some(WireValue::Varint(bits))) => MapKey::Signed(zigzag(u64::from(bits as u32))),
        (Kind::Sint64, Some(WireValue::Varint(bits))) => MapKey::Signed(zigzag(bits)),
        (Kind::Sfixed32, Some(WireValue::Fixed32(bits))) => MapKey::Signed((bits as i32).into()),
        _ => return Err(Mismatch::new("there is a key of another kind")),
    })
}
