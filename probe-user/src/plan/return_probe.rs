//! How the return of a hooked function is probed: what the user chose, and what a hook got.

use serde::Serialize;

use crate::elf::ExitSite;

/// `--return-probe`: which ways of probing returns may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReturnPolicy {
    /// Probes at the exits of the function where these are certain, otherwise the kernel's return probe.
    #[default]
    Auto,
    /// Only probes at the exits. Functions whose exits are not certain are skipped.
    Exit,
    /// The kernel's return probe, except where it would break the program for certain (Go, exceptions,
    /// panics).
    Kernel,
}

/// How the return of a hooked function is probed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReturnProbe {
    /// The return is not probed.
    #[default]
    None,
    /// At exits that the kernel emulates.
    EmulatedExits,
    /// At exits of which some or all are `ret` instructions, which the kernel single-steps.
    Rets,
    /// By the kernel's return probe, which replaces the return address on the stack. A program that switches
    /// stacks inside the call ends by SIGILL.
    Kernel,
}

impl ReturnProbe {
    /// The way that probes at these exits are.
    pub fn at(exits: &[ExitSite]) -> Self {
        match exits {
            [] => Self::None,
            exits if exits.iter().all(|exit| exit.emulated) => Self::EmulatedExits,
            _ => Self::Rets,
        }
    }

    /// Whether the return is not probed.
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }

    /// The words for it in messages and tables.
    pub fn text(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::EmulatedExits => "emulated exits",
            Self::Rets => "ret instructions",
            Self::Kernel => "kernel",
        }
    }
}
