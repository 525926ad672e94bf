//! Tests that the programs can be loaded and a probe attached, by doing so.
//!
//! This is harmless: nothing is in scope, the probed function is one of ctrace itself that is never called,
//! and everything is removed again after the check.

use std::sync::Arc;

use probe_common::{CallShape, Calls, IoDirection, LengthSource};

use super::check::Check;
use crate::bpf::{self, BpfLog, MmapEvents, ProbeLink, Session, SessionError, SessionOptions, TrackExec};
use crate::elf::FileOffset;
use crate::error_chain;
use crate::event::Library;
use crate::plan::program_set::{CapturedConnections, ConnectionRecords, ProgramSet};
use crate::plan::return_probe::ReturnProbe;
use crate::plan::{Hook, ObjectHooks, ObjectId, ProbeProgram};
use crate::rootfs::{self, access_paths};
use crate::scope::Scope;

/// The size of the ring in bytes, for a session with few records.
pub(super) const RING: u32 = 1 << 20;

/// A session that captures no payload.
pub(super) fn session(scope: &Scope) -> Result<Session, SessionError> {
    let options = SessionOptions {
        programs: ProgramSet::connections_of(CapturedConnections::Tls, ConnectionRecords::Off),
        ring_bytes: RING,
        probe_link: ProbeLink::Auto,
        max_bytes: 0,
        log: BpfLog::Off,
        command: None,
    };
    Session::load(&options, scope)
}

/// Loads the programs, and attaches a probe to ctrace itself.
pub(super) fn checks() -> Vec<Check> {
    const LOAD: &str = "loading the programs";
    const ATTACH: &str = "setting a probe";
    let mut session = match session(&Scope::default()) {
        Ok(session) => session,
        Err(error) => return vec![Check::no(LOAD, error_chain::in_one_line(&error), next(&error))],
    };
    let loaded = Check::ok(LOAD, "loaded with nothing in scope, and unloaded again");
    let object = match own_function() {
        Ok(object) => object,
        Err(why) => {
            let next = "see whether a probe can be set in a container: ctrace doctor CONTAINER";
            return vec![loaded, Check::warn(ATTACH, why, next)];
        }
    };
    let attached = match session.attach(&object).into_iter().next() {
        None => Check::ok(ATTACH, "set on an unused function of ctrace itself, and removed again"),
        Some((_, error)) => Check::no(ATTACH, error_chain::in_one_line(&error), next(&error)),
    };
    vec![loaded, attached, mapping_events()]
}

/// Checks whether the kernel reports libraries that are mapped while a trace runs.
fn mapping_events() -> Check {
    const NAME: &str = "mapping events";
    match MmapEvents::open(TrackExec::FromMmapEvents) {
        Ok(_) => Check::ok(NAME, "the kernel reports files that are mapped during a trace"),
        Err(error) => {
            let next = "libraries that are loaded during a trace may be found late: start the trace after they \
                        are loaded";
            Check::warn(NAME, error_chain::in_one_line(&error), next)
        }
    }
}

/// The advice for the user.
pub(super) fn next(error: &SessionError) -> &'static str {
    match error {
        SessionError::NotPermitted { .. } => {
            "see the rights above; if none is missing, lockdown, a user namespace or a security module \
             forbids it"
        }
        SessionError::Kernel { .. } => "use a kernel that has it",
        SessionError::Tracefs { .. } => "mount -t tracefs tracefs /sys/kernel/tracing",
        _ => "report it with the output of `ctrace -vv doctor` and `uname -a`",
    }
}

/// Prepares the process for a session, and returns what is missing. Must be called before other threads are
/// started.
pub(super) fn prepared() -> Option<Check> {
    let error = bpf::prepare().err()?;
    Some(Check::no("everything at hand", error_chain::in_one_line(&error), next(&error)))
}

/// The function that is probed.
#[inline(never)]
extern "C" fn never_called(value: u32) -> u32 {
    std::hint::black_box(value)
}

fn own_function() -> Result<ObjectHooks, String> {
    let own = std::process::id();
    let address = (never_called as extern "C" fn(u32) -> u32) as usize as u64;
    let mappings = rootfs::executable_mappings(own).map_err(|error| error_chain::in_one_line(&error))?;
    let mut ranges = mappings.iter().flat_map(|mapping| &mapping.ranges);
    let range = ranges.find(|range| (range.start..range.end).contains(&address));
    let range = range.ok_or("ctrace's own code is not in its mappings")?;
    let file = access_paths::executable(own).map_err(|error| error_chain::in_one_line(&error))?;
    let (length, direction) = (LengthSource::Returned, IoDirection::Transmit);
    let shape = CallShape { handle: 0, buffer: 1, length, direction, calls: Calls::All };
    let hook = Hook {
        program: ProbeProgram::Io,
        function: "never_called".to_owned(),
        public_names: Vec::new(),
        offset: FileOffset(address - range.start + range.offset),
        cookie_args: shape.pack(),
        call_sites: Vec::new(),
        return_probe: ReturnProbe::None,
        return_reason: None,
        exits: Vec::new(),
        implementation: None,
        semaphore: None,
        capture: None,
    };
    let path = file.name().to_string_lossy().into_owned();
    let library = Library { name: "ctrace".to_owned(), path, implementation: None, version: None };
    Ok(ObjectHooks {
        id: ObjectId(0),
        library: Arc::new(library),
        file: Arc::new(file),
        pids: vec![own],
        available_to: Vec::new(),
        evidence: Vec::new(),
        sites: 0..1,
        hooks: vec![hook],
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn the_function_is_found_in_the_file() {
        let object = own_function().unwrap();
        let hook = object.hooks.first().unwrap();
        let mut file = object.file.file().unwrap();
        let mut in_file = [0_u8; 4];
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(hook.offset.0)).unwrap();
        std::io::Read::read_exact(&mut file, &mut in_file).unwrap();
        assert_ne!(in_file, [0; 4], "code is not zero");
        assert_eq!(never_called(7), 7);
    }
}
