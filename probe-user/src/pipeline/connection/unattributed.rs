//! Sockets of TLS and QUIC that no call has used: why are their bytes not seen?
//!
//! Owns these sockets until that is clear, and which processes were reported. A socket that a call uses after
//! all is removed. So are the sockets of a process that only forwards what another process encrypts, and of
//! one with calls whose socket is unknown, because the socket may belong to these.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use probe_common::Header;

use crate::event::{Direction, ProcessContext, Role, UnknownTlsProtocol, UnknownTlsReason};
use crate::plan::ProcessCode;

/// The most sockets that are kept.
const SOCKETS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// The most hellos that are compared with later ones.
const HELLOS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// The most reported programs that are remembered.
const REPORTED: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
/// How long a call is waited for after a hello, in nanoseconds. If this were shorter, the hello that a proxy
/// forwards could be taken for its own.
const DELAY: u64 = 1_000_000_000;

/// The random value of a ClientHello.
type ClientRandom = [u8; 32];

/// The sockets that no call has used so far, by [`probe_common::SocketRecord::socket`].
#[derive(Debug)]
pub(in crate::pipeline) struct UnattributedSockets {
    sockets: LruCache<u64, Unattributed>,
    /// The direction and the socket in which a process has last moved a hello.
    hellos: LruCache<(u32, ClientRandom), (Direction, u64)>,
    /// Processes whose code is inspected by now, or soon.
    inspected: LruCache<u32, ()>,
    /// Those of which [`Self::take_new`] has not been asked yet.
    new: Vec<u32>,
    /// Processes that were reported, with their executables.
    reported: LruCache<(u32, Option<String>), ()>,
}

/// A socket that no call has used so far.
#[derive(Clone, Debug)]
pub(in crate::pipeline) struct Unattributed {
    /// The header of the record that led to it.
    pub(in crate::pipeline) header: Header,
    pub(in crate::pipeline) process: Arc<ProcessContext>,
    pub(in crate::pipeline) protocol: UnknownTlsProtocol,
    pub(in crate::pipeline) role: Role,
    /// Whether more data has passed than handshakes have.
    has_data: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A call may still use it, until this time of the kernel's boot clock in nanoseconds.
    Waiting(u64),
    /// The code of the process is being inspected.
    Inspected,
    /// The code of the process is probed, so more data is waited for.
    Quiet,
}

impl UnattributedSockets {
    pub(in crate::pipeline) fn new() -> Self {
        Self {
            sockets: LruCache::sparse(SOCKETS),
            hellos: LruCache::sparse(HELLOS),
            inspected: LruCache::sparse(REPORTED),
            new: Vec::new(),
            reported: LruCache::sparse(REPORTED),
        }
    }

    /// Adds the socket of a ClientHello that a process has moved in this direction.
    pub(in crate::pipeline) fn client_hello(
        &mut self,
        (socket, header): (u64, &Header),
        (direction, random): (Direction, ClientRandom),
        process: Arc<ProcessContext>,
    ) {
        let moved = self.hellos.put((header.pid, random), (direction, socket));
        if let Some((other, of_other)) = moved.filter(|(before, _)| *before != direction) {
            debug_assert_ne!(other, direction);
            self.sockets.pop(&of_other);
            return;
        }
        let role = if direction == Direction::Transmit { Role::Client } else { Role::Server };
        self.add((socket, header), UnknownTlsProtocol::Tls, role, process);
    }

    /// Adds a socket of QUIC.
    pub(in crate::pipeline) fn quic(
        &mut self,
        (socket, header): (u64, &Header),
        direction: Direction,
        process: Arc<ProcessContext>,
    ) {
        let role = if direction == Direction::Transmit { Role::Client } else { Role::Server };
        self.add((socket, header), UnknownTlsProtocol::Quic, role, process);
        self.has_data(socket);
    }

    fn add(
        &mut self,
        (socket, header): (u64, &Header),
        protocol: UnknownTlsProtocol,
        role: Role,
        process: Arc<ProcessContext>,
    ) {
        if self.reported.contains(&program(&process)) {
            return;
        }
        if self.inspected.put(header.pid, ()).is_none() {
            self.new.push(header.pid);
        }
        let stage = Stage::Waiting(header.time.saturating_add(DELAY));
        let header = *header;
        self.sockets.put(socket, Unattributed { header, process, protocol, role, has_data: false, stage });
    }

    /// Records that a socket has moved more data than handshakes do, inside of no call.
    pub(in crate::pipeline) fn has_data(&mut self, socket: u64) {
        if let Some(of_socket) = self.sockets.peek_mut(&socket) {
            of_socket.has_data = true;
            if of_socket.stage == Stage::Quiet {
                of_socket.stage = Stage::Waiting(0);
            }
        }
    }

    /// Records that a call uses a socket.
    pub(in crate::pipeline) fn used(&mut self, socket: u64) {
        self.sockets.pop(&socket);
    }

    /// Whether there is no socket.
    pub(in crate::pipeline) fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// Removes the sockets of a process whose calls are seen, though not their sockets, or whose files were
    /// attached to late.
    pub(in crate::pipeline) fn remove_process(&mut self, pid: u32) {
        self.inspected.pop(&pid);
        for socket in self.of_process(pid) {
            self.sockets.pop(&socket);
        }
    }

    /// Records that a process has ended: no call will use its sockets.
    pub(in crate::pipeline) fn ended(&mut self, pid: u32) {
        self.inspected.pop(&pid);
        for socket in self.of_process(pid) {
            if let Some(Unattributed { stage: stage @ Stage::Waiting(_), .. }) =
                self.sockets.peek_mut(&socket)
            {
                *stage = Stage::Waiting(0);
            }
        }
    }

    /// The processes whose code is to be inspected while they run, because they may be reported later.
    pub(in crate::pipeline) fn take_new(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.new)
    }

    /// The processes whose code is to be inspected, because no call has used a socket of theirs in time.
    /// `now` is a time of the kernel's boot clock in nanoseconds.
    pub(in crate::pipeline) fn take_due(&mut self, now: u64) -> Vec<u32> {
        let mut pids = Vec::new();
        for (_, of_socket) in &mut self.sockets {
            if matches!(of_socket.stage, Stage::Waiting(until) if until <= now) {
                of_socket.stage = Stage::Inspected;
                pids.push(of_socket.header.pid);
            }
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// What is to be reported of a process, after its code was inspected.
    pub(in crate::pipeline) fn inspected(
        &mut self,
        pid: u32,
        code: ProcessCode,
    ) -> Option<(u64, Unattributed, UnknownTlsReason)> {
        let mut found = None;
        for socket in self.of_process(pid) {
            let Some(of_socket) = self.sockets.peek_mut(&socket) else { continue };
            let reason = match code {
                _ if of_socket.stage != Stage::Inspected => continue,
                ProcessCode::Probed if !of_socket.has_data => {
                    of_socket.stage = Stage::Quiet;
                    continue;
                }
                ProcessCode::Probed | ProcessCode::Unprobed => Some(UnknownTlsReason::UnknownCode),
                ProcessCode::Reported => Some(UnknownTlsReason::CannotBeTraced),
                ProcessCode::EndedUninspected => Some(UnknownTlsReason::EndedUninspected),
                // A server that forks for each connection has many that end after a handshake.
                ProcessCode::Unknown if of_socket.role == Role::Client => {
                    Some(UnknownTlsReason::EndedUninspected)
                }
                ProcessCode::Unknown => None,
            };
            if let (Some(of_socket), Some(reason)) = (self.sockets.pop(&socket), reason) {
                found = Some((socket, of_socket, reason));
            }
        }
        let (socket, of_socket, reason) = found?;
        let is_new = self.reported.put(program(&of_socket.process), ()).is_none();
        is_new.then_some((socket, of_socket, reason))
    }

    fn of_process(&self, pid: u32) -> Vec<u64> {
        let is_its = |(_, of_socket): &(&u64, &Unattributed)| of_socket.header.pid == pid;
        self.sockets.iter().filter(is_its).map(|(socket, _)| *socket).collect()
    }
}

/// A process and its executable.
fn program(ProcessContext { process, .. }: &ProcessContext) -> (u32, Option<String>) {
    (process.pid, process.executable.as_ref().map(|executable| executable.path.clone()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use zerocopy::FromZeros as _;

    use super::*;
    use crate::event::{Containment, Executable, Process};

    const OWN: ClientRandom = [7; 32];

    fn process(pid: u32, path: &str) -> Arc<ProcessContext> {
        let executable = Some(Executable { path: path.to_owned() });
        Arc::new(ProcessContext {
            process: Process { pid, vpid: None, executable, entered: None },
            container: Containment::Host,
        })
    }

    fn header(pid: u32, time: u64) -> Header {
        Header { pid, time, ..Header::new_zeroed() }
    }

    /// A process that has sent a hello on socket 1.
    fn after_hello() -> UnattributedSockets {
        let mut sockets = UnattributedSockets::new();
        sockets.client_hello((1, &header(5, 100)), (Direction::Transmit, OWN), process(5, "/bin/app"));
        sockets
    }

    fn inspected(sockets: &mut UnattributedSockets, code: ProcessCode) -> Option<UnknownTlsReason> {
        sockets.inspected(5, code).map(|(_, _, reason)| reason)
    }

    #[test]
    fn a_hello_without_a_call_is_reported_after_a_while_and_once() {
        let mut sockets = after_hello();
        assert_eq!((sockets.take_new(), sockets.take_new()), (vec![5], Vec::new()));
        assert!(sockets.take_due(DELAY).is_empty());
        assert_eq!(sockets.take_due(100 + DELAY), [5]);
        assert!(sockets.take_due(100 + DELAY).is_empty());
        let (socket, found, reason) = sockets.inspected(5, ProcessCode::Unprobed).unwrap();
        assert_eq!((socket, found.role, reason), (1, Role::Client, UnknownTlsReason::UnknownCode));
        sockets.client_hello((2, &header(5, 200)), (Direction::Transmit, [8; 32]), process(5, "/bin/app"));
        assert!(sockets.is_empty(), "it was reported");
        sockets.client_hello((2, &header(5, 200)), (Direction::Transmit, [9; 32]), process(5, "/bin/next"));
        assert!(!sockets.is_empty(), "it executes another program");
    }

    #[test]
    fn a_socket_that_a_call_uses_is_not_reported() {
        let mut sockets = after_hello();
        sockets.used(1);
        assert!(sockets.is_empty());
        let mut sockets = after_hello();
        sockets.remove_process(6);
        assert!(!sockets.is_empty());
        sockets.remove_process(5);
        assert!(sockets.is_empty());
    }

    #[test]
    fn who_forwards_a_hello_does_not_speak_tls() {
        let mut sockets = UnattributedSockets::new();
        let proxy = || process(5, "/bin/proxy");
        sockets.client_hello((1, &header(5, 100)), (Direction::Receive, OWN), proxy());
        sockets.client_hello((2, &header(5, 110)), (Direction::Transmit, OWN), proxy());
        assert!(sockets.is_empty());
        // Another process has received what this one has sent.
        sockets.client_hello((1, &header(5, 100)), (Direction::Transmit, [1; 32]), proxy());
        sockets.client_hello((2, &header(6, 110)), (Direction::Receive, [1; 32]), process(6, "/bin/other"));
        assert_eq!(sockets.take_due(u64::MAX), [5, 6]);
    }

    #[test]
    fn a_process_with_probed_code_is_reported_only_for_data() {
        let mut sockets = after_hello();
        assert_eq!(sockets.take_due(u64::MAX), [5]);
        assert_eq!(inspected(&mut sockets, ProcessCode::Probed), None);
        sockets.ended(5);
        assert!(sockets.take_due(u64::MAX).is_empty());
        sockets.has_data(1);
        assert_eq!(sockets.take_due(0), [5]);
        assert_eq!(inspected(&mut sockets, ProcessCode::Probed), Some(UnknownTlsReason::UnknownCode));
    }

    #[test]
    fn what_is_reported_depends_on_what_is_known_of_the_code() {
        for (code, expected) in [
            (ProcessCode::EndedUninspected, Some(UnknownTlsReason::EndedUninspected)),
            (ProcessCode::Reported, Some(UnknownTlsReason::CannotBeTraced)),
            (ProcessCode::Unknown, Some(UnknownTlsReason::EndedUninspected)),
        ] {
            let mut sockets = after_hello();
            assert_eq!(inspected(&mut sockets, code), None, "it was not asked for");
            sockets.ended(5);
            assert_eq!(sockets.take_due(0), [5]);
            assert_eq!(inspected(&mut sockets, code), expected);
            assert!(sockets.is_empty());
        }
    }

    #[test]
    fn quic_is_reported_although_other_code_of_the_process_is_probed() {
        let mut sockets = UnattributedSockets::new();
        sockets.quic((3, &header(5, 0)), Direction::Receive, process(5, "/bin/app"));
        assert_eq!(sockets.take_due(DELAY), [5]);
        let (_, found, _) = sockets.inspected(5, ProcessCode::Probed).unwrap();
        assert_eq!((found.protocol, found.role), (UnknownTlsProtocol::Quic, Role::Server));
    }
}
