//! Hooks of functions that begin with instructions which uprobes cannot handle: behind these, and at the
//! instructions that return, because a return probe has no place there.
//!
//! Owns which program does there what another one does at the entry. It never moves a hook whose arguments
//! are not certain.

use probe_common::behind_pushes;

use crate::elf::{Object, Symbol};
use crate::error_chain;
use crate::plan::{Hook, ProbeProgram};

use super::all_ends;

/// The hook of a function; the reason if there is none.
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
    let (program, ends) = match program {
        ProbeProgram::Io => (ProbeProgram::IoAtRets, ends()?),
        ProbeProgram::IoVec => (ProbeProgram::IoVecAtRets, ends()?),
        ProbeProgram::Open => (ProbeProgram::OpenAtRets, ends()?),
        ProbeProgram::OpenFirst
        | ProbeProgram::OpenIfNew
        | ProbeProgram::Close
        | ProbeProgram::MarkTls
        | ProbeProgram::IoAtEntry
        | ProbeProgram::CallbackScope => (program, Vec::new()),
        _ => return Err("it begins with an instruction that uprobes cannot handle".to_owned()),
    };
    let arguments = behind_pushes(arguments, late.pushed);
    Ok(Hook { ret_offsets: ends, ..Hook::new(program, function, late.offset, arguments) })
}
