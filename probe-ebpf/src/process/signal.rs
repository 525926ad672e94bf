//! Signals for what a thread has executed: a breakpoint that nobody owns, or a return to nowhere.

use aya_ebpf::programs::RawTracePointContext;
use probe_common::{KIND_SIGNAL, SIGILL, SIGNAL_CODE, SIGNAL_ENDS, SIGTRAP, SignalRecord};

use crate::{current::Current, emit, mem};

/// The offset of `si_code` in `siginfo` (include/uapi/asm-generic/siginfo.h): it follows the number of the
/// signal and that of an error.
const INFO_CODE: u64 = 8;
/// `SIG_DFL`.
const DEFAULT: u64 = 0;
const PAGE: u64 = 4096;

/// `signal_deliver`: the number of the signal, its `siginfo`, and its action, which begins with the handler.
#[inline(always)]
pub fn deliver(ctx: &RawTracePointContext) -> Option<()> {
    let signal: u64 = ctx.arg(0);
    let signal = signal as u32;
    if signal != SIGTRAP && signal != SIGILL {
        return None;
    }
    let current = Current::any();
    let info: u64 = ctx.arg(1);
    let code: i32 = mem::kernel(info.wrapping_add(INFO_CODE))?;
    // Those of processes are zero or less.
    if code <= 0 || current.is_own() {
        return None;
    }
    let handler: u64 = mem::kernel(ctx.arg(2))?;
    // A process that handles the signal may get it as often as it likes.
    if handler != DEFAULT && Current::in_scope().is_none() {
        return None;
    }
    let instruction = mem::instruction_pointer()?;
    let address = if signal == SIGTRAP { instruction.wrapping_sub(1) } else { instruction & !(PAGE - 1) };
    emit::record(SignalRecord {
        header: emit::header(KIND_SIGNAL, current),
        instruction,
        code: mem::user(address).unwrap_or([0; SIGNAL_CODE]),
        signal,
        flags: if handler == DEFAULT { SIGNAL_ENDS } else { 0 },
    });
    Some(())
}
