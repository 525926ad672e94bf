//! Segments of calls → records in the sink, and the totals.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;

use jiff::Timestamp;
use probe_common::{Call, FLAG_FROM_START, FLAG_TRANSMIT};

use super::Site;
use super::connection::table::ConnectionTable;
use super::reassembly::Segment;
use super::uprobe::calls::FunctionEmitter;
use crate::clock::Clock;
use crate::event::Output;
use crate::event::{ArgList, Connection, Direction, Exec, Plaintext, Record, Ssl, Thread};

/// The end of the pipeline, which all of its records pass.
#[derive(Debug)]
pub(super) struct Emitter {
    /// The hooks by site.
    pub(super) sites: HashMap<u32, Site>,
    pub(super) connections: ConnectionTable,
    clock: Clock,
    pub(super) sink: Box<dyn Output>,
    /// The calls begun. Each gives at least one record.
    pub(super) calls: u64,
    /// The programs reported.
    pub(super) executions: u64,
    /// The records of executions, failed executions, exits and forks.
    pub(super) records: u64,
    /// The payload bytes reported.
    pub(super) bytes: u64,
    /// The calls and programs that a limit truncated.
    pub(super) truncated: u64,
}

impl Emitter {
    pub(super) fn new(sites: HashMap<u32, Site>, clock: Clock, sink: Box<dyn Output>) -> Self {
        let connections = ConnectionTable::new();
        Self { sites, connections, clock, sink, calls: 0, executions: 0, records: 0, bytes: 0, truncated: 0 }
    }

    /// Converts a time of the kernel's boot clock to wall-clock time.
    pub(super) fn time(&self, boottime: u64) -> Timestamp {
        self.clock.timestamp(boottime)
    }

    /// Emits the record of a program.
    pub(super) fn executed(&mut self, exec: Exec<'_>) -> io::Result<()> {
        self.executions += 1;
        let cut = |strings: Option<&ArgList<'_>>| strings.is_some_and(|strings| strings.truncated);
        self.truncated += u64::from(cut(Some(&exec.arguments)) || cut(exec.environment.as_ref()));
        self.write(&Record::Exec(exec))
    }

    /// Emits a record that is not of a call.
    pub(super) fn write(&mut self, record: &Record<'_>) -> io::Result<()> {
        self.records += 1;
        self.sink.write(record)
    }

    /// An emitter for calls of functions.
    pub(super) fn out(&mut self, count: Option<u64>) -> FunctionEmitter<'_> {
        FunctionEmitter { clock: self.clock, sink: &mut *self.sink, count }
    }

    pub(super) fn site(&self, call: &Call) -> Option<&Site> {
        self.sites.get(&call.site)
    }

    /// Counts a call. Its segments follow.
    pub(super) fn begin(&mut self, call: &Call) {
        self.calls += 1;
        if u64::from(call.captured) < call.length {
            self.truncated += 1;
        }
    }

    /// Emits a segment of a call that was begun.
    pub(super) fn piece(&mut self, &Segment { call, origin, offset, data }: &Segment<'_>) -> io::Result<()> {
        let time = self.clock.timestamp(call.header.time);
        let Some(site) = self.sites.get(&call.site) else {
            return Ok(()); // not begun: `site` was asked before
        };
        let has = |flag| call.flags & flag != 0;
        let connection = (call.connection != 0).then_some(Connection {
            id: call.connection,
            from_start: has(FLAG_FROM_START),
            call: call.number,
            stream_offset: call.stream_offset,
        });
        let (socket, tls) = self.connections.describe(call.connection);
        let record = Record::Ssl(Ssl {
            time,
            origin: Cow::Borrowed(origin),
            thread: Thread { id: call.header.tid, comm: call.header.comm },
            library: Cow::Borrowed(&site.library),
            function: Cow::Borrowed(site.function(call.caller)),
            direction: if has(FLAG_TRANSMIT) { Direction::Transmit } else { Direction::Receive },
            connection,
            socket: socket.map(Cow::Borrowed),
            tls,
            length: call.length,
            captured: call.captured,
            offset,
            data: Plaintext::of(data),
        });
        self.sink.write(&record)?;
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        Ok(())
    }
}
