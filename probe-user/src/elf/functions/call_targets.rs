//! Function bounds in code without unwind tables. A function starts at the target of a call, directly after
//! the end of another function, and extends as far as its own jumps reach.
//!
//! The list of calls is built when it is first needed. Code that is reachable only through a jump
//! table is not counted as part of a function: no answer is better than a wrong one.

use std::ops::ControlFlow;

use iced_x86::{Code, FlowControl};

use super::eh_frame::FunctionBounds;
use crate::elf::code::decode::{instructions, target};
use crate::elf::file::header::LoadSegment;
use crate::elf::file::parts::in_parts;
use crate::elf::{Object, ObjectError, VirtAddr};

/// Limit of the calls, and of the jumps, of a part of the code in memory, eight bytes each: 200 MB of code
/// have about four million.
const MAX_SITES: usize = 4_000_000;
/// The size of the operand of a call or a jump.
const OPERAND: u64 = 4;
/// The opcode of a jump.
const JUMP: u8 = 0xe9;
/// Limit of the code that is read of one function, in bytes.
const MAX_BODY: u64 = 64 * 1024;
/// How many call targets before an address are tried as its function's start.
const TRIES: usize = 8;
/// Enough bytes for the padding before a function and the last instruction before that.
const BEFORE: u64 = 16;
/// `push %rbp; mov %rsp,%rbp`
const PROLOGUE: [u8; 4] = [0x55, 0x48, 0x89, 0xe5];
/// The opcode of a call, and how many bytes before the next instruction it is.
const CALL: (u8, usize) = (0xe8, 5);
/// Compilers align the start of a function to this.
const ALIGNMENT: u64 = 16;
/// Average bytes of code per unwind entry in code that is fully covered by unwind entries.
const DENSE: u64 = 2048;

/// What seem to be the calls and jumps with constant targets in one segment. Each entry has two distances
/// from the segment's start: the target's in the upper half, and that of the instruction.
#[derive(Debug)]
pub(in crate::elf) struct CallSites {
    segment: LoadSegment,
    calls: Vec<u64>,
    jumps: Vec<u64>,
}

impl CallSites {
    /// The addresses of the instructions that call this function or jump to it.
    pub(in crate::elf) fn of(&self, function: VirtAddr) -> impl Iterator<Item = VirtAddr> {
        let target =
            function.0.checked_sub(self.segment.address).and_then(|target| u32::try_from(target).ok());
        let sites = target.into_iter().flat_map(|target| {
            let begin = u64::from(target) << 32;
            [&self.calls, &self.jumps].into_iter().flat_map(move |all| {
                let rest = all.get(all.partition_point(|entry| *entry < begin)..).unwrap_or_default();
                rest.iter().take_while(move |entry| **entry >> 32 == u64::from(target))
            })
        });
        sites.map(|entry| VirtAddr(self.segment.address.saturating_add(entry & u64::from(u32::MAX))))
    }

    /// The called places up to a distance from the segment's start, the nearest first.
    fn targets_before(&self, distance: u64) -> impl Iterator<Item = u64> {
        let after = self.calls.partition_point(|entry| entry >> 32 <= distance);
        distinct(self.calls.get(..after).unwrap_or_default().iter().rev().map(|entry| entry >> 32))
    }

    /// The called places beyond a distance.
    fn targets_after(&self, distance: u64) -> impl Iterator<Item = u64> {
        let after = self.calls.partition_point(|entry| entry >> 32 <= distance);
        distinct(self.calls.get(after..).unwrap_or_default().iter().map(|entry| entry >> 32))
    }
}

/// Sorts a list of sorted parts.
#[expect(
    clippy::stable_sort_primitive,
    reason = "the stable sort makes use of parts that are sorted already"
)]
fn sort_runs(list: &mut [u64]) {
    list.sort();
}

/// A sorted list without what is repeated.
fn distinct(list: impl Iterator<Item = u64>) -> impl Iterator<Item = u64> {
    let mut previous = None;
    list.filter(move |item| previous.replace(*item) != Some(*item))
}

impl Object {
    /// Whether this number of unwind entries is too small for the amount of code in the object.
    pub(in crate::elf) fn is_sparse(&self, frames: u64) -> bool {
        let code: u64 = self.segments.executables().map(|segment| segment.extent.length).sum();
        frames.saturating_mul(DENSE) < code
    }

    pub(in crate::elf) fn call_sites(&self) -> Result<Vec<CallSites>, ObjectError> {
        self.segments.executables().map(|segment| self.sites_in(*segment)).collect()
    }

    fn sites_in(&self, segment: LoadSegment) -> Result<CallSites, ObjectError> {
        let length = segment.extent.length.min(u32::MAX.into());
        let parts = in_parts(segment.extent.head(length), OPERAND, |part, file| {
            let (mut calls, mut jumps) = (Vec::new(), Vec::new());
            self.reader.chunks("code", file, (1, OPERAND), |offset, chunk| {
                for at in memchr::memchr2_iter(CALL.0, JUMP, chunk) {
                    let Some((opcode, bytes)) = chunk.get(at..).and_then(<[u8]>::split_first) else {
                        continue;
                    };
                    let Some(bytes) = bytes.first_chunk() else { continue };
                    let site = part.start + offset + at as u64;
                    let target = (site + 5).wrapping_add_signed(i32::from_le_bytes(*bytes).into());
                    if target < length && part.contains(&site) {
                        let entry = target << 32 | site;
                        if *opcode == JUMP { jumps.push(entry) } else { calls.push(entry) }
                    }
                }
                if calls.len().max(jumps.len()) >= MAX_SITES {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })?;
            for sites in [&mut calls, &mut jumps] {
                sites.sort_unstable();
                sites.dedup();
            }
            Ok((calls, jumps))
        })?;
        let (mut calls, mut jumps) = (Vec::new(), Vec::new());
        for (more_calls, more_jumps) in parts {
            calls.extend(more_calls);
            jumps.extend(more_jumps);
        }
        sort_runs(&mut calls);
        sort_runs(&mut jumps);
        Ok(CallSites { segment, calls, jumps })
    }

    /// The bounds of the function that contains `address`, from an analysis of the code.
    pub(in crate::elf) fn by_code(
        &self,
        sites: &[CallSites],
        address: VirtAddr,
    ) -> Result<Option<FunctionBounds>, ObjectError> {
        let inside = |sites: &&CallSites| sites.segment.offset_of(address).is_some();
        let Some(sites) = sites.iter().find(inside) else { return Ok(None) };
        let distance = address.0 - sites.segment.address;
        for target in sites.targets_before(distance).take(TRIES) {
            let begin = sites.segment.address.saturating_add(target);
            if distance - target >= MAX_BODY {
                break;
            }
            if self.is_start(&sites.segment, target)? {
                let size = self.extent_of(VirtAddr(begin))?;
                let size = self.before_the_next(sites, target, size)?;
                if address.0 - begin < size {
                    return Ok(Some(FunctionBounds { address: VirtAddr(begin), size }));
                }
                // The code before this start ends before it, so no earlier start can reach `address`.
                break;
            }
        }
        Ok(None)
    }

    /// Cuts a function off where the next call target starts.
    fn before_the_next(&self, sites: &CallSites, begin: u64, size: u64) -> Result<u64, ObjectError> {
        for target in sites.targets_after(begin).take_while(|target| *target - begin < size).take(TRIES) {
            if self.is_start(&sites.segment, target)? {
                return Ok(target - begin);
            }
        }
        Ok(size)
    }

    /// Whether a function begins at this call target. Code that is optimised for size has no padding, and a
    /// function may follow another one's last call, which never returns: then it must set up a frame.
    fn is_start(&self, segment: &LoadSegment, distance: u64) -> Result<bool, ObjectError> {
        if self.follows_an_end(segment, distance)? {
            return Ok(true);
        }
        let (opcode, length) = CALL;
        let Some(begin) = distance.checked_sub(length as u64) else { return Ok(false) };
        let extent = segment.extent.tail(begin).head(BEFORE);
        let bytes = self.reader.bytes("code", extent, BEFORE)?;
        let prologue = bytes.get(length..).unwrap_or_default();
        Ok(bytes.first() == Some(&opcode) && prologue.starts_with(&PROLOGUE))
    }

    /// Whether execution cannot continue across this place: padding or a function-ending instruction precedes
    /// it.
    fn follows_an_end(&self, segment: &LoadSegment, distance: u64) -> Result<bool, ObjectError> {
        let length = distance.min(BEFORE);
        let bytes = self.reader.bytes("code", segment.extent.tail(distance - length).head(length), BEFORE)?;
        Ok(match bytes.as_slice() {
            // int3; nop; ret; ud2; jmp rel8, jmp rel32; hlt
            []
            | [.., 0xcc | 0x90 | 0xc3 | 0xf4]
            | [.., 0x0f, 0x0b]
            | [.., 0xeb, _]
            | [.., 0xe9, _, _, _, _] => true,
            bytes => is_nop(bytes),
        })
    }

    /// The size of the function at `entry`: up to the first end that none of its jumps passes. 0 if it is not
    /// code.
    fn extent_of(&self, entry: VirtAddr) -> Result<u64, ObjectError> {
        let code = self.code(entry, MAX_BODY)?;
        let mut reach = entry.0;
        // The end of the last call, as long as only padding follows it.
        let mut called = None;
        for instruction in instructions(&code, entry) {
            if instruction.is_invalid() {
                return Ok(0);
            }
            let is_padding = matches!(
                instruction.code(),
                Code::Nopw | Code::Nopd | Code::Nopq | Code::Nop_rm16 | Code::Nop_rm32 | Code::Int3
            );
            match called {
                // Padding up to an aligned start follows the call: the callee does not return.
                Some(end)
                    if !is_padding
                        && instruction.ip() > end
                        && instruction.ip() % ALIGNMENT == 0
                        && reach < end =>
                {
                    return Ok(end - entry.0);
                }
                Some(_) if !is_padding => called = None,
                _ => {}
            }
            if instruction.flow_control() == FlowControl::Call {
                called = Some(instruction.next_ip());
            }
            let next = instruction.next_ip();
            let is_end = match instruction.flow_control() {
                FlowControl::ConditionalBranch => {
                    reach = reach.max(near(&instruction, entry));
                    false
                }
                FlowControl::UnconditionalBranch => {
                    let to = near(&instruction, entry);
                    // A jump to a padded start may be a tail call of another function.
                    if !is_padded(&code, to - entry.0) {
                        reach = reach.max(to);
                    }
                    true
                }
                FlowControl::Return | FlowControl::IndirectBranch | FlowControl::Exception => true,
                _ => false,
            };
            if is_end && reach < next {
                return Ok(next - entry.0);
            }
        }
        Ok(code.len() as u64)
    }
}

/// The target of a jump, if it may be in the same function.
fn near(instruction: &iced_x86::Instruction, entry: VirtAddr) -> u64 {
    let to = target(instruction).filter(|to| to.0.wrapping_sub(entry.0) < MAX_BODY);
    to.map_or(entry.0, |to| to.0)
}

/// Whether padding precedes this place.
fn is_padded(code: &[u8], at: u64) -> bool {
    let before = usize::try_from(at).ok().and_then(|at| code.get(..at)).unwrap_or_default();
    matches!(before, [.., 0xcc | 0x90])
        || is_nop(before.last_chunk::<9>().map_or(before, <[u8; 9]>::as_slice))
}

/// Whether bytes end with one of the nops that compilers use as padding: `0f 1f /0` with an all-zero
/// displacement.
fn is_nop(bytes: &[u8]) -> bool {
    let Some(at) = bytes.windows(2).rposition(|two| two == [0x0f, 0x1f]) else { return false };
    let rest = bytes.get(at + 2..).unwrap_or_default();
    let length = match rest.first() {
        Some(0x00) => 1,
        Some(0x40) => 2,
        Some(0x44) => 3,
        Some(0x80) => 5,
        Some(0x84) => 6,
        _ => return false,
    };
    rest.len() == length && rest.iter().skip(1).all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a panic fails the test")]

    use crate::elf::fixture::{compile, parse};

    /// Functions without padding. `second` follows a call that never returns.
    const SOURCE: &str = r#"
    #define FUNCTION(name, code) asm(".globl " name "\n.type " name ",@function\n" name ":\n" code "\n.size " name ",.-" name)
    asm(".text");
    FUNCTION("stops", "ud2");
    FUNCTION("first", "push %rbp\nmov %rsp,%rbp\n.byte 0xe8\n.long stops-.-4");
    FUNCTION("second", "push %rbp\nmov %rsp,%rbp\npop %rbp\nret");
    FUNCTION("third", ".byte 0xe8\n.long first-.-4\n.byte 0xe8\n.long second-.-4\nret");
    "#;

    #[test]
    fn a_function_may_follow_a_call_that_never_returns() {
        let flags = ["-nostdlib", "-static", "-no-pie", "-Wl,-e,third", "-fno-asynchronous-unwind-tables"];
        let directory = compile(SOURCE, &flags);
        let names = ["first", "second"];
        let object = parse(&directory.path().join("fixture"), &names.into_iter().collect()).unwrap();
        let frames = object.frames().unwrap();
        for name in names {
            let function = object.function(name).unwrap();
            let bounds = frames.at(function.address).unwrap().unwrap();
            assert_eq!((bounds.address, bounds.size), (function.address, function.size), "{name}");
        }
    }
}
