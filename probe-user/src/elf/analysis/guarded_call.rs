//! Finds the call of a method that is guarded by a check: the function checks a condition, and either reports
//! an error or makes the call.
//!
//! Leads from the error's text to the call. The code in between must decode without ambiguity, and exactly
//! one call must fit. The method is recognised by its index in the vtable of its object, which is the first
//! argument, rather than by a byte pattern.

use std::collections::BTreeSet;

use iced_x86::{Code, FlowControl, Instruction, InstructionInfoFactory, OpKind, Register};

use crate::elf::code::decode::{UnprobeableCode, instructions, target, writes};
use crate::elf::code::function_body::exact_site;
use crate::elf::{FunctionTable, Object, ObjectError, StringPattern, StringRef, VirtAddr};

/// Limit of the code of a function that is decoded, in bytes.
const MAX_BODY: u64 = 1 << 16;
/// Limit of the references to one error text, and of the branches to its report: no library has more.
const MAX_PLACES: usize = 64;
/// Limit of the code between a check and the call, in bytes.
const MAX_WAY: u64 = 128;

/// Why no guarded call was found.
#[derive(Debug, thiserror::Error)]
pub enum NotGuarded {
    /// No call fits, or more than one.
    #[error("expected one call guarded by the check that reports \"{text}\" at {at:#x}, found {fits}")]
    Calls {
        /// The number of calls that fit.
        fits: usize,
        /// The text of the error.
        text: &'static str,
        /// Where the code refers to the text.
        at: u64,
    },
    /// The file may have been made to cost much time.
    #[error("more than {MAX_PLACES} places refer to the error \"{0}\", or branch to its report")]
    TooMany(&'static str),
    /// The call cannot take a probe.
    #[error(transparent)]
    Site(#[from] UnprobeableCode),
    /// The file cannot be read there.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// The arguments that the code must set before the call: the third and the fourth.
const GIVEN: [Register; 2] = [Register::RDX, Register::RCX];

impl Object {
    /// For each report of one of the errors: the guarded call of the method at offset `method` in the vtable
    /// of its object.
    pub fn guarded_calls(
        &self,
        errors: &[StringPattern],
        method: u64,
    ) -> Result<BTreeSet<VirtAddr>, NotGuarded> {
        let frames = self.frames()?;
        let mut calls = BTreeSet::new();
        for text in self.find_texts(errors)? {
            let message = text.needle.text();
            let references = self.references(&[text])?;
            if references.len() > MAX_PLACES {
                return Err(NotGuarded::TooMany(message));
            }
            for reference in references {
                // Otherwise the bytes only look like a reference.
                let Some(report) = self.report(&frames, text, reference)? else { continue };
                let far = self.branches_to(report.begin, report.end)?;
                if far.len() > MAX_PLACES {
                    return Err(NotGuarded::TooMany(message));
                }
                let found = self.beside(&frames, report, far, method)?;
                let (1, Some(call)) = (found.len(), found.first()) else {
                    return Err(NotGuarded::Calls { fits: found.len(), text: message, at: reference.0 });
                };
                exact_site(&self.code(*call, MAX_WAY)?, *call, 0)?;
                calls.insert(*call);
            }
        }
        Ok(calls)
    }

    /// The code that leads up to a reference to the text: from where the report is inevitable, to the
    /// reference.
    fn report(
        &self,
        frames: &FunctionTable<'_>,
        text: StringRef,
        reference: VirtAddr,
    ) -> Result<Option<Report>, ObjectError> {
        let Some(all) = self.decoded(frames, reference)? else { return Ok(None) };
        let refers = |instruction: &Instruction| {
            instruction.ip() == reference.0
                && instruction.is_ip_rel_memory_operand()
                && text.is_at(instruction.ip_rel_memory_address())
        };
        let Some(at) = all.iter().position(refers) else { return Ok(None) };
        let before = all.get(..at).unwrap_or_default();
        let run = before.iter().rposition(leaves).map_or(0, |last| last + 1);
        let Some(begin) = all.get(run).map(|first| VirtAddr(first.ip())) else { return Ok(None) };
        let within = before.get(run..).unwrap_or_default().iter().filter(|one| is_check(one));
        let otherwise = within.filter_map(target).collect();
        let leading = all.iter().filter(|one| leads_to(one, begin, reference));
        let checks = leading.map(|check| VirtAddr(check.next_ip())).collect();
        Ok(Some(Report { begin, end: reference, otherwise, checks }))
    }

    /// The calls that are made when a check does not lead to the report. The check is in the same function or
    /// one of `far`, because compilers move unlikely code away.
    fn beside(
        &self,
        frames: &FunctionTable<'_>,
        report: Report,
        far: Vec<VirtAddr>,
        method: u64,
    ) -> Result<BTreeSet<VirtAddr>, ObjectError> {
        let mut ways = report.otherwise;
        ways.extend(report.checks);
        for check in far {
            let from = self.decoded(frames, check)?.unwrap_or_default();
            let found =
                from.iter().find(|one| one.ip() == check.0 && leads_to(one, report.begin, report.end));
            ways.extend(found.map(|check| VirtAddr(check.next_ip())));
        }
        let mut calls = BTreeSet::new();
        for way in ways {
            // An address outside of code leads to no call.
            let Ok(code) = self.code(way, MAX_WAY) else { continue };
            calls.extend(call_of(&code, way, method));
        }
        Ok(calls)
    }

    /// The instructions of the function that contains an address.
    fn decoded(
        &self,
        frames: &FunctionTable<'_>,
        address: VirtAddr,
    ) -> Result<Option<Vec<Instruction>>, ObjectError> {
        let Some(extents) = frames.at(address)?.filter(|extents| extents.size <= MAX_BODY) else {
            return Ok(None);
        };
        let code = self.body(extents.address, extents.size)?;
        Ok(Some(instructions(&code, extents.address).collect()))
    }
}

/// Code that ends in the report of an error.
struct Report {
    begin: VirtAddr,
    end: VirtAddr,
    /// The targets of checks inside it.
    otherwise: BTreeSet<VirtAddr>,
    /// The code after those checks of the same function that lead to it.
    checks: BTreeSet<VirtAddr>,
}

fn leads_to(check: &Instruction, begin: VirtAddr, end: VirtAddr) -> bool {
    is_check(check) && target(check).is_some_and(|to| (begin..=end).contains(&to))
}

fn is_check(instruction: &Instruction) -> bool {
    instruction.flow_control() == FlowControl::ConditionalBranch
}

/// Whether execution never continues at the next instruction.
fn leaves(instruction: &Instruction) -> bool {
    !matches!(
        instruction.flow_control(),
        FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall | FlowControl::ConditionalBranch
    )
}

/// The first call (or tail jump) from here on, if it calls the method at offset `method` in the vtable of the
/// object that is its first argument, and sets a third and a fourth argument.
fn call_of(code: &[u8], address: VirtAddr, method: u64) -> Option<VirtAddr> {
    let mut factory = InstructionInfoFactory::new();
    let (mut table, mut entry) = (None, None);
    let mut given = BTreeSet::new();
    for instruction in instructions(code, address) {
        let is_entry = table.is_some_and(|table| is_at(&instruction, table, method));
        match instruction.flow_control() {
            FlowControl::Next => {}
            FlowControl::IndirectCall | FlowControl::IndirectBranch => {
                let through = instruction.op0_kind() == OpKind::Register;
                let is_method = if through { entry == Some(instruction.op0_register()) } else { is_entry };
                return (is_method && given.len() == GIVEN.len()).then_some(VirtAddr(instruction.ip()));
            }
            _ => return None,
        }
        let mut is_written = |register: Register| writes(&mut factory, &instruction, &[register]);
        let loads = instruction.code() == Code::Mov_r64_rm64 && instruction.op1_kind() == OpKind::Memory;
        let is_table = loads && is_at(&instruction, Register::RDI, 0);
        table = table.filter(|register| !is_written(*register));
        entry = entry.filter(|register| !is_written(*register));
        given.extend(GIVEN.into_iter().filter(|register| is_written(*register)));
        if is_written(Register::RDI) {
            (table, entry) = (None, None);
        } else if is_table {
            table = Some(instruction.op0_register());
        } else if loads && is_entry {
            entry = Some(instruction.op0_register());
        }
    }
    None
}

/// Whether the memory operand of an instruction is the word at `offset` from `base`.
fn is_at(instruction: &Instruction, base: Register, offset: u64) -> bool {
    instruction.memory_base() == base
        && instruction.memory_index() == Register::None
        && instruction.segment_prefix() == Register::None
        && instruction.memory_displacement64() == offset
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::{NotGuarded, StringPattern, VirtAddr, call_of};
    use crate::elf::SymbolFilter;
    use crate::elf::fixture::{compile, parse, parse_bytes};
    use crate::test_rng::TestRng;

    const ERROR: &[StringPattern] = &[StringPattern::Whole("not before the handshake")];

    /// Like Botan 3: the call that passes data on is guarded by a check, whose failure is reported far away.
    const SOURCE: &str = r#"
        typedef struct { const unsigned char *begin, *end; } vector;
        typedef struct callbacks callbacks;
        typedef struct { void *gone[2], (*emit)(callbacks *, void *, long);
                         void (*received)(callbacks *, long, const unsigned char *, long); } table;
        struct callbacks { table *table; };
        typedef struct { void *table, *more[2]; callbacks *callbacks; void *state; } channel;
        __attribute__((cold, noreturn)) void fail(const char *text);
        __attribute__((cold, noreturn, noinline)) void fail(const char *text) { for (;;) __asm__ volatile("" \
         :: "r"(text)); }
        void process(channel *c, long number, vector *record) {
            if (!c->state) fail("not before the handshake");
            c->callbacks->table->received(c->callbacks, number, record->begin, record->end - record->begin);
        }
        void twice(channel *c, long number, vector *record) {
            OTHER
            process(c, number, record);
        }
    "#;

    fn calls(source: &str, flags: &[&str]) -> Result<usize, NotGuarded> {
        let directory = compile(source, &[&["-shared"], flags].concat());
        let object = parse(&directory.path().join("fixture"), &SymbolFilter::default()).unwrap();
        object.guarded_calls(ERROR, 0x18).map(|calls| calls.len())
    }

    #[test]
    fn a_call_beside_an_error_is_found() {
        let plain = SOURCE.replace("OTHER", "");
        for flags in [&["-O2"][..], &["-O1"], &["-Os"], &["-O2", "-fcf-protection=full"]] {
            let found =
                calls(&plain, &[flags, &["-fno-inline-functions", "-fno-inline-small-functions"]].concat());
            assert!(matches!(found, Ok(1)), "{flags:?}: {found:?}");
        }
        // If the function is inlined, its code exists twice.
        let found = calls(
            &plain.replace("void process", "inline __attribute__((always_inline)) void process"),
            &["-O2"],
        );
        assert!(matches!(found, Ok(0 | 1)), "{found:?}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let plain = SOURCE.replace("OTHER", "");
        let cases = [
            (
                "another method",
                plain.replace("table->received(", "table->emit(").replace(
                    "record->begin, \
             record->end - record->begin",
                    "0",
                ),
            ),
            (
                "nothing follows",
                plain.replace(
                    "c->callbacks->table->received(c->callbacks, number, \
             record->begin, record->end - record->begin);",
                    "c->state = record;",
                ),
            ),
            (
                "another error, too",
                SOURCE.replace(
                    "OTHER",
                    "if (number < 0) fail(\"not before the \
             handshake\"); c->state = record;",
                ),
            ),
        ];
        for (name, source) in cases {
            let found = calls(&source, &["-fno-inline-functions", "-fno-inline-small-functions"]);
            assert!(matches!(found, Err(NotGuarded::Calls { .. })), "{name}: {found:?}");
        }
        let absent = calls(&plain.replace("not before", "not after"), &[]);
        assert!(matches!(absent, Ok(0)), "{absent:?}");
    }

    #[test]
    fn calls_of_a_method() {
        const AT: VirtAddr = VirtAddr(0x1000);
        // The code of Botan 3.7 in Debian 13, for TLS 1.2 and for TLS 1.3.
        let jump = [
            0x48, 0x8b, 0x7f, 0x18, 0x48, 0x8b, 0x07, 0x4c, 0x8b, 0x40, 0x18, 0x48, 0x8b, 0x02, 0x48, 0x8b,
            0x52, 0x08, 0x48, 0x29, 0xc2, 0x48, 0x89, 0xd1, 0x48, 0x89, 0xc2, 0x41, 0xff, 0xe0,
        ];
        let call = [
            0x48, 0x8b, 0xbb, 0x90, 0, 0, 0, 0x4c, 0x8b, 0x07, 0x48, 0x29, 0xd0, 0x48, 0x92, 0x48, 0x89,
            0xd1, 0x48, 0x89, 0xc2, 0x41, 0xff, 0x50, 0x18,
        ];
        assert_eq!(call_of(&jump, AT, 0x18), Some(VirtAddr(0x101b)));
        assert_eq!(call_of(&call, AT, 0x18), Some(VirtAddr(0x1015)));
        assert_eq!(call_of(&call, AT, 0x10), None);
        // The object is a different one by the time of the call.
        let changed = [&call[..10], &[0x48, 0x89, 0xdf], &call[10..]].concat();
        assert_eq!(call_of(&changed, AT, 0x18), None);
        // A call in between may change all of these registers.
        let called = [&call[..10], &[0xe8, 0, 0, 0, 0], &call[10..]].concat();
        assert_eq!(call_of(&called, AT, 0x18), None);
    }

    #[test]
    fn damage_never_panics_or_hangs() {
        let directory = compile(&SOURCE.replace("OTHER", ""), &["-shared"]);
        let good = std::fs::read(directory.path().join("fixture")).unwrap();
        TestRng(0x2545_f491_4f6c_dd1d).mutations(&good, 300, |bytes| {
            if let Ok(object) = parse_bytes(bytes, &SymbolFilter::default()) {
                let _ = object.guarded_calls(ERROR, 0x18);
            }
        });
    }
}
