//! The calls of a function from other functions of its file.

use std::ops::ControlFlow;

use super::eh_frame::FunctionTable;
use crate::elf::code::decode::{CALL_BYTES, CallSite, calls};
use crate::elf::{ObjectError, VirtAddr};

/// How far from a function its callers are searched for. An archive's members are linked beside each other: a
/// whole libssl has half of this.
const WINDOW: u64 = 1 << 20;
/// Limit of the calls that are found.
const MAX_CALLS: usize = 64;
/// The opcode of a call with a constant target; the distance follows.
const CALL: u8 = 0xe8;
/// Limit of the code that is decoded before a call, in bytes: the largest functions are not callers.
const MAX_BODY: u64 = 64 << 10;

impl FunctionTable<'_> {
    /// The calls of the function at `target` in the code around it. What is not certainly an instruction of a
    /// function is left out.
    pub fn calls_to(&self, target: VirtAddr) -> Result<Vec<CallSite>, ObjectError> {
        let mut found = Vec::new();
        for candidate in self.candidates(target)? {
            let Some(bounds) = self.at(candidate)?.filter(|bounds| bounds.size <= MAX_BODY) else { continue };
            let body = self.object().code(bounds.address, bounds.size)?;
            let return_address = VirtAddr(candidate.0 + CALL_BYTES);
            let is_it = |call: &CallSite| call.return_address == return_address && call.target == target;
            found.extend(calls(&body, bounds.address).direct.into_iter().find(is_it));
        }
        Ok(found)
    }

    /// Where bytes are that would be a call of `target`.
    fn candidates(&self, target: VirtAddr) -> Result<Vec<VirtAddr>, ObjectError> {
        let object = self.object();
        let Some(segment) = object.segments.executable(target) else { return Ok(Vec::new()) };
        let begin = (target.0 - segment.address).saturating_sub(WINDOW);
        let extent = segment.extent.tail(begin).head(2 * WINDOW);
        let mut found = Vec::new();
        object.reader.chunks("code", extent, (1, 4), |offset, chunk| {
            for at in memchr::memchr_iter(CALL, chunk) {
                let Some(bytes) = chunk.get(at + 1..).and_then(<[u8]>::first_chunk) else { continue };
                let call = segment.address + begin + offset.saturating_add(at as u64);
                let distance = i32::from_le_bytes(*bytes);
                if (call + CALL_BYTES).wrapping_add_signed(distance.into()) == target.0 {
                    found.push(VirtAddr(call));
                }
            }
            if found.len() >= MAX_CALLS { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        found.truncate(MAX_CALLS);
        Ok(found)
    }
}
