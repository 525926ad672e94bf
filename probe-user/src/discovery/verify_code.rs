//! Checks that the code in a process's memory is that of the file, where probes go.
//!
//! The kernel writes a breakpoint over the code in memory. If that differed from what was decoded from the
//! file (somebody has patched it, or the file lies about its load address), the target would then execute
//! something else.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use crate::elf::FileOffset;
use crate::event::Direction;
use crate::probe::{ProbeMatch, UnseenPart};
use crate::proc::maps::Mapping;
use crate::rootfs::ForeignFile;

/// The bytes that are compared: the probed instruction and those after it.
const COMPARED: usize = 16;
/// A breakpoint, of another tracer's probes or of ours.
const BREAKPOINT: u8 = 0xcc;
/// A nop that the kernel turns into a call when it is probed (since 6.18).
const WIDE_NOP: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];
const CALL: u8 = 0xe8;

/// Removes the hooks where memory differs from the file. What cannot be read counts as equal, because the
/// kernel does not probe what is not mapped.
pub(super) fn retain_unpatched(pid: u32, mapping: &Mapping, file: &ForeignFile, found: &mut ProbeMatch) {
    let (Ok(file), Ok(memory)) = (file.file(), File::open(format!("/proc/{pid}/mem"))) else { return };
    let differs = |offset: FileOffset| {
        let pair = (read(&file, offset.0), address(mapping, offset).and_then(|at| read(&memory, at)));
        matches!(pair, (Some(file), Some(memory)) if !is_same(&file, &memory))
    };
    let both = [Direction::Receive, Direction::Transmit];
    let seen: Vec<Direction> = both.into_iter().filter(|direction| found.sees(*direction)).collect();
    let skipped = &mut found.skipped;
    found.hooks.retain(|hook| {
        let changed = std::iter::once(hook.offset)
            .chain(hook.exits.iter().map(|exit| exit.offset))
            .find(|offset| differs(*offset));
        if let Some(FileOffset(offset)) = changed {
            skipped.push(format!(
                "{}: its code in memory is not that of the file at {offset:#x}: something has patched it",
                hook.function
            ));
        }
        changed.is_none()
    });
    for direction in seen {
        if !found.sees(direction) {
            let why = found.skipped.last().cloned().unwrap_or_default();
            found.unseen.push(UnseenPart::Direction(direction, why));
        }
    }
}

/// Whether these bytes are the file's code at an offset, with a breakpoint at their beginning.
pub fn is_probed_code(file: &ForeignFile, FileOffset(offset): FileOffset, memory: &[u8; COMPARED]) -> bool {
    let code = || read(&file.file().ok()?, offset);
    memory.first() == Some(&BREAKPOINT) && code().is_some_and(|code| is_same(&code, memory))
}

/// The address of a byte of the file in the process.
fn address(mapping: &Mapping, FileOffset(offset): FileOffset) -> Option<u64> {
    mapping.ranges.iter().find_map(|range| {
        let inside = offset.checked_sub(range.offset)?;
        let length = range.end.checked_sub(range.start)?;
        (inside.checked_add(COMPARED as u64)? <= length).then(|| range.start + inside)
    })
}

fn read(file: &File, at: u64) -> Option<[u8; COMPARED]> {
    let mut bytes = [0; COMPARED];
    file.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}

/// Whether the code in memory is the file's, apart from probes.
fn is_same(mut file: &[u8], mut memory: &[u8]) -> bool {
    while let (Some((of_file, rest)), Some((of_memory, others))) = (file.split_first(), memory.split_first())
    {
        let is_probed = *of_memory == BREAKPOINT;
        if *of_memory == CALL && (file.starts_with(&WIDE_NOP) || WIDE_NOP.starts_with(file)) {
            (file, memory) = (
                file.get(WIDE_NOP.len()..).unwrap_or_default(),
                memory.get(WIDE_NOP.len()..).unwrap_or_default(),
            );
        } else if of_file == of_memory || is_probed {
            (file, memory) = (rest, others);
        } else {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::plan::return_probe::ReturnProbe;
    use crate::plan::{Hook, ProbeProgram};
    use crate::rootfs;

    #[test]
    fn code_is_the_same_but_for_probes() {
        let nop = [0x0f, 0x1f, 0x44, 0, 0, 0x55];
        let cases: &[(&[u8], &[u8], bool)] = &[
            (&[0x55, 0x48, 0x89], &[0x55, 0x48, 0x89], true),
            (&[0x55, 0x48, 0x89], &[0xcc, 0x48, 0x89], true),
            (&[0x55, 0x48, 0x89], &[0x55, 0xcc, 0x89], true),
            (&[0x55, 0x48, 0x89], &[0x55, 0x48, 0x90], false),
            (&[0x55, 0x48, 0x89], &[0xe9, 0x48, 0x89], false),
            (&nop, &[0xe8, 1, 2, 3, 4, 0x55], true),
            (&nop, &[0xe8, 1, 2, 3, 4, 0x56], false),
            (&[0x0f, 0x1f], &[0xe8, 1], true),
            (&[0x0f, 0x10], &[0xe8, 1], false),
        ];
        for (file, memory, same) in cases {
            assert_eq!(is_same(file, memory), *same, "{file:x?} {memory:x?}");
        }
    }

    #[test]
    fn hooks_stay_where_memory_is_the_file() {
        let own = std::process::id();
        let mapping = rootfs::executable_mappings(own).unwrap().swap_remove(0);
        let (file, _) = rootfs::inspect(own, &mapping, &rootfs::Mounts::default()).unwrap();
        let hook = |offset| Hook {
            program: ProbeProgram::Io,
            function: "f".to_owned(),
            public_names: Vec::new(),
            offset: FileOffset(offset),
            return_probe: ReturnProbe::None,
            return_reason: None,
            exits: Vec::new(),
            implementation: None,
            semaphore: None,
            cookie_args: 0,
            call_sites: Vec::new(),
            capture: None,
        };
        let first = mapping.ranges.first().unwrap().offset;
        let mut found = ProbeMatch { hooks: vec![hook(first + 64), hook(u64::MAX)], ..ProbeMatch::default() };
        retain_unpatched(own, &mapping, &file, &mut found);
        assert_eq!((found.hooks.len(), found.skipped.len()), (2, 0), "{:?}", found.skipped);
        // As if the file were loaded at another address.
        let mut moved = mapping;
        moved.ranges.iter_mut().for_each(|range| range.offset += 4096);
        let mut found = ProbeMatch { hooks: vec![hook(first + 4096 + 64)], ..ProbeMatch::default() };
        retain_unpatched(own, &moved, &file, &mut found);
        assert_eq!((found.hooks.len(), found.skipped.len()), (0, 1));
    }
}
