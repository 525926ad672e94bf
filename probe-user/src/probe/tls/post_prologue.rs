//! Hooks of functions that start with instructions that uprobes cannot handle: one probe after these, and one
//! on each return instruction, because a uretprobe can only be placed at the entry.
//!
//! A hook is moved only if the arguments are certain.

use probe_common::behind_pushes;

use crate::elf::{Object, Symbol};
use crate::error_chain;
use crate::plan::{Hook, ProbeProgram};

use super::all_ends;

/// The hook of a function, or the reason why there is none.
pub(super) fn hook(
    object: &Object,
    symbol: Symbol,
    program: ProbeProgram,
    function: String,
    arguments: u32,
) -> Result<Hook, String> {
    let late =
        object.late_entry(symbol.address, symbol.size).map_err(|error| error_chain::in_one_line(&error))?;
    let ends = || all_ends(object.returns_without_symbols(symbol.address, symbol.size));
    let ends = if program.has_return() { ends()? } else { Vec::new() };
    let arguments = behind_pushes(arguments, late.pushed);
    Ok(Hook::new(program, function, late.offset, arguments).with_exits(ends))
}
