//! Hooks of functions that begin with instructions which uprobes cannot handle: behind these, and at the instructions that
//! return, because a return probe has no place there.
//!
//! Owns which program does there what another one does at the entry. It never moves a hook whose arguments are not certain.

use probe_common::behind_pushes;

use crate::object::{Object, Symbol, with_causes};
use crate::plan::{Hook, Program};

use super::all_ends;

/// The hook of a function; the reason if there is none.
pub(super) fn hook(
    object: &Object,
    symbol: Symbol,
    program: Program,
    function: String,
    arguments: u32,
) -> Result<Hook, String> {
    let late = object.late_entry(symbol.address, symbol.size).map_err(|error| with_causes(&error))?;
    let ends = || all_ends(object.returns_without_symbols(symbol.address, symbol.size));
    let (program, ends) = match program {
        Program::Call => (Program::CallToEnds, ends()?),
        Program::Pieces => (Program::PiecesToEnds, ends()?),
        Program::Open => (Program::OpenAtEnds, ends()?),
        Program::OpenFirst
        | Program::OpenOnce
        | Program::Close
        | Program::Cipher
        | Program::Whole
        | Program::Outer => (program, Vec::new()),
        _ => return Err("it begins with an instruction that uprobes cannot handle".to_owned()),
    };
    let arguments = behind_pushes(arguments, late.pushed);
    Ok(Hook { ends, ..Hook::new(program, function, late.offset, arguments) })
}
