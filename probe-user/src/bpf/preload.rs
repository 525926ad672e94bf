//! Loads the programs that a session needs at its start, several at a time: the kernel's verifier takes most
//! of the time of a start, and programs are verified independently of each other.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::thread;

use aya::Ebpf;
use aya::programs::{Program, ProgramError};

use super::loader::{self, Uprobes};
use super::programs::{AttachPoint, BpfProgram};
use super::uprobe_multi::ProgramCode;
use super::{SessionError, features};
use crate::plan::program_set::ProgramFamily;

/// The most threads that load programs.
const THREADS: usize = 8;

/// A program to be loaded.
enum ProgramToLoad<'a> {
    Aya(&'static BpfProgram, &'a mut Program),
    Multi(&'static BpfProgram, &'a ProgramCode),
}

/// A loaded program. None if aya keeps its descriptor.
type LoadedProgram = (&'static BpfProgram, Result<Option<OwnedFd>, ProgramError>);

impl ProgramToLoad<'_> {
    fn load(self) -> LoadedProgram {
        match self {
            Self::Aya(row, program) => (row, load_by_aya(row.name, program).map(|()| None)),
            Self::Multi(row, code) => (row, code.load(row).map(Some)),
        }
    }
}

fn load_by_aya(name: &str, program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::TracePoint(program) => program.load()?,
        Program::RawTracePoint(program) => program.load()?,
        Program::UProbe(program) => program.load()?,
        // Programs of other types are loaded when they are attached, because they are for one function.
        _ => return Ok(()),
    }
    loader::log_verifier_stats(name, program.info());
    Ok(())
}

/// Loads programs of the table. The error is that of the first one that the kernel refuses. Programs that a
/// session can do without are not among these: they are loaded again when they are to be attached.
pub(super) fn load(
    ebpf: &mut Ebpf,
    uprobes: &mut Uprobes,
    wanted: &[&'static BpfProgram],
) -> Result<(), SessionError> {
    let code = match &*uprobes {
        Uprobes::Multi(programs) => Some(programs.code()),
        Uprobes::Perf => None,
    };
    let mut of_aya: Vec<_> = ebpf.programs_mut().collect();
    // The last ones of the table take the verifier longest, so they are loaded first.
    let wanted = wanted.iter().rev().filter(|row| exists(row));
    let queue: Vec<ProgramToLoad<'_>> = wanted
        .filter_map(|row| {
            if let Some(code) = code.filter(|_| row.attach_point.is_in_files()) {
                return Some(ProgramToLoad::Multi(row, code));
            }
            let index = of_aya.iter().position(|(name, _)| *name == row.name)?;
            Some(ProgramToLoad::Aya(row, of_aya.swap_remove(index).1))
        })
        .collect();
    let mut first_error = None;
    for (row, loaded) in load_all(queue) {
        match (loaded, &mut *uprobes) {
            (Ok(Some(program)), Uprobes::Multi(programs)) => programs.add(row, program),
            (Err(source), _) if !is_optional(row) => {
                first_error = Some(SessionError::program(row.name, source));
            }
            _ => {}
        }
    }
    first_error.map_or(Ok(()), Err)
}

/// Whether a session goes on without the program.
fn is_optional(row: &BpfProgram) -> bool {
    use ProgramFamily::{ClearSockets, Signals, SocketCloses, Sockets};
    matches!(row.family, Sockets | ClearSockets | SocketCloses | Signals)
}

/// Whether the kernel has the tracepoint. If it does not, loading the program would be wasted time.
fn exists(row: &BpfProgram) -> bool {
    match row.attach_point {
        AttachPoint::RawTracepoint(event)
            if matches!(row.family, ProgramFamily::Sockets | ProgramFamily::ClearSockets) =>
        {
            features::has_tracepoint("sock", event)
        }
        _ => true,
    }
}

/// Loads programs at the same time.
fn load_all(mut queue: Vec<ProgramToLoad<'_>>) -> Vec<LoadedProgram> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS).min(queue.len());
    queue.reverse();
    let (queue, done) = (Mutex::new(queue), Mutex::new(Vec::new()));
    let work = || {
        // Nothing panics while it holds a lock.
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // The lock is not held in the loop, as it would be if it were taken in the loop's condition.
        while let Some(next) = next() {
            let loaded = next.load();
            done.lock().unwrap_or_else(PoisonError::into_inner).push(loaded);
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            // If no thread can be started, the others load its share.
            let _ = thread::Builder::new().name("verify".to_owned()).spawn_scoped(scope, work);
        }
        work();
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
}
