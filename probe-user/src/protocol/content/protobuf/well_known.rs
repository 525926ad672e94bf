//! The types of `google.protobuf` that have a form of their own in JSON.
//!
//! A value that the form cannot express is shown by its fields, as that of any other type.

use std::fmt::Write as _;

use jiff::Span;
use jiff::civil::{DateTime, date};
use prost_reflect::MessageDescriptor;

use super::json::{Mismatch, Separator, Writer};
use super::known::{self, FieldShape};
use super::wire::{self, WireField, WireValue};

const SECONDS_OF_DAY: i64 = 86_400;
/// The types that are shown as the value of their only field.
const BARE: [&str; 12] = [
    "BoolValue",
    "BytesValue",
    "DoubleValue",
    "FloatValue",
    "Int32Value",
    "Int64Value",
    "ListValue",
    "StringValue",
    "Struct",
    "UInt32Value",
    "UInt64Value",
    "Value",
];
/// The longest duration: 10 000 years.
const MAX_DURATION: u64 = 315_576_000_000;

impl Writer<'_> {
    /// Writes a message of such a type. False if it is of another one, or has no such form.
    pub(super) fn well_known(
        &mut self,
        kind: &MessageDescriptor,
        fields: &[WireField<'_>],
        depth: usize,
    ) -> Result<bool, Mismatch> {
        let Some(name) = kind.full_name().strip_prefix("google.protobuf.") else { return Ok(false) };
        match name {
            "Any" => Ok(self.any(fields, depth)),
            "Timestamp" => Ok(self.quoted(seconds(fields).and_then(|(s, n)| timestamp(s, n)))),
            "Duration" => Ok(self.quoted(seconds(fields).and_then(|(s, n)| duration(s, n)))),
            "FieldMask" => Ok(self.quoted(field_mask(fields))),
            name if BARE.contains(&name) => self.only_field(kind, fields, depth),
            _ => Ok(false),
        }
    }

    fn quoted(&mut self, text: Option<String>) -> bool {
        text.inspect(|text| self.text(text)).is_some()
    }

    /// Writes the value of the only field of a message, without an object around it.
    fn only_field(
        &mut self,
        kind: &MessageDescriptor,
        fields: &[WireField<'_>],
        depth: usize,
    ) -> Result<bool, Mismatch> {
        let number = match (fields.first(), kind.name()) {
            (Some(first), _) => first.number,
            (None, "Value") => {
                self.out.push_str("null");
                return Ok(true);
            }
            (None, _) => 1,
        };
        let Some(field) = known::field(kind, number) else { return Ok(false) };
        if fields.iter().any(|field| field.number != number) {
            return Ok(false);
        }
        match (fields, field.shape) {
            ([], FieldShape::Single | FieldShape::Implicit) => self.default(&field.kind, depth + 1)?,
            _ => self.value(&field, fields, depth)?,
        }
        Ok(true)
    }

    /// Writes a message that contains its type. If that is unknown, the fields are shown by their numbers.
    fn any(&mut self, fields: &[WireField<'_>], depth: usize) -> bool {
        let (mut url, mut data) = (&b""[..], &b""[..]);
        for field in fields {
            match field {
                WireField { number: 1, value: WireValue::Bytes(bytes) } => url = bytes,
                WireField { number: 2, value: WireValue::Bytes(bytes) } => data = bytes,
                _ => return false,
            }
        }
        let Ok(url) = str::from_utf8(url) else { return false };
        if url.is_empty() && data.is_empty() {
            self.out.push_str("{}");
            return true;
        }
        let begin = self.out.len();
        let kind = url.rsplit('/').next().and_then(|name| self.schema().message(name));
        if let Some(kind) = kind {
            match self.any_of(&kind, url, data, depth) {
                Ok(()) => return true,
                // The type that it names is not the one that it has.
                Err(_) => self.out.truncate(begin),
            }
        }
        let mut separator = Separator::default();
        self.out.push('{');
        self.name("@type", &mut separator);
        self.text(url);
        if wire::fields(data).is_ok() {
            self.unknown_members(data, &mut separator, 0);
        } else {
            self.name("value", &mut separator);
            self.bytes(data);
        }
        self.out.push('}');
        true
    }

    fn any_of(
        &mut self,
        kind: &MessageDescriptor,
        url: &str,
        data: &[u8],
        depth: usize,
    ) -> Result<(), Mismatch> {
        let mut separator = Separator::default();
        self.out.push('{');
        self.name("@type", &mut separator);
        self.text(url);
        if is_well_known(kind) {
            self.name("value", &mut separator);
            self.message(kind, data, depth + 1)?;
        } else {
            if depth + 1 >= super::json::MAX_DEPTH {
                return Err(Mismatch::new("messages are nested too deep"));
            }
            let mut fields = wire::fields(data)?;
            known::drop_replaced(kind, &mut fields);
            self.members(kind, fields, &mut separator, depth + 1)?;
        }
        self.out.push('}');
        Ok(())
    }
}

/// Whether a type has a form of its own.
fn is_well_known(kind: &MessageDescriptor) -> bool {
    let name = kind.full_name().strip_prefix("google.protobuf.").unwrap_or_default();
    BARE.contains(&name) || matches!(name, "Any" | "Timestamp" | "Duration" | "FieldMask" | "Empty")
}

/// The seconds and nanoseconds of a time or duration.
#[expect(clippy::cast_possible_wrap, reason = "negative numbers are written as their two's complement")]
#[expect(clippy::cast_possible_truncation, reason = "parsers take the low bits of a number, too")]
fn seconds(fields: &[WireField<'_>]) -> Option<(i64, i32)> {
    let (mut seconds, mut nanoseconds) = (0, 0);
    for field in fields {
        match field {
            WireField { number: 1, value: WireValue::Varint(bits) } => seconds = *bits as i64,
            WireField { number: 2, value: WireValue::Varint(bits) } => nanoseconds = *bits as i32,
            _ => return None,
        }
    }
    Some((seconds, nanoseconds))
}

/// `2026-11-30T09:14:02.5Z`, from year 1 to 9999.
fn timestamp(seconds: i64, nanoseconds: i32) -> Option<String> {
    let days = Span::new().try_days(seconds.div_euclid(SECONDS_OF_DAY)).ok()?;
    let date = date(1970, 1, 1).checked_add(days).ok().filter(|date| date.year() >= 1)?;
    let rest = Span::new().seconds(seconds.rem_euclid(SECONDS_OF_DAY));
    let time = DateTime::from(date).checked_add(rest).ok()?;
    let fraction = fraction(u32::try_from(nanoseconds).ok()?)?;
    Some(format!("{}{fraction}Z", time.strftime("%Y-%m-%dT%H:%M:%S")))
}

/// `1.5s`, of at most 10 000 years.
fn duration(seconds: i64, nanoseconds: i32) -> Option<String> {
    let is_negative = seconds < 0 || nanoseconds < 0;
    if seconds.unsigned_abs() > MAX_DURATION || (is_negative && (seconds > 0 || nanoseconds > 0)) {
        return None;
    }
    let sign = if is_negative { "-" } else { "" };
    Some(format!("{sign}{}{}s", seconds.unsigned_abs(), fraction(nanoseconds.unsigned_abs())?))
}

/// A fraction of a second with 0, 3, 6 or 9 digits.
fn fraction(nanoseconds: u32) -> Option<String> {
    let mut text = String::new();
    let written = match nanoseconds {
        0 => Ok(()),
        1_000_000_000.. => return None,
        whole if whole % 1_000_000 == 0 => write!(text, ".{:03}", whole / 1_000_000),
        whole if whole % 1000 == 0 => write!(text, ".{:06}", whole / 1000),
        whole => write!(text, ".{whole:09}"),
    };
    written.ok().map(|()| text)
}

/// Paths of fields by their names in JSON, separated by commas. None if a name would not come back from it.
fn field_mask(fields: &[WireField<'_>]) -> Option<String> {
    let mut mask = String::new();
    for field in fields {
        let WireField { number: 1, value: WireValue::Bytes(path) } = field else { return None };
        if !mask.is_empty() {
            mask.push(',');
        }
        let mut is_behind_underscore = false;
        for c in str::from_utf8(path).ok()?.chars() {
            match c {
                '_' if !is_behind_underscore => is_behind_underscore = true,
                'a'..='z' if is_behind_underscore => {
                    mask.push(c.to_ascii_uppercase());
                    is_behind_underscore = false;
                }
                'A'..='Z' => return None,
                _ if is_behind_underscore => return None,
                c => mask.push(c),
            }
        }
        if is_behind_underscore {
            return None;
        }
    }
    Some(mask)
}
