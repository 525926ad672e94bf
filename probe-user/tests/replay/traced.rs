//! A pipeline with what it is lent, fed with bytes of the ring as the event loop feeds it.

use std::io;
use std::ops::{Deref, DerefMut};

use ctrace::decode::{RingRecord, decode};
use ctrace::event::{Harmed, StopReason, Summary};
use ctrace::pipeline::{Counter, Pipeline, ProcessInfo, Setup};
use jiff::Timestamp;
use probe_common::{CountKey, Header, Lineage};

/// A pipeline, and the processes that it knows.
pub(super) struct Traced {
    pipeline: Pipeline,
    info: Box<dyn ProcessInfo>,
}

impl Traced {
    pub(super) fn new(setup: Setup, info: impl ProcessInfo + 'static) -> Self {
        Self { pipeline: Pipeline::new(setup), info: Box::new(info) }
    }

    /// A record of the ring. Control records change nothing of what is reported.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        match decode(bytes) {
            Ok(RingRecord::Data(record)) => self.pipeline.data(record, &mut *self.info),
            Ok(RingRecord::Task(record)) => self.pipeline.task(record, &mut *self.info),
            Ok(RingRecord::Control(_)) => Ok(()),
            Err(error) => {
                self.pipeline.undecodable(&error);
                Ok(())
            }
        }
    }

    pub(super) fn existing(&mut self, pid: u32, lineage: &Lineage) -> io::Result<()> {
        self.pipeline.emit_existing(pid, lineage, &mut *self.info)
    }

    pub(super) fn counted(&mut self, now: Timestamp, counted: &[(CountKey, Counter)]) -> io::Result<()> {
        self.pipeline.counted(now, counted, &mut *self.info)
    }

    pub(super) fn harm(&mut self, header: &Header, harmed: Harmed) -> io::Result<()> {
        self.pipeline.harmed(header, harmed, &mut *self.info)
    }

    pub(super) fn finish(self, now: Timestamp, end: StopReason) -> io::Result<Summary> {
        self.pipeline.finish(now, end)
    }
}

impl Deref for Traced {
    type Target = Pipeline;

    fn deref(&self) -> &Pipeline {
        &self.pipeline
    }
}

impl DerefMut for Traced {
    fn deref_mut(&mut self) -> &mut Pipeline {
        &mut self.pipeline
    }
}
