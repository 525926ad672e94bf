//! What a pipeline asks of the world about processes.

use std::fmt;
use std::sync::Arc;

use probe_common::{ExecRecord, Header};

use crate::event::{Containment, ProcessContext, Role, Socket};
use crate::proc::process_snapshot::{CommandLine, ProcessSnapshot};

/// What is known of processes.
pub trait ProcessInfo: fmt::Debug {
    /// The process of a record, and its container; called once a call, while the process may be alive.
    fn origin(&mut self, header: &Header) -> Arc<ProcessContext>;

    /// The process has ended, or is another program now.
    fn forget(&mut self, pid: u32);

    /// The container of a cgroup of the v2 hierarchy.
    fn container(&mut self, cgroup: u64) -> Containment {
        let _ = cgroup;
        Containment::Unknown
    }

    /// The program of a record.
    fn program(&mut self, program: &ExecRecord) -> ProcessImage {
        ProcessImage { origin: self.origin(&program.header), running: None }
    }

    /// What a process runs now, if it is there.
    fn existing(&mut self, pid: u32) -> Option<(ProcessImage, CommandLine)> {
        let _ = pid;
        None
    }

    /// When a process began, in nanoseconds after boot, that was there before the trace.
    fn started(&mut self, pid: u32) -> Option<u64> {
        let _ = pid;
        None
    }

    /// Which end of a socket, in this network namespace, a process is.
    fn role(&mut self, pid: u32, namespace: u32, socket: &Socket) -> Option<Role> {
        let _ = (pid, namespace, socket);
        None
    }

    /// The name of a process that is there.
    fn comm(&mut self, pid: u32) -> Option<Vec<u8>> {
        let _ = pid;
        None
    }
}

/// What is known of a program.
#[derive(Debug)]
pub struct ProcessImage {
    /// Process and container.
    pub origin: Arc<ProcessContext>,
    /// What /proc tells; none if it runs no more.
    pub running: Option<ProcessSnapshot>,
}
