//! Turns USDT probes into hooks.

use probe_common::{NO_REGISTER, Operand as Read, SOURCE_CONSTANT, SOURCE_MEMORY, SOURCE_REGISTER};

use super::matching::{Matching, new_hook};
use super::{Given, UsdtPattern};
use crate::elf::usdt::{Register, UsdtArgument, UsdtOperand};
use crate::elf::{Usdt, UsdtSite};
use crate::error_chain;
use crate::plan::ProbeProgram;
use crate::plan::capture::Capture;
use crate::plan::value_type::Type;

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
        let Some(pattern) = matching.uprobe.usdt.iter().find(is_meant) else { continue };
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
    let given: Vec<Option<Given>> = (0..count)
        .zip(types)
        .map(|(number, kind)| {
            let argument = site.arguments.get(number)?;
            let read = read(argument);
            if kind.is_none() && read == Read::default() {
                return None;
            }
            let usual = if argument.signed { Type::Int(argument.size) } else { Type::Uint(argument.size) };
            let kind = match kind {
                Some(Type::Int(0)) => Type::Int(argument.size),
                Some(Type::Uint(0)) => Type::Uint(argument.size),
                Some(kind) => kind,
                None => usual,
            };
            Some(Given { operand: read, kind })
        })
        .collect();
    match Capture::of_usdt(matching.uprobe, &given) {
        Ok(reading) => {
            let mut hook = new_hook(ProbeProgram::Function, shown, site.offset, reading);
            hook.semaphore = site.semaphore;
            matching.hooks.entry(site.offset.0).or_insert(hook);
        }
        Err(why) => matching.skipped.push(format!("{shown}: {why}")),
    }
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
