//! Segments of calls → records in the sink, and the totals.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::time::Duration;

use jiff::Timestamp;
use probe_common::{Call, FLAG_FROM_START, FLAG_TRANSMIT, Header, system_call_of};

use super::Site;
use super::connection::cleartext;
use super::connection::table::ConnectionTable;
use super::reassembly::Segment;
use super::uprobe::calls::FunctionEmitter;
use crate::clock::Clock;
use crate::event::Output;
use crate::event::{
    ArgList, Body, Connection, Context, Direction, Exec, Plaintext, ProcessContext, Record, Ssl, Thread,
};

/// The end of the pipeline, which all of its records pass.
#[derive(Debug)]
pub(super) struct Emitter {
    /// The hooks by site.
    pub(super) sites: HashMap<u32, Site>,
    /// What stands for system calls that move bytes without TLS.
    system_calls: Site,
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
        Self {
            sites,
            system_calls: cleartext::system_calls(),
            connections,
            clock,
            sink,
            calls: 0,
            executions: 0,
            records: 0,
            bytes: 0,
            truncated: 0,
        }
    }

    /// Converts a time of the kernel's boot clock to wall-clock time.
    pub(super) fn time(&self, boottime: u64) -> Timestamp {
        self.clock.timestamp(boottime)
    }

    /// The context of what a thread did, by the header of the kernel's record.
    pub(super) fn context<'a>(&self, header: &Header, process: &'a ProcessContext) -> Context<'a> {
        let thread = Thread { id: header.tid, comm: header.comm };
        Context::of_thread(self.time(header.time), process, thread)
    }

    /// Emits the record of a program.
    pub(super) fn executed(&mut self, context: Context<'_>, exec: Exec<'_>) -> io::Result<()> {
        self.executions += 1;
        let cut = |strings: Option<&ArgList<'_>>| strings.is_some_and(|strings| strings.truncated);
        self.truncated += u64::from(cut(Some(&exec.arguments)) || cut(exec.environment.as_ref()));
        self.write(context, Body::Exec(exec))
    }

    /// Emits a record of an execution, a failed execution, an exit or a fork.
    pub(super) fn write(&mut self, context: Context<'_>, body: Body<'_>) -> io::Result<()> {
        self.records += 1;
        self.sink.write(&Record { context, body })
    }

    /// An emitter for calls of functions.
    pub(super) fn out(&mut self, count: Option<u64>) -> FunctionEmitter<'_> {
        FunctionEmitter { clock: self.clock, sink: &mut *self.sink, count }
    }

    /// Whether the place is known where a call was seen.
    pub(super) fn is_known(&self, call: &Call) -> bool {
        system_call_of(call.site).is_some() || self.sites.contains_key(&call.site)
    }

    /// Counts a call. Its segments follow.
    pub(super) fn begin(&mut self, call: &Call) {
        self.calls += 1;
        if u64::from(call.captured) < call.length {
            self.truncated += 1;
        }
    }

    /// Records that a connection was seen at a hook at this time of the kernel.
    pub(super) fn seen(&mut self, connection: u64, site: u32, time: u64) {
        if self.sites.get(&site).is_some_and(|site| time < site.complete_since) {
            self.connections.seen_in_part(connection);
        }
    }

    /// Emits a segment of a call that was begun.
    pub(super) fn piece(&mut self, &Segment { call, origin, offset, data }: &Segment<'_>) -> io::Result<()> {
        let site = match system_call_of(call.site) {
            Some(_) => Some(&self.system_calls),
            None => self.sites.get(&call.site),
        };
        let Some(site) = site else {
            return Ok(()); // not begun: `is_known` was asked before
        };
        let has = |flag| call.flags & flag != 0;
        let mut context = self.context(&call.header, origin);
        // The number is 0 if the kernel's table of connections was full.
        let position = (call.connection != 0).then(|| self.connections.position(call));
        if position.is_some() {
            let (id, from_start) = (call.connection, has(FLAG_FROM_START));
            let connection = Connection { id, from_start, partial_attach: false, socket: None, tls: None };
            context.connection = Some(self.connections.describe(connection));
        }
        let system_call = system_call_of(call.site).and_then(cleartext::system_call_name);
        let body = Body::Ssl(Ssl {
            library: Cow::Borrowed(&site.library),
            function: Cow::Borrowed(system_call.unwrap_or_else(|| site.function(call.caller))),
            direction: if has(FLAG_TRANSMIT) { Direction::Transmit } else { Direction::Receive },
            position,
            length: call.length,
            duration: Some(Duration::from_nanos(call.header.time.saturating_sub(call.entered))),
            captured: call.captured,
            offset,
            data: Plaintext::of(data),
        });
        self.sink.write(&Record { context, body })?;
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        Ok(())
    }
}
