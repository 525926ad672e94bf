//! Turns USDT probes into hooks.

use probe_common::{NO_REGISTER, Operand as Read, SOURCE_CONSTANT, SOURCE_MEMORY, SOURCE_REGISTER};

use super::matching::{Matching, new_hook};
use super::{Given, UsdtPattern};
use crate::elf::usdt::{Register, UsdtArgument, UsdtOperand};
use crate::elf::{Usdt, UsdtSite};
use crate::error_chain;
use crate::plan::ProbeProgram;
use crate::plan::capture::Capture;
use crate::plan::value_type::{NO_VECTOR_REGISTERS, Type};

/// Adds the probes that match a pattern. Returns whether there are any.
pub(super) fn add(matching: &mut Matching<'_>) -> bool {
    let probes = match matching.object.usdt() {
        Ok(probes) => probes,
        Err(error) => {
            matching.skipped.push(error_chain::in_one_line(&error));
            return true;
        }
    };
    let mut any = false;
    for probe in &probes.probes {
        let is_meant = |pattern: &&UsdtPattern| {
            pattern.provider.matches(&probe.provider) && pattern.name.matches(&probe.name)
        };
        let mut meant = matching.uprobe.usdt.iter().enumerate().filter(|(_, pattern)| is_meant(pattern));
        let Some((first, pattern)) = meant.next() else { continue };
        let functions = matching.uprobe.patterns.len();
        matching.matched.extend(
            std::iter::once(first).chain(meant.map(|(index, _)| index)).map(|index| functions + index),
        );
        any = true;
        for site in &probe.sites {
            add_site(matching, pattern, probe, site);
        }
    }
    if any {
        matching.skipped.extend(probes.notes);
    }
    any
}

fn add_site(matching: &mut Matching<'_>, pattern: &UsdtPattern, probe: &Usdt, site: &UsdtSite) {
    let shown = format!("{}:{}", probe.provider, probe.name);
    let types = pattern.arguments.iter().copied().map(Some).chain(std::iter::repeat(None));
    // If no types are given, all arguments are read, with the types of the note.
    let count = if pattern.arguments.is_empty() { site.arguments.len() } else { pattern.arguments.len() };
    let given: Result<Vec<Option<Given>>, String> = (0..count)
        .zip(types)
        .map(|(number, kind)| {
            site.arguments.get(number).map_or(Ok(None), |argument| given(number, argument, kind))
        })
        .collect();
    match given.and_then(|given| Capture::of_usdt(matching.uprobe, &given)) {
        Ok(reading) => {
            let mut hook = new_hook(ProbeProgram::Function, shown, site.offset, reading);
            hook.semaphore = site.semaphore;
            matching.hooks.entry(site.offset.0).or_insert(hook);
        }
        Err(why) => matching.skipped.push(format!("{shown}: {why}")),
    }
}

/// An argument with the requested type, or else that of the note. None if it cannot be read, and no type was
/// requested.
fn given(number: usize, argument: &UsdtArgument, kind: Option<Type>) -> Result<Option<Given>, String> {
    let operand = read(argument);
    let is_read = operand != Read::default();
    let usual = match (argument.is_float, argument.signed) {
        (true, _) => Type::Float(argument.size),
        (false, true) => Type::Int(argument.size),
        (false, false) => Type::Uint(argument.size),
    };
    let kind = match kind {
        None if !is_read => return Ok(None),
        None => usual,
        Some(Type::Int(0)) => Type::Int(argument.size),
        Some(Type::Uint(0)) => Type::Uint(argument.size),
        Some(kind @ Type::Float(_)) if !is_read => {
            return Err(format!("argument {} as {kind} cannot be read: {NO_VECTOR_REGISTERS}", number + 1));
        }
        Some(kind @ Type::Float(size)) if size != argument.size => {
            let own = argument.size;
            return Err(format!("argument {} has {own} bytes, and {kind} has {size}", number + 1));
        }
        Some(kind) => kind,
    };
    Ok(Some(Given { operand, kind }))
}

/// Where the kernel finds an argument. The default, which reads nothing, if that is unsupported.
fn read(argument: &UsdtArgument) -> Read {
    let usual = Read {
        size: argument.size,
        signed: u8::from(argument.signed),
        register: NO_REGISTER,
        index: NO_REGISTER,
        ..Read::default()
    };
    match &argument.operand {
        UsdtOperand::Constant(value) => Read { source: SOURCE_CONSTANT, offset: *value, ..usual },
        UsdtOperand::Register(register) => {
            Read { source: SOURCE_REGISTER, register: number(*register), ..usual }
        }
        UsdtOperand::Memory { base, index, displacement } => Read {
            source: SOURCE_MEMORY,
            register: base.map_or(NO_REGISTER, number),
            index: index.map_or(NO_REGISTER, |(register, _)| number(register)),
            scale: index.map_or(0, |(_, factor)| {
                factor.checked_ilog2().and_then(|bits| u8::try_from(bits).ok()).unwrap_or(0)
            }),
            offset: *displacement,
            ..usual
        },
        UsdtOperand::Unsupported(_) => Read::default(),
    }
}

/// The DWARF number of a register (System V AMD64 ABI, figure 3.36).
fn number(register: Register) -> u8 {
    match register {
        Register::Rax => 0,
        Register::Rdx => 1,
        Register::Rcx => 2,
        Register::Rbx => 3,
        Register::Rsi => 4,
        Register::Rdi => 5,
        Register::Rbp => 6,
        Register::Rsp => 7,
        Register::R8 => 8,
        Register::R9 => 9,
        Register::R10 => 10,
        Register::R11 => 11,
        Register::R12 => 12,
        Register::R13 => 13,
        Register::R14 => 14,
        Register::R15 => 15,
        Register::Rip => 16,
    }
}
