//! The shapes of the lines that can be read: those of docs/events.md. Unknown fields are skipped.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use probe_common::{Loss, LossCount};
use serde::Deserialize;

use super::record::{RecordedCall, RecordedConnection, RecordedEnd, RecordedRecord, RecordedTls};
use crate::event::{
    CloseReason, Connection, Container, Containment, Direction, Endpoint, Executable, IpVersion, Library,
    Lost, Pod, Process, ProcessContext, Reason, Role, SCHEMA, Socket, SocketEvidence, StopReason, Summary,
    Thread, Tls, TlsVersion, Traffic, Transport,
};

/// Why a line gives no record.
pub(super) enum NotRead {
    /// The line is empty.
    Empty,
    /// Its type is not shown, or it is of another version of the schema.
    OtherType,
    /// It is not a record.
    Bad(String),
}

/// The fields that every line has.
#[derive(Deserialize)]
struct Head<'a> {
    schema: u32,
    #[serde(borrow)]
    r#type: Cow<'a, str>,
}

/// Parses a line. Returns the record, and the number of its fields that were skipped.
pub(super) fn parse(line: &[u8]) -> Result<(RecordedRecord, u64), NotRead> {
    let line = line.trim_ascii();
    if line.is_empty() {
        return Err(NotRead::Empty);
    }
    let head: Head<'_> = serde_json::from_slice(line).map_err(|error| bad(&error))?;
    if head.schema != SCHEMA {
        return Err(NotRead::OtherType);
    }
    match &*head.r#type {
        "ssl" => fields(line, SslLine::record),
        "ssl_open" => fields(line, |line: ConnectionLine<'_>| line.record(None)),
        "ssl_close" => fields(line, CloseLine::record),
        "lost" => fields(line, LostLine::record),
        "summary" => fields(line, SummaryLine::record),
        _ => Err(NotRead::OtherType),
    }
}

fn fields<'a, T: Deserialize<'a>>(
    line: &'a [u8],
    record: impl FnOnce(T) -> Result<RecordedRecord, NotRead>,
) -> Result<(RecordedRecord, u64), NotRead> {
    let mut unknown = 0;
    let mut input = serde_json::Deserializer::from_slice(line);
    let shape = serde_ignored::deserialize(&mut input, |_| unknown += 1).map_err(|error| bad(&error))?;
    input.end().map_err(|error| bad(&error))?;
    Ok((record(shape)?, unknown))
}

/// The parser's own message would quote the line, which is other people's traffic.
fn bad(error: &serde_json::Error) -> NotRead {
    let what = match error.classify() {
        serde_json::error::Category::Data => "it has not the shape of a record",
        serde_json::error::Category::Eof => "it is cut off",
        serde_json::error::Category::Syntax | serde_json::error::Category::Io => "it is no JSON",
    };
    NotRead::Bad(format!("{what} (column {})", error.column()))
}

fn contradiction(what: &str) -> NotRead {
    NotRead::Bad(what.to_owned())
}

#[derive(Deserialize)]
struct SslLine<'a> {
    #[serde(rename = "schema")]
    _schema: u32,
    #[serde(rename = "type", borrow)]
    _type: Cow<'a, str>,
    time: Timestamp,
    container: Option<Container>,
    k8s: Option<K8sShape>,
    #[serde(borrow)]
    process: ProcessShape<'a>,
    thread: ThreadShape,
    library: Library,
    function: String,
    network: NetworkShape,
    tls: Option<TlsShape>,
    connection: Option<ConnectionShape>,
    call: CallShape,
    #[serde(borrow)]
    data: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data_base64: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct ConnectionLine<'a> {
    #[serde(rename = "schema")]
    _schema: u32,
    #[serde(rename = "type", borrow)]
    _type: Cow<'a, str>,
    time: Timestamp,
    container: Option<Container>,
    k8s: Option<K8sShape>,
    #[serde(borrow)]
    process: ProcessShape<'a>,
    thread: ThreadShape,
    library: Option<Library>,
    network: EndsShape,
    tls: Option<TlsShape>,
    connection: OpenShape,
}

#[derive(Deserialize)]
struct CloseLine<'a> {
    #[serde(rename = "schema")]
    _schema: u32,
    #[serde(rename = "type", borrow)]
    _type: Cow<'a, str>,
    time: Timestamp,
    container: Option<Container>,
    k8s: Option<K8sShape>,
    #[serde(borrow)]
    process: ProcessShape<'a>,
    thread: ThreadShape,
    library: Option<Library>,
    network: EndsShape,
    tls: Option<TlsShape>,
    connection: CloseShape,
    duration: Option<u64>,
    end: CloseReason,
}

#[derive(Deserialize)]
struct LostLine<'a> {
    #[serde(rename = "schema")]
    _schema: u32,
    #[serde(rename = "type", borrow)]
    _type: Cow<'a, str>,
    time: Timestamp,
    reason: Reason,
    events: u64,
    bytes: u64,
}

#[derive(Deserialize)]
struct SummaryLine<'a> {
    #[serde(rename = "schema")]
    _schema: u32,
    #[serde(rename = "type", borrow)]
    _type: Cow<'a, str>,
    time: Timestamp,
    started: Timestamp,
    end: StopReason,
    calls: u64,
    executions: Option<u64>,
    bytes: u64,
    truncated: u64,
    lost: LossesShape,
    undecodable: u64,
}

#[derive(Deserialize)]
struct LossesShape {
    #[serde(rename = "events")]
    _events: u64,
    #[serde(rename = "bytes")]
    _bytes: u64,
    reasons: BTreeMap<Reason, CountShape>,
}

#[derive(Clone, Copy, Deserialize)]
struct CountShape {
    events: u64,
    bytes: u64,
}

#[derive(Deserialize)]
struct K8sShape {
    pod: K8sPodShape,
    namespace: Option<NameShape>,
}

#[derive(Deserialize)]
struct K8sPodShape {
    name: String,
    uid: Option<String>,
}

#[derive(Deserialize)]
struct NameShape {
    name: String,
}

#[derive(Deserialize)]
struct ProcessShape<'a> {
    pid: u32,
    vpid: Option<u32>,
    #[serde(borrow)]
    comm: Cow<'a, str>,
    executable: Option<Executable>,
}

#[derive(Deserialize)]
struct ThreadShape {
    id: u32,
}

#[derive(Deserialize)]
struct NetworkShape {
    transport: Option<Transport>,
    r#type: Option<IpVersion>,
    local: Option<Endpoint>,
    peer: Option<Endpoint>,
    io: IoShape,
}

#[derive(Deserialize)]
struct IoShape {
    direction: Direction,
}

#[derive(Deserialize)]
struct EndsShape {
    transport: Option<Transport>,
    r#type: Option<IpVersion>,
    local: Option<Endpoint>,
    peer: Option<Endpoint>,
}

#[derive(Deserialize)]
struct ConnectionShape {
    id: u64,
    from_start: bool,
    offset: u64,
    role: Option<Role>,
    socket: Option<SocketEvidence>,
}

#[derive(Deserialize)]
struct OpenShape {
    id: u64,
    from_start: bool,
    role: Option<Role>,
    socket: Option<SocketEvidence>,
}

#[derive(Deserialize)]
struct CloseShape {
    id: u64,
    from_start: bool,
    role: Option<Role>,
    socket: Option<SocketEvidence>,
    calls: u64,
    received: u64,
    transmitted: u64,
}

#[derive(Deserialize)]
struct CallShape {
    number: Option<u64>,
    length: u64,
    captured: u32,
    offset: u32,
    #[serde(rename = "truncated")]
    _truncated: bool,
}

#[derive(Deserialize)]
struct TlsShape {
    protocol: Option<VersionShape>,
    cipher: Option<String>,
    client: ClientShape,
    next_protocol: Option<String>,
}

#[derive(Deserialize)]
struct VersionShape {
    name: String,
    version: String,
}

#[derive(Deserialize)]
struct ClientShape {
    server_name: Option<String>,
    supported_protocols: Option<Vec<String>>,
}

impl SslLine<'_> {
    fn record(self) -> Result<RecordedRecord, NotRead> {
        let Self { network, connection, call, .. } = self;
        let data = match (self.data, self.data_base64) {
            (None, None) => Vec::new(),
            (Some(text), None) => text.into_owned().into_bytes(),
            (None, Some(text)) => base64_simd::STANDARD
                .decode_to_vec(text.as_bytes())
                .map_err(|_| contradiction("data_base64 is no base64"))?,
            (Some(_), Some(_)) => return Err(contradiction("it has data and data_base64")),
        };
        let CallShape { number, length, captured, offset, .. } = call;
        let end = u64::from(offset).saturating_add(data.len() as u64);
        if end > u64::from(captured) || u64::from(captured) > length {
            return Err(contradiction("its lengths contradict each other"));
        }
        let sighting = connection.as_ref().and_then(|connection| connection.socket);
        let role = connection.as_ref().and_then(|connection| connection.role);
        let NetworkShape { transport, r#type, local, peer, io } = network;
        let socket = EndsShape { transport, r#type, local, peer }.socket(sighting, role);
        let connection = match (connection, number) {
            (None, None) => None,
            (Some(ConnectionShape { id, from_start, offset: start, .. }), Some(call)) => {
                // A line has the offset of the first byte of its payload, and not of its call.
                let stream_offset = start.wrapping_sub(u64::from(offset));
                Some(Connection { id, from_start, call, stream_offset })
            }
            _ => return Err(contradiction("it has a connection or a call's number, and not both")),
        };
        Ok(RecordedRecord::Call(Box::new(RecordedCall {
            time: self.time,
            thread: self.process.thread(self.thread.id),
            origin: self.process.origin(self.container, self.k8s),
            library: self.library,
            function: self.function,
            direction: io.direction,
            connection,
            socket,
            tls: self.tls.map(TlsShape::tls),
            length,
            captured,
            offset,
            data,
        })))
    }
}

impl ConnectionLine<'_> {
    #[expect(clippy::unnecessary_wraps, reason = "lines of other types can contradict themselves")]
    fn record(self, end: Option<RecordedEnd>) -> Result<RecordedRecord, NotRead> {
        let OpenShape { id, from_start, role, socket } = self.connection;
        Ok(RecordedRecord::Connection(Box::new(RecordedConnection {
            time: self.time,
            thread: self.process.thread(self.thread.id),
            origin: self.process.origin(self.container, self.k8s),
            library: self.library,
            id,
            from_start,
            socket: self.network.socket(socket, role),
            tls: self.tls.map(TlsShape::tls),
            end,
        })))
    }
}

impl CloseLine<'_> {
    fn record(self) -> Result<RecordedRecord, NotRead> {
        let CloseShape { id, from_start, role, socket, calls, received, transmitted } = self.connection;
        let traffic = Traffic { calls, received, transmitted };
        let end = RecordedEnd { duration: self.duration, traffic, reason: self.end };
        let open = ConnectionLine {
            _schema: SCHEMA,
            _type: Cow::Borrowed("ssl_open"),
            time: self.time,
            container: self.container,
            k8s: self.k8s,
            process: self.process,
            thread: self.thread,
            library: self.library,
            network: self.network,
            tls: self.tls,
            connection: OpenShape { id, from_start, role, socket },
        };
        open.record(Some(end))
    }
}

impl LostLine<'_> {
    #[expect(clippy::unnecessary_wraps, reason = "lines of other types can contradict themselves")]
    fn record(self) -> Result<RecordedRecord, NotRead> {
        let Self { time, reason, events, bytes, .. } = self;
        Ok(RecordedRecord::Lost(Lost { time, loss: reason.into(), count: LossCount { events, bytes } }))
    }
}

impl SummaryLine<'_> {
    #[expect(clippy::unnecessary_wraps, reason = "lines of other types can contradict themselves")]
    fn record(self) -> Result<RecordedRecord, NotRead> {
        let Self { time, started, end, calls, executions, bytes, truncated, lost, undecodable, .. } = self;
        let count = |loss: Loss| lost.reasons.get(&Reason::from(loss)).copied();
        let lost = Loss::ALL.into_iter().filter_map(|loss| {
            let CountShape { events, bytes } = count(loss)?;
            Some((loss, LossCount { events, bytes }))
        });
        let lost = lost.collect();
        let summary = Summary { time, started, end, calls, executions, bytes, truncated, lost, undecodable };
        Ok(RecordedRecord::Summary(Box::new(summary)))
    }
}

impl EndsShape {
    /// The socket, if the line contains the evidence for it.
    fn socket(self, sighting: Option<SocketEvidence>, role: Option<Role>) -> Option<Socket> {
        let Self { transport, r#type: ip, local, peer } = self;
        Some(Socket { transport, ip, local, peer, role, sighting: sighting? })
    }
}

impl ProcessShape<'_> {
    /// The thread. `comm` has the kernel's length. Bytes that are not UTF-8 were replaced in the recording.
    fn thread(&self, id: u32) -> Thread {
        let mut comm = [0; 16];
        // The last byte is always NUL.
        let name = &self.comm[..self.comm.floor_char_boundary(comm.len() - 1)];
        comm.iter_mut().zip(name.bytes()).for_each(|(byte, of_name)| *byte = of_name);
        Thread { id, comm }
    }

    fn origin(self, container: Option<Container>, k8s: Option<K8sShape>) -> ProcessContext {
        let pod = k8s.map(|K8sShape { pod: K8sPodShape { name, uid }, namespace }| {
            Arc::new(Pod { name, namespace: namespace.map(|namespace| namespace.name), uid })
        });
        let container = container.map(|container| Container { pod, ..container });
        ProcessContext {
            process: Process { pid: self.pid, vpid: self.vpid, executable: self.executable },
            // Null also stands for an unknown container, but most processes without one are known to be in
            // none.
            container: container.map_or(Containment::Host, |container| Containment::In(Arc::new(container))),
        }
    }
}

impl TlsShape {
    fn tls(self) -> RecordedTls {
        let Self { protocol, cipher, client, next_protocol } = self;
        let protocol = protocol.and_then(|said| TlsVersion::named(&said.name, &said.version));
        let ClientShape { server_name, supported_protocols: offered } = client;
        let cipher = cipher.map(Cow::Owned);
        RecordedTls { tls: Tls { protocol, cipher, server_name, offered, next_protocol }, is_first: true }
    }
}
