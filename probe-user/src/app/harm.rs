//! Whether a signal that a process got was caused by a probe, and by which.
//!
//! Owns what is attached, as far as that takes. Files are read only when such a signal arrives, which is
//! rare.

use std::collections::BTreeMap;
use std::sync::Arc;

use probe_common::{SIGILL, SIGTRAP, SignalRecord};

use crate::discovery::is_probed_code;
use crate::elf::FileOffset;
use crate::event::{HarmCause, Harmed, Library};
use crate::plan::return_probe::ReturnProbe;
use crate::plan::{ObjectHooks, ObjectId};
use crate::rootfs::ForeignFile;

/// Copies of code keep the place within a page.
const PAGE_MASK: u64 = 0xfff;
/// The beginning of the page where a function returns to if the kernel probes its return, since Linux 6.11
/// (`uretprobe_trampoline_entry` of arch/x86/kernel/uprobes.c): three times push, and the system call.
const TRAMPOLINE: [u8; 13] = [0x50, 0x51, 0x41, 0x53, 0x48, 0xc7, 0xc0, 0x4f, 0x01, 0, 0, 0x0f, 0x05];
/// Before that, a breakpoint.
const BREAKPOINT: u8 = 0xcc;

/// The objects that are attached to, and what probes did to processes.
#[derive(Debug, Default)]
pub(super) struct HarmWatch {
    objects: BTreeMap<ObjectId, AttachedCode>,
    /// The processes that probes have harmed.
    harmed: u64,
    /// Signals of the same kinds that ended processes for other reasons.
    others: u64,
}

#[derive(Debug)]
struct AttachedCode {
    file: Arc<ForeignFile>,
    library: Arc<Library>,
    /// Where probes are, with the function.
    places: Vec<(FileOffset, String)>,
    has_kernel_returns: bool,
}

impl HarmWatch {
    /// Records that an object is attached to.
    pub(super) fn attached(&mut self, object: &ObjectHooks) {
        let places = object.hooks.iter().flat_map(|hook| {
            let name = hook.public_names.first().unwrap_or(&hook.function);
            let exits = hook.exits.iter().map(|exit| exit.offset);
            std::iter::once(hook.offset).chain(exits).map(|offset| (offset, name.clone()))
        });
        let code = AttachedCode {
            file: Arc::clone(&object.file),
            library: Arc::clone(&object.library),
            places: places.collect(),
            has_kernel_returns: object.hooks.iter().any(|hook| hook.return_probe == ReturnProbe::Kernel),
        };
        self.objects.insert(object.id, code);
    }

    /// Records that an object is detached from. Returns its library, if it was attached to.
    pub(super) fn detached(&mut self, id: ObjectId) -> Option<Arc<Library>> {
        self.objects.remove(&id).map(|code| code.library)
    }

    /// What a probe did to a process that got a signal, and the objects to detach from. None if it was no
    /// probe of ctrace.
    pub(super) fn of_signal(&mut self, signal: &SignalRecord) -> Option<(Harmed, Vec<ObjectId>)> {
        let (cause, function, ids) = match signal.signal {
            SIGTRAP => {
                let (id, function) = self.copied(signal)?;
                (HarmCause::CopiedCode, Some(function), vec![id])
            }
            SIGILL if is_in_trampoline(signal) => {
                let has = |(id, code): (&ObjectId, &AttachedCode)| code.has_kernel_returns.then_some(*id);
                (HarmCause::ReturnProbe, None, self.objects.iter().filter_map(has).collect::<Vec<_>>())
            }
            _ => return None,
        };
        let libraries = ids.iter().filter_map(|id| Some(Arc::clone(&self.objects.get(id)?.library)));
        let detached: Vec<_> = libraries.collect();
        if detached.is_empty() {
            return None;
        }
        let number = u8::try_from(signal.signal).unwrap_or_default();
        Some((Harmed { cause, signal: number, function, detached }, ids))
    }

    /// Counts a signal that was caused by a probe, or by something else.
    pub(super) fn count(&mut self, is_harm: HarmCheck) {
        match is_harm {
            HarmCheck::ByProbe => self.harmed += 1,
            HarmCheck::ByOther => self.others += 1,
        }
    }

    /// How many processes probes have harmed, and how many got such a signal for other reasons.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.harmed, self.others)
    }

    /// The object of which the process has executed a copied breakpoint, and the function.
    fn copied(&self, signal: &SignalRecord) -> Option<(ObjectId, String)> {
        let place = signal.instruction.wrapping_sub(1) & PAGE_MASK;
        self.objects.iter().find_map(|(id, code)| {
            let is_it = |(offset, _): &&(FileOffset, String)| {
                offset.0 & PAGE_MASK == place && is_probed_code(&code.file, *offset, &signal.code)
            };
            code.places.iter().find(is_it).map(|(_, function)| (*id, function.clone()))
        })
    }
}

/// What has caused a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HarmCheck {
    /// A probe of ctrace.
    ByProbe,
    /// Something else.
    ByOther,
}

/// Whether a thread that got SIGILL was in the page where functions return to if the kernel probes that.
fn is_in_trampoline(signal: &SignalRecord) -> bool {
    let place = signal.instruction & PAGE_MASK;
    let is_call = signal.code.starts_with(&TRAMPOLINE) && place <= TRAMPOLINE.len() as u64;
    is_call || signal.code.first() == Some(&BREAKPOINT) && place <= 1
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::os::unix::fs::FileExt as _;

    use zerocopy::FromZeros as _;

    use super::*;
    use crate::plan::{Hook, ProbeProgram};
    use crate::rootfs::access_paths;

    /// This program with probes at two places.
    fn object(return_probe: ReturnProbe) -> ObjectHooks {
        let library =
            Library { name: "own".into(), path: "/own".into(), implementation: None, version: None };
        let hook = |name: &str, offset| Hook {
            return_probe,
            ..Hook::new(ProbeProgram::Io, name.into(), FileOffset(offset), 0)
        };
        ObjectHooks {
            id: ObjectId(7),
            library: Arc::new(library),
            file: Arc::new(access_paths::executable(std::process::id()).unwrap()),
            pids: Vec::new(),
            available_to: Vec::new(),
            evidence: Vec::new(),
            sites: 0..2,
            hooks: vec![hook("first", 0x1040), hook("second", 0x2080)],
        }
    }

    fn signal(number: u32, instruction: u64, code: [u8; 16]) -> SignalRecord {
        SignalRecord { signal: number, instruction, code, ..SignalRecord::new_zeroed() }
    }

    #[test]
    fn a_breakpoint_in_a_copy_is_recognised_by_the_code_around_it() {
        let object = object(ReturnProbe::None);
        let mut code = [0; 16];
        object.file.file().unwrap().read_exact_at(&mut code, 0x2080).unwrap();
        code[0] = BREAKPOINT;
        let mut watch = HarmWatch::default();
        let function = |watch: &mut HarmWatch, signal| {
            watch.of_signal(&signal).map(|(harmed, ids)| (harmed.cause, harmed.function.unwrap(), ids))
        };
        let copied = signal(SIGTRAP, 0x7f00_0000_0081, code);
        assert_eq!(function(&mut watch, copied), None, "nothing is attached");
        watch.attached(&object);
        let expected = (HarmCause::CopiedCode, "second".to_owned(), vec![ObjectId(7)]);
        assert_eq!(function(&mut watch, copied), Some(expected));
        assert_eq!(function(&mut watch, signal(SIGTRAP, 0x7f00_0000_0082, code)), None, "another place");
        assert_eq!(function(&mut watch, signal(SIGILL, 0x7f00_0000_0081, code)), None);
        let mut other = code;
        other[9] ^= 1;
        assert_eq!(function(&mut watch, signal(SIGTRAP, 0x7f00_0000_0081, other)), None, "other code");
        watch.detached(object.id);
        assert_eq!(function(&mut watch, copied), None, "it is detached");
    }

    #[test]
    fn a_lost_return_is_recognised_by_the_page_that_returns_lead_to() {
        let mut page = [0x90; 16];
        page.iter_mut().zip(TRAMPOLINE).for_each(|(byte, of_trampoline)| *byte = of_trampoline);
        let old = [BREAKPOINT, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let check = |return_probe, signal: SignalRecord, expected: Option<HarmCause>| {
            let mut watch = HarmWatch::default();
            watch.attached(&object(return_probe));
            assert_eq!(watch.of_signal(&signal).map(|(harmed, _)| harmed.cause), expected, "{signal:?}");
        };
        let cause = Some(HarmCause::ReturnProbe);
        check(ReturnProbe::Kernel, signal(SIGILL, 0x7fff_0000_000d, page), cause);
        check(ReturnProbe::Kernel, signal(SIGILL, 0x7fff_0000_0000, old), cause);
        check(ReturnProbe::None, signal(SIGILL, 0x7fff_0000_000d, page), None);
        check(ReturnProbe::Kernel, signal(SIGILL, 0x7fff_0000_0100, page), None);
        check(ReturnProbe::Kernel, signal(SIGILL, 0x7fff_0000_0100, old), None);
        check(ReturnProbe::Kernel, signal(SIGILL, 0x7fff_0000_000d, [0x90; 16]), None);
        check(ReturnProbe::Kernel, signal(SIGTRAP, 0x7fff_0000_000d, page), None);
    }
}
