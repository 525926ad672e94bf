//! What a pipeline asks its environment about processes.

use std::fmt;
use std::sync::Arc;

use probe_common::{ExecRecord, Header};

use crate::event::{Containment, ProcessContext, Role, Socket};
use crate::proc::process_snapshot::{CommandLine, ProcessSnapshot};

/// Information about processes.
pub trait ProcessInfo: fmt::Debug {
    /// The process of a record, and its container. Called once per call, while the process may still be
    /// alive.
    fn origin(&mut self, header: &Header) -> Arc<ProcessContext>;

    /// Discards what is cached of a process that has ended or runs another program.
    fn forget(&mut self, pid: u32);

    /// The container of a cgroup of the v2 hierarchy.
    fn container(&mut self, cgroup: u64) -> Containment {
        let _ = cgroup;
        Containment::Unknown
    }

    /// The program of an exec record.
    fn program(&mut self, program: &ExecRecord) -> ProcessImage {
        ProcessImage { origin: self.origin(&program.header), running: None }
    }

    /// The program that a process runs now, if it exists.
    fn existing(&mut self, pid: u32) -> Option<(ProcessImage, CommandLine)> {
        let _ = pid;
        None
    }

    /// The start of a process that was running before the trace, in nanoseconds since boot.
    fn started(&mut self, pid: u32) -> Option<u64> {
        let _ = pid;
        None
    }

    /// The role of a process at a socket in this network namespace.
    fn role(&mut self, pid: u32, namespace: u32, socket: &Socket) -> Option<Role> {
        let _ = (pid, namespace, socket);
        None
    }

    /// What a call's argument points to, if it was not in memory and is certain to be a file's; see
    /// [`UnreadBytes`].
    fn unread(&mut self, unread: &UnreadBytes<'_>) -> Option<Vec<u8>> {
        let _ = unread;
        None
    }

    /// The name of a process, if it exists.
    fn comm(&mut self, pid: u32) -> Option<Vec<u8>> {
        let _ = pid;
        None
    }
}

/// Bytes of a process that could not be read when it called a function.
#[derive(Clone, Copy, Debug)]
pub struct UnreadBytes<'a> {
    /// The process.
    pub pid: u32,
    /// The address of the first byte.
    pub address: u64,
    /// How many bytes are wanted at most. Fewer are returned if only these are certain.
    pub length: usize,
    /// The address of the probe, by which a program that the process has executed since is told apart.
    pub instruction: u64,
    /// The path of the file that contains it.
    pub code: &'a str,
}

/// Information about a program.
#[derive(Debug)]
pub struct ProcessImage {
    /// The process and its container.
    pub origin: Arc<ProcessContext>,
    /// What /proc shows. None if the program runs no more.
    pub running: Option<ProcessSnapshot>,
}
