//! The lines of `ctrace uprobe`.
//!
//! Doc comments here are the descriptions in the schema. Fields are only ever added within a version.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::line::{LineBody, Meanings};
use crate::event::{
    Argument, CallOutcome, Library, Plaintext, RecordKind, StackFrame, Truncation, UprobeCall, UprobeTotal,
    Value,
};

/// A call of a function that `ctrace uprobe` was told of.
#[derive(Serialize, JsonSchema)]
#[expect(clippy::option_option, reason = "not asked for, null, or there")]
pub(super) struct UprobeBody<'a> {
    /// The goroutine that called; not there outside of Go.
    #[serde(skip_serializing_if = "Option::is_none")]
    goroutine: Option<String>,
    /// The file that has the function.
    object: ObjectPart<'a>,
    /// The function, demangled.
    function: Cow<'a, str>,
    /// The arguments that were asked for; null with `--ret-only`.
    args: Option<Vec<ArgumentPart<'a>>>,
    /// What the call returned. Null: it has not returned, because it was left by longjmp or an exception, or
    /// its process or the trace ended before; or see `return_unseen`. Not there when returns were not asked
    /// for.
    #[serde(rename = "return", skip_serializing_if = "Option::is_none")]
    returned: Option<Option<ReturnPart<'a>>>,
    /// True: whether it has returned is not known, because records were lost since it began, or it was one of
    /// too many that had not returned. Else not there.
    #[serde(skip_serializing_if = "is_false")]
    return_unseen: bool,
    /// Nanoseconds from the beginning of the call to its return; null and not there as `return`.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<Option<u64>>,
    /// Where the call came from, innermost first; not there without `--stack`.
    #[serde(skip_serializing_if = "Option::is_none")]
    stack: Option<Vec<FramePart<'a>>>,
}

/// A file.
#[derive(Serialize, JsonSchema)]
struct ObjectPart<'a> {
    /// Its soname, or else its file name.
    name: Cow<'a, str>,
    /// Path inside the root of the process in which it was found first.
    path: Cow<'a, str>,
}

/// An argument.
#[derive(Serialize, JsonSchema)]
struct ArgumentPart<'a> {
    /// Which one, from 1.
    index: usize,
    #[serde(flatten)]
    value: ValuePart<'a>,
}

/// What a call returned.
#[derive(Serialize, JsonSchema)]
struct ReturnPart<'a> {
    #[serde(flatten)]
    value: Option<ValuePart<'a>>,
}

/// A value.
#[derive(Serialize, JsonSchema)]
struct ValuePart<'a> {
    /// Its type, as in a pattern; `int` and `uint` with the number of their bits.
    r#type: Cow<'a, str>,
    /// A number, a boolean, a text, or `0x…` for `hex` and `ptr`; `NaN`, `inf` and `-inf` are texts; null: it
    /// is not UTF-8 (see `value_base64`), or it could not be read (see `error`).
    value: Plain<'a>,
    /// Text or bytes that are not UTF-8, in base64 (RFC 4648, section 4, padded).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("contentEncoding" = "base64"))]
    value_base64: Option<String>,
    /// There is more of the text or bytes than was captured (`--max-bytes`).
    #[serde(skip_serializing_if = "is_false")]
    truncated: bool,
    /// Why there is no value.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ValueError>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_false(value: &bool) -> bool {
    !value
}

#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum Plain<'a> {
    Null,
    Number(i128),
    Single(f32),
    Double(f64),
    Bool(bool),
    Text(Cow<'a, str>),
}

/// Why a value could not be had.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ValueError {
    /// What it points to was not in memory when the call began, or the address is not valid.
    Unreadable,
}

/// A place in the code.
#[derive(Serialize, JsonSchema)]
struct FramePart<'a> {
    /// Address in the process.
    #[schemars(with = "String")]
    address: Hex,
    /// The file that is mapped there; null when it is not known.
    object: Option<Cow<'a, str>>,
    /// The function, demangled; null when it is not known.
    function: Option<Cow<'a, str>>,
    /// Bytes after the beginning of the function; null when that is not known.
    offset: Option<u64>,
}

struct Hex(u64);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#x}", self.0))
    }
}

/// How often a function was called in a container, or how long its calls took.
#[derive(Serialize, JsonSchema)]
pub(super) struct UprobeTotalBody<'a> {
    /// The file that has the function.
    object: ObjectPart<'a>,
    /// The function, demangled.
    function: Cow<'a, str>,
    /// Calls; with `--latency`, those that have returned.
    count: u64,
    /// How long the calls took; not there without `--latency`.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency: Option<LatencyPart>,
}

/// How long calls took.
#[derive(Serialize, JsonSchema)]
struct LatencyPart {
    /// Sum of the durations in nanoseconds.
    total: u64,
    /// Calls by their durations, from the first bucket in use to the last.
    buckets: Vec<BucketPart>,
}

/// Calls that took about as long.
#[derive(Serialize, JsonSchema)]
struct BucketPart {
    /// Nanoseconds, at least.
    from: u64,
    /// Nanoseconds, less than.
    to: u64,
    /// How many.
    count: u64,
}

impl LineBody for UprobeBody<'_> {
    const KIND: RecordKind = RecordKind::Uprobe;
    const TIME: &'static str =
        "When the call began, in UTC. A call whose return was asked for is written when it has returned.";
    const ORIGIN: Meanings =
        &[("process", "The process that called."), ("thread", "The thread that called.")];
}

impl LineBody for UprobeTotalBody<'_> {
    const KIND: RecordKind = RecordKind::UprobeTotal;
    const TIME: &'static str = "When this was counted, in UTC.";
    const ORIGIN: Meanings =
        &[("since", "Since when: the beginning of the trace, or the last such records (`--interval`).")];
}

impl<'a> ObjectPart<'a> {
    fn new(object: &'a Library) -> Self {
        Self { name: object.name.as_str().into(), path: object.path.as_str().into() }
    }
}

impl<'a> ValuePart<'a> {
    fn new(argument: &'a Argument<'_>) -> Self {
        let mut part = Self {
            r#type: argument.kind.clone().into(),
            value: Plain::Null,
            value_base64: None,
            truncated: false,
            error: None,
        };
        match &argument.value {
            Value::Signed(value) => part.value = Plain::Number((*value).into()),
            Value::Unsigned(value) => part.value = Plain::Number((*value).into()),
            Value::Hex(value) => part.value = Plain::Text(format!("{value:#x}").into()),
            Value::Single(value) if value.is_finite() => part.value = Plain::Single(*value),
            Value::Double(value) if value.is_finite() => part.value = Plain::Double(*value),
            // JSON has no numbers for these.
            Value::Single(value) => part.value = Plain::Text(format!("{value}").into()),
            Value::Double(value) => part.value = Plain::Text(format!("{value}").into()),
            Value::Bool(value) => part.value = Plain::Bool(*value),
            Value::Text(Plaintext(data), extent) | Value::Bytes(Plaintext(data), extent) => {
                part.truncated = *extent == Truncation::Cut;
                match simdutf8::basic::from_utf8(data) {
                    Ok(text) => part.value = Plain::Text(text.into()),
                    Err(_) => part.value_base64 = Some(base64_simd::STANDARD.encode_to_string(data)),
                }
            }
            Value::Unreadable => part.error = Some(ValueError::Unreadable),
        }
        part
    }
}

impl<'a> FramePart<'a> {
    fn new(frame: &'a StackFrame) -> Self {
        Self {
            address: Hex(frame.address),
            object: frame.object.as_deref().map(Cow::Borrowed),
            function: frame.function.as_ref().map(|(name, _)| Cow::Borrowed(&**name)),
            offset: frame.function.as_ref().map(|(_, offset)| *offset),
        }
    }
}

impl<'a> UprobeBody<'a> {
    pub(super) fn new(call: &'a UprobeCall<'a>) -> Self {
        let (returned, duration) = match &call.end {
            CallOutcome::NotRequested => (None, None),
            CallOutcome::NeverReturned | CallOutcome::ReturnMissed => (Some(None), Some(None)),
            CallOutcome::Returned { value, duration } => {
                let part = ReturnPart { value: value.as_ref().map(ValuePart::new) };
                (Some(Some(part)), Some(Some(*duration)))
            }
        };
        let part = |argument: &'a Argument<'_>| ArgumentPart {
            index: argument.index + 1,
            value: ValuePart::new(argument),
        };
        Self {
            goroutine: call.goroutine.map(|goroutine| format!("{goroutine:#x}")),
            object: ObjectPart::new(&call.object),
            function: Cow::Borrowed(&call.function),
            args: call.arguments.as_ref().map(|arguments| arguments.iter().map(part).collect()),
            returned,
            return_unseen: matches!(call.end, CallOutcome::ReturnMissed),
            duration,
            stack: call.stack.as_ref().map(|frames| frames.iter().map(FramePart::new).collect()),
        }
    }
}

impl<'a> UprobeTotalBody<'a> {
    pub(super) fn new(total: &'a UprobeTotal<'a>) -> Self {
        let latency = total.latency.as_ref().map(|latency| LatencyPart {
            total: latency.total,
            buckets: latency
                .used()
                .into_iter()
                .map(|(from, to, count)| BucketPart { from, to, count })
                .collect(),
        });
        Self {
            object: ObjectPart::new(&total.object),
            function: Cow::Borrowed(&total.function),
            count: total.count,
            latency,
        }
    }
}
