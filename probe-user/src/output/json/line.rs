//! The envelope, which is the part of a line that comes from the context of its record.
//!
//! Doc comments here are the descriptions in the schema. Fields are only ever added within a version.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Value, json};

use super::connection::{SslCloseBody, SslOpenBody};
use super::exec::{ExecBody, ExecFailedBody, ExitBody, ForkBody};
use super::harmed::HarmedBody;
use super::layout::{FieldOf, Layouts};
use super::loss::{LostBody, SummaryBody};
use super::missed::MissedBody;
use super::request::{RequestBody, StreamMessageBody};
use super::request_stats::RequestStatsBody;
use super::ssl::SslBody;
use super::unknown_tls::UnknownTlsBody;
use super::uprobe::{UprobeBody, UprobeTotalBody};
use crate::event::{
    self, Container, Containment, Context, Executable, K8s, Origin, Pod, Process, ProcessContext, RecordKind,
    SCHEMA,
};

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
    Harmed(Line<HarmedBody<'a>>),
    Missed(Line<MissedBody<'a>>),
    UnknownTls(Line<UnknownTlsBody<'a>>),
    Request(Line<RequestBody<'a>>),
    Message(Line<StreamMessageBody<'a>>),
    RequestStats(Line<RequestStatsBody<'a>>),
    Lost(Line<LostBody>),
    Summary(Line<SummaryBody>),
}

// The doc comments of these fields are for the schema, this one is not. What a record's origin lacks is not
// written: see `LineBody::ORIGIN`.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct Envelope<'a> {
    /// Version of the schema.
    #[schemars(extend("const" = SCHEMA))]
    schema: u32,
    #[schemars(with = "String")]
    r#type: RecordKind,
    pub(super) time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    since: Option<Time>,
    /// The container of the process; null when it is in none, or that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Container>")]
    #[expect(clippy::option_option, reason = "absent, null, or there")]
    container: Option<Option<Cow<'a, Container>>>,
    /// The OpenTelemetry namespace `k8s`; not there when the container is in no pod, or in none that is
    /// known.
    #[serde(skip_serializing_if = "Option::is_none")]
    k8s: Option<K8s<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ProcessPart<'a>")]
    process: Option<ProcessPart<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ThreadPart")]
    thread: Option<ThreadPart>,
}

/// The fields of an envelope, in order.
pub(super) const FIELDS: [&str; 8] =
    ["schema", "type", "time", "since", "container", "k8s", "process", "thread"];

/// Fields with their meaning, for the schema.
pub(super) type Meanings = &'static [(&'static str, &'static str)];

/// What one type of record has beyond the envelope.
pub(super) trait LineBody {
    /// The type.
    const KIND: RecordKind;
    /// The meaning of `time`, for the schema.
    const TIME: &'static str;
    /// The other fields of the envelope that its lines have. Lines with any of them have `container` and
    /// `k8s`, too.
    const ORIGIN: Meanings;
}

/// Appends a line without its end.
pub(super) fn write<B: LineBody + Serialize>(
    context: &Context<'_>,
    body: &B,
    buffer: &mut Vec<u8>,
) -> io::Result<()> {
    Ok(Envelope::new(B::KIND, context).write(body, buffer)?)
}

/// What a record has beyond the envelope as fields by their paths.
pub(super) trait FieldsBody<'a>: LineBody {
    /// The fields.
    fn fields(self) -> Vec<FieldOf<'a>>;
}

/// Appends a line of such a record without its end.
pub(super) fn write_fields<'a, B: FieldsBody<'a>>(
    context: &Context<'_>,
    body: B,
    layouts: &mut Layouts,
    buffer: &mut Vec<u8>,
) -> io::Result<()> {
    let write = |buffer: &mut Vec<u8>| layouts.append(body.fields(), buffer);
    Ok(Envelope::new(B::KIND, context).write_with(write, buffer)?)
}

/// Appends a line of an execution without its end. Its body has the process, because it says more about it
/// than the envelope does.
pub(super) fn write_execution<'a, B: LineBody + Serialize>(
    context: &'a Context<'_>,
    body: impl FnOnce(ProcessPart<'a>) -> B,
    buffer: &mut Vec<u8>,
) -> io::Result<()> {
    let mut envelope = Envelope::new(B::KIND, context);
    let process = envelope.process.take();
    let process = process.ok_or_else(|| incomplete(B::KIND, "process"))?;
    Ok(envelope.write(&body(process), buffer)?)
}

/// The error of a record whose context lacks what its kind needs.
pub(super) fn incomplete(kind: RecordKind, lacks: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("a record of the kind {kind:?} has no {lacks}"))
}

impl<'a> Envelope<'a> {
    fn new(kind: RecordKind, context: &'a Context<'_>) -> Self {
        let container = context.container().map(Containment::container);
        let since = match context.origin {
            Origin::Container { since, .. } => Some(Time(since)),
            Origin::Thread { .. } | Origin::Trace => None,
        };
        let thread = context.thread();
        Self {
            schema: SCHEMA,
            r#type: kind,
            time: Time(context.time),
            since,
            container: container.map(|container| container.map(Cow::Borrowed)),
            k8s: K8s::of(container.flatten()),
            process: thread.map(|(process, thread)| ProcessPart::new(process, thread)),
            thread: thread.map(|(_, thread)| ThreadPart { id: thread.id }),
        }
    }

    /// Appends the line without its end. Envelope and body are written as two objects that are joined here:
    /// serde could flatten one into the other, but a call took up to a tenth longer to write that way.
    fn write(&self, body: &impl Serialize, buffer: &mut Vec<u8>) -> serde_json::Result<()> {
        self.write_with(|buffer| serde_json::to_writer(buffer, body), buffer)
    }

    fn write_with(
        &self,
        body: impl FnOnce(&mut Vec<u8>) -> serde_json::Result<()>,
        buffer: &mut Vec<u8>,
    ) -> serde_json::Result<()> {
        serde_json::to_writer(&mut *buffer, self)?;
        buffer.pop();
        let joint = buffer.len();
        body(buffer)?;
        match buffer.get_mut(joint..) {
            Some([b'{', b'}']) => drop(buffer.remove(joint)),
            Some([brace, ..]) => *brace = b',',
            _ => {}
        }
        Ok(())
    }

    /// The context of the thread that the line is about. None if the line has none.
    pub(super) fn thread_context(self) -> Option<Context<'static>> {
        let (process, ThreadPart { id }) = (self.process?, self.thread?);
        let pod = self.k8s.map(|k8s| Arc::new(Pod::from(k8s)));
        let container = self.container.flatten().map(Cow::into_owned);
        let container = container.map(|container| Arc::new(Container { pod, ..container }));
        let thread = event::Thread { id, comm: process.padded_comm() };
        let ProcessPart { pid, vpid, executable, entered_container, .. } = process;
        let entered = entered_container.map(|EnteredPart { id, name }| {
            let (id, name) = (id.into_owned(), name.map(Cow::into_owned));
            Arc::new(Container { id, name, ..Container::default() })
        });
        let process = ProcessContext {
            process: Process { pid, vpid, executable: executable.map(Cow::into_owned), entered },
            // Null also stands for an unknown container, but most processes without one are known to be in
            // none.
            container: container.map_or(Containment::Host, Containment::In),
        };
        let origin = Origin::Thread { process: Cow::Owned(process), thread };
        Some(Context { time: self.time.0, origin, connection: None })
    }
}

/// A line, for the schema: the envelope is written by [`write`].
pub(super) struct Line<B>(B);

impl<B: LineBody + JsonSchema> JsonSchema for Line<B> {
    fn schema_name() -> Cow<'static, str> {
        B::schema_name()
    }

    /// The schema of the body, with the fields of the envelope that such lines have.
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut envelope = Envelope::json_schema(generator);
        let mut line = B::json_schema(generator);
        for name in FIELDS.into_iter().rev() {
            let of_origin = B::ORIGIN.iter().find(|(field, _)| *field == name);
            let change = match (name, of_origin) {
                ("type", _) => Some(("const", json!(B::KIND))),
                ("time", _) => Some(("description", json!(B::TIME))),
                (_, Some((_, meaning))) => Some(("description", json!(meaning))),
                ("schema", _) => None,
                ("container" | "k8s", _) if !B::ORIGIN.is_empty() => None,
                _ => continue,
            };
            let mut field = envelope.pointer_mut(&format!("/properties/{name}")).map(Value::take);
            if let (Some(Value::Object(field)), Some((keyword, value))) = (&mut field, change) {
                field.insert(keyword.to_owned(), value);
            }
            if let Some(Value::Object(fields)) = line.get_mut("properties") {
                fields.insert(name.to_owned(), field.unwrap_or_default());
            }
            if name != "k8s"
                && let Some(Value::Array(required)) = line.get_mut("required")
            {
                required.insert(0, name.into());
            }
        }
        line
    }
}

/// A process.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct ProcessPart<'a> {
    /// Id in the initial PID namespace (the host's).
    pub(super) pid: u32,
    /// Id in its own PID namespace, as its container sees it; null when the process was gone.
    pub(super) vpid: Option<u32>,
    /// Name (`comm`) of the calling thread; U+FFFD stands for what is not UTF-8.
    pub(super) comm: Cow<'a, str>,
    /// Its executable; null when the process was gone.
    pub(super) executable: Option<Cow<'a, Executable>>,
    /// The container whose mount namespace it has entered without being in its cgroup (nsenter); absent for
    /// all other processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) entered_container: Option<EnteredPart<'a>>,
}

/// A container that a process has entered.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct EnteredPart<'a> {
    /// The id of the container.
    id: Cow<'a, str>,
    /// Its name; null when no runtime could be asked.
    name: Option<Cow<'a, str>>,
}

/// A thread.
#[derive(Serialize, Deserialize, JsonSchema)]
struct ThreadPart {
    /// Id in the initial PID namespace (the host's).
    id: u32,
}

/// RFC 3339 in UTC with nanoseconds, always of the same length.
#[derive(Clone, Copy)]
pub(super) struct Time(pub(super) Timestamp);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:.9}", self.0))
    }
}

/// The text of times, of which most are in the same second as the one before.
#[derive(Debug, Default)]
pub(super) struct TimeText {
    second: Option<i64>,
    /// The text of that second, up to the point.
    text: String,
}

impl TimeText {
    /// Appends what [`Time`] serializes to.
    pub(super) fn push(&mut self, time: Timestamp, out: &mut Vec<u8>) {
        // Before 1970 the fraction counts backwards.
        let second = Some(time.as_second()).filter(|second| *second >= 0);
        if second.is_none() || self.second != second {
            self.second = second;
            self.text = format!("{time:.9}");
            if second.is_some() {
                self.text.truncate(self.text.find('.').unwrap_or(self.text.len()));
            }
        }
        out.push(b'"');
        out.extend_from_slice(self.text.as_bytes());
        if second.is_some() {
            let mut digits = [b'0'; 9];
            let mut rest = time.subsec_nanosecond().unsigned_abs();
            for digit in digits.iter_mut().rev() {
                *digit += u8::try_from(rest % 10).unwrap_or_default();
                rest /= 10;
            }
            out.push(b'.');
            out.extend_from_slice(&digits);
            out.push(b'Z');
        }
        out.push(b'"');
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

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "type": "string",
            "format": "date-time",
            "description": "RFC 3339, UTC, nine digits of a second",
        })
    }
}

impl<'a> ProcessPart<'a> {
    fn new(process: &'a ProcessContext, thread: &'a event::Thread) -> Self {
        let Process { pid, vpid, executable, entered } = &process.process;
        Self {
            pid: *pid,
            vpid: *vpid,
            comm: String::from_utf8_lossy(thread.name()),
            executable: executable.as_ref().map(Cow::Borrowed),
            entered_container: entered.as_deref().map(|container| EnteredPart {
                id: Cow::Borrowed(&container.id),
                name: container.name.as_deref().map(Cow::Borrowed),
            }),
        }
    }

    /// The name of the thread as the kernel has it. Bytes that are not UTF-8 were replaced in the line.
    fn padded_comm(&self) -> [u8; 16] {
        let mut comm = [0; 16];
        // The last byte is always NUL.
        let name = &self.comm[..self.comm.floor_char_boundary(comm.len() - 1)];
        comm.iter_mut().zip(name.bytes()).for_each(|(byte, of_name)| *byte = of_name);
        comm
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[derive(Serialize)]
    struct Body {
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<u8>,
    }

    impl LineBody for Body {
        const KIND: RecordKind = RecordKind::Lost;
        const TIME: &'static str = "";
        const ORIGIN: Meanings = &[];
    }

    #[test]
    fn a_body_follows_the_envelope_in_the_same_object() {
        let envelope = r#"{"schema":1,"type":"lost","time":"1970-01-01T00:00:00.000000000Z""#;
        for (reason, expected) in [(Some(7), r#","reason":7}"#), (None, "}")] {
            let mut written = b"before ".to_vec();
            write(&Context::of_trace(Timestamp::UNIX_EPOCH), &Body { reason }, &mut written).unwrap();
            assert_eq!(String::from_utf8_lossy(&written), format!("before {envelope}{expected}"));
        }
    }

    #[test]
    fn times_are_the_same_however_they_are_written() {
        let mut times = TimeText::default();
        let seconds = [0, 1, 1, 1_796_083_200, 1_796_083_200, -1, -1, 0];
        for (second, nanosecond) in seconds.into_iter().zip([0, 5, 999_999_999, 10, 0, 0, -3, 120_000_000]) {
            let time = Timestamp::new(second, nanosecond).unwrap();
            let mut written = Vec::new();
            times.push(time, &mut written);
            assert_eq!(written, serde_json::to_vec(&Time(time)).unwrap(), "{time}");
        }
    }

    #[test]
    fn an_execution_without_a_process_is_an_error() {
        let mut written = Vec::new();
        let context = Context::of_trace(Timestamp::UNIX_EPOCH);
        let error = write_execution(&context, |_| Body { reason: None }, &mut written).unwrap_err();
        assert_eq!((error.kind(), written.len()), (io::ErrorKind::InvalidInput, 0));
    }

    #[test]
    fn the_fields_of_the_envelope_are_listed() {
        let mut generator = SchemaGenerator::default();
        let schema = Envelope::json_schema(&mut generator);
        let names: Vec<_> = schema.get("properties").unwrap().as_object().unwrap().keys().collect();
        let mut fields = FIELDS.to_vec();
        fields.sort_unstable();
        assert_eq!(names, fields);
    }
}
