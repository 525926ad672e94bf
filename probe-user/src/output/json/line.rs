//! What every line has, and the parts that many have.
//!
//! Doc comments here are the descriptions in the schema. Fields are only ever added within a version.

use std::borrow::Cow;
use std::marker::PhantomData;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::connection::{SslCloseBody, SslOpenBody};
use super::exec::{ExecBody, ExecFailedBody, ExitBody, ForkBody};
use super::loss::{LostBody, SummaryBody};
use super::ssl::SslBody;
use super::uprobe::{UprobeBody, UprobeTotalBody};
use crate::event::{self, Container, Containment, Executable, K8s, RecordKind, SCHEMA};

/// One line of `ctrace … -o json`. Fields are only ever added within a schema version: ignore those that
/// you do not know, and records of a `type` that you do not know.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes the lines as a whole, for the schema alone")]
pub(super) enum AnyLine<'a> {
    Ssl(Line<SslBody<'a>>),
    SslOpen(Line<SslOpenBody<'a>>),
    SslClose(Line<SslCloseBody<'a>>),
    Uprobe(Line<UprobeBody<'a>>),
    UprobeTotal(Line<UprobeTotalBody<'a>>),
    Exec(Line<ExecBody<'a>>),
    ExecFailed(Line<ExecFailedBody<'a>>),
    Exit(Line<ExitBody<'a>>),
    Fork(Line<ForkBody<'a>>),
    Lost(Line<LostBody>),
    Summary(Line<SummaryBody>),
}

// It has no doc comment: the description of a line is its body's.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "{B}", transform = describe_time::<B>)]
pub(super) struct Line<B: LineBody> {
    #[serde(flatten)]
    envelope: Envelope<B>,
    #[serde(flatten)]
    body: B,
}

// What every line begins with. It has no doc comment for the same reason.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Envelope<B: LineBody> {
    /// Version of the schema.
    #[schemars(extend("const" = SCHEMA))]
    schema: u32,
    r#type: Tag<B>,
    time: Time,
}

/// What one type of record has beyond the envelope.
pub(super) trait LineBody {
    /// Which type.
    const KIND: RecordKind;
    /// What `time` is the time of, for the schema.
    const TIME: &'static str;
}

impl<B: LineBody> Line<B> {
    pub(super) fn new(time: Timestamp, body: B) -> Self {
        Self { envelope: Envelope { schema: SCHEMA, r#type: Tag(PhantomData), time: Time(time) }, body }
    }
}

impl<B: LineBody + Serialize> Line<B> {
    /// Appends the line without its end. Envelope and body are written as two objects that are joined here:
    /// serde could flatten one into the other, but a call took up to a tenth longer to write that way.
    pub(super) fn write(&self, buffer: &mut Vec<u8>) -> serde_json::Result<()> {
        serde_json::to_writer(&mut *buffer, &self.envelope)?;
        buffer.pop();
        let joint = buffer.len();
        serde_json::to_writer(&mut *buffer, &self.body)?;
        match buffer.get_mut(joint..) {
            Some([b'{', b'}']) => drop(buffer.remove(joint)),
            Some([brace, ..]) => *brace = b',',
            _ => {}
        }
        Ok(())
    }
}

fn describe_time<B: LineBody>(schema: &mut schemars::Schema) {
    if let Some(time) = schema.pointer_mut("/properties/time").and_then(|time| time.as_object_mut()) {
        time.insert("description".to_owned(), B::TIME.into());
    }
}

/// The name of a type of records.
struct Tag<B>(PhantomData<B>);

impl<B: LineBody> Serialize for Tag<B> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        B::KIND.serialize(serializer)
    }
}

impl<'de, B: LineBody> Deserialize<'de> for Tag<B> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let kind = RecordKind::deserialize(deserializer)?;
        if kind == B::KIND { Ok(Self(PhantomData)) } else { Err(de::Error::custom("another type of record")) }
    }
}

impl<B: LineBody> JsonSchema for Tag<B> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{:?}Type", B::KIND).into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "const": B::KIND })
    }
}

/// Where a process is.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct Place<'a> {
    /// The container of the process; null when it is in none, or that is not known.
    container: Option<Cow<'a, Container>>,
    /// The OpenTelemetry namespace `k8s`; not there when the container is in no pod, or in none that is
    /// known.
    #[serde(skip_serializing_if = "Option::is_none")]
    k8s: Option<K8s<'a>>,
}

impl<'a> Place<'a> {
    pub(super) fn new(containment: &'a Containment) -> Self {
        let container = containment.container();
        Self { container: container.map(Cow::Borrowed), k8s: K8s::of(container) }
    }
}

/// A process.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct ProcessPart<'a> {
    /// Id in the initial PID namespace (the host's).
    pid: u32,
    /// Id in its own PID namespace, as its container sees it; null when the process was gone.
    vpid: Option<u32>,
    /// Name (`comm`) of the calling thread; U+FFFD stands for what is not UTF-8.
    comm: Cow<'a, str>,
    /// Its executable; null when the process was gone.
    executable: Option<Cow<'a, Executable>>,
}

/// A thread.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct ThreadPart {
    /// Id in the initial PID namespace (the host's).
    pub(super) id: u32,
}

/// RFC 3339 in UTC with nanoseconds, always of the same length.
#[derive(Clone, Copy)]
pub(super) struct Time(pub(super) Timestamp);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:.9}", self.0))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map(Self).map_err(de::Error::custom)
    }
}

impl JsonSchema for Time {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "format": "date-time",
            "description": "RFC 3339, UTC, nine digits of a second",
        })
    }
}

impl<'a> ProcessPart<'a> {
    pub(super) fn new(origin: &'a event::ProcessContext, thread: &'a event::Thread) -> Self {
        let event::Process { pid, vpid, executable } = &origin.process;
        Self {
            pid: *pid,
            vpid: *vpid,
            comm: String::from_utf8_lossy(thread.name()),
            executable: executable.as_ref().map(Cow::Borrowed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Body {
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<u8>,
    }

    impl LineBody for Body {
        const KIND: RecordKind = RecordKind::Lost;
        const TIME: &'static str = "";
    }

    #[test]
    fn a_body_follows_the_envelope_in_the_same_object() -> serde_json::Result<()> {
        let envelope = r#"{"schema":1,"type":"lost","time":"1970-01-01T00:00:00.000000000Z""#;
        for (reason, expected) in [(Some(7), r#","reason":7}"#), (None, "}")] {
            let mut written = b"before ".to_vec();
            Line::new(Timestamp::UNIX_EPOCH, Body { reason }).write(&mut written)?;
            assert_eq!(String::from_utf8_lossy(&written), format!("before {envelope}{expected}"));
        }
        Ok(())
    }
}
