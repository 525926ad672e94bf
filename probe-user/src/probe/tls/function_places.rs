//! Where the probes of a function go: at its entry, and where its return is probed.
//!
//! Decides between the exits of the function and the kernel's return probe, as the user's choice and the
//! proofs of [`crate::elf`] allow.

use probe_common::behind_pushes;

use crate::elf::code::decode::UnprobeableCode;
use crate::elf::code::decode::{self, CallSite, InstructionSite};
use crate::elf::{
    ExitSite, FileOffset, FunctionTable, Object, ObjectError, Symbol, UncertainExits, VirtAddr,
};
use crate::error_chain;
use crate::plan::return_probe::ReturnPolicy;
use crate::plan::{Hook, ProbeProgram};

use super::post_prologue;
use super::shared_impl::{PROLOGUE, SharedImplementation};

/// An object, the bounds of its functions, and which ways of probing returns may be used.
pub(super) struct FunctionPlaces<'o> {
    pub(super) object: &'o Object,
    table: FunctionTable<'o>,
    policy: ReturnPolicy,
}

/// Why a function is not hooked.
#[derive(Debug, thiserror::Error)]
enum NoProbeSite {
    #[error(transparent)]
    Site(#[from] UnprobeableCode),
    #[error("its symbol points into the middle of the function at {0:#x}, according to the unwind table")]
    Inside(u64),
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// A place for the probe at the entry.
struct EntryPlace {
    offset: FileOffset,
    /// How many words are between the top of the stack and the return address.
    pushed: u8,
    emulated: bool,
}

impl<'o> FunctionPlaces<'o> {
    pub(super) fn new(object: &'o Object, policy: ReturnPolicy) -> Result<Self, ObjectError> {
        Ok(Self { object, table: object.frames()?, policy })
    }

    /// The hook of a function, or the reason why there is none.
    pub(super) fn hook(
        &self,
        symbol: Symbol,
        program: ProbeProgram,
        function: String,
        arguments: u32,
    ) -> Result<Hook, String> {
        if !program.has_return() || self.policy == ReturnPolicy::Kernel {
            return self.with_kernel_return(symbol, program, function, (arguments, None));
        }
        match (self.table.exits(symbol.address, symbol.size), self.policy) {
            (Ok(exits), _) => {
                let entry = self.entry(symbol)?;
                let arguments = behind_pushes(arguments, entry.pushed);
                Ok(Hook::new(program, function, entry.offset, arguments).with_exits(exits))
            }
            (Err(why), ReturnPolicy::Exit) => Err(not_at_exits(&why)),
            (Err(why), _) => {
                let reason = Some(error_chain::in_one_line(&why));
                self.with_kernel_return(symbol, program, function, (arguments, reason))
            }
        }
    }

    /// The hook of an internal function, or the reason why there is none.
    pub(super) fn shared_hook(&self, shared: &SharedImplementation) -> Result<Hook, String> {
        let arguments = shared.forwarder.arguments();
        let hook = Hook {
            public_names: shared.serves.iter().map(|name| (*name).to_owned()).collect(),
            call_sites: shared.callers.clone(),
            ..Hook::new(ProbeProgram::Io, shared.name.to_owned(), shared.offset, arguments)
        };
        if self.policy == ReturnPolicy::Kernel {
            return Ok(hook.with_kernel_return(None));
        }
        match (self.table.exits(shared.address, 0), self.policy) {
            (Ok(exits), _) => Ok(hook.with_exits(exits)),
            (Err(why), ReturnPolicy::Exit) => Err(not_at_exits(&why)),
            (Err(why), _) => Ok(hook.with_kernel_return(Some(error_chain::in_one_line(&why)))),
        }
    }

    /// The hooks for calls of an internal function by functions that have no symbols, if the public functions
    /// are hooked: OpenSSL's BIO for TLS is one. They are at the calls themselves, where the arguments are in
    /// place, and where the callee returns to. For both, the top of the stack identifies the call.
    pub(super) fn indirect_hooks(&self, shared: &SharedImplementation) -> Result<Vec<Hook>, String> {
        let calls = self.table.calls_to(shared.address).map_err(|error| error_chain::in_one_line(&error))?;
        let others = calls.iter().filter(|call| !shared.returns_to.contains(&call.return_address));
        others.map(|call| self.call_site_hook(shared, call)).collect()
    }

    fn call_site_hook(&self, shared: &SharedImplementation, call: &CallSite) -> Result<Hook, String> {
        let refused = |why: &dyn std::error::Error| {
            format!("a call of {}: {}", shared.name, error_chain::in_one_line(why))
        };
        if call.tail {
            return Err(format!("a function without a symbol jumps to {}", shared.name));
        }
        let place = |address: VirtAddr| -> Result<FileOffset, NoProbeSite> {
            let code = self.object.code(address, PROLOGUE)?;
            decode::check_prefix(&code, address)?;
            Ok(self.object.file_offset(address).ok_or(ObjectError::NotCode { address: address.0 })?)
        };
        let entry = place(call.address()).map_err(|why| refused(&why))?;
        let exit = place(call.return_address).map_err(|why| refused(&why))?;
        let arguments = shared.forwarder.arguments();
        let hook = Hook::new(ProbeProgram::Io, shared.indirect.to_owned(), entry, arguments);
        Ok(hook.with_exits(vec![ExitSite::ret(exit)]))
    }

    /// Whether an internal function is to be hooked instead of the public ones that it serves: where the
    /// returns of these can be probed at exits and cost fewer single steps, they are better.
    pub(super) fn prefers(&self, shared: &SharedImplementation) -> bool {
        if self.policy == ReturnPolicy::Kernel {
            return true;
        }
        let steps = |name: &&str| self.steps(self.object.function(name)?);
        let public: Option<usize> = shared.serves.iter().map(steps).sum();
        match (self.table.exits(shared.address, 0), public) {
            (Ok(exits), Some(public)) => shared.serves.len() * steps_of(&exits) <= public,
            (Ok(_), None) => true,
            (Err(_), Some(_)) => false,
            (Err(_), None) => self.policy == ReturnPolicy::Auto,
        }
    }

    /// How many instructions of one call are single-stepped. None if its exits are not certain.
    fn steps(&self, symbol: Symbol) -> Option<usize> {
        let exits = self.table.exits(symbol.address, symbol.size).ok()?;
        let entry = self.entry(symbol).ok()?;
        Some(usize::from(!entry.emulated) + steps_of(&exits))
    }

    /// Where the arguments can be read: at the first instruction that the kernel emulates, if the code before
    /// it leaves them in their registers, otherwise as early as possible.
    fn entry(&self, symbol: Symbol) -> Result<EntryPlace, String> {
        let first = self.first_site(symbol);
        if let Ok((offset, InstructionSite { emulated: true, .. })) = first {
            return Ok(EntryPlace { offset, pushed: 0, emulated: true });
        }
        if let Some(later) = self.object.emulated_entry(symbol.address, symbol.size) {
            return Ok(EntryPlace { offset: later.offset, pushed: later.pushed, emulated: true });
        }
        match first {
            Ok((offset, site)) => Ok(EntryPlace { offset, pushed: 0, emulated: site.emulated }),
            Err(NoProbeSite::Site(UnprobeableCode::Prefix(_))) => {
                let late = self.object.late_entry(symbol.address, symbol.size);
                let late = late.map_err(|error| error_chain::in_one_line(&error))?;
                Ok(EntryPlace { offset: late.offset, pushed: late.pushed, emulated: false })
            }
            Err(reason) => Err(error_chain::in_one_line(&reason)),
        }
    }

    /// The hook of a function whose return the kernel probes, or that needs no return.
    fn with_kernel_return(
        &self,
        symbol: Symbol,
        program: ProbeProgram,
        function: String,
        (arguments, reason): (u32, Option<String>),
    ) -> Result<Hook, String> {
        match self.first_site(symbol) {
            Ok((offset, _)) => {
                let hook = Hook::new(program, function, offset, arguments);
                Ok(if program.has_return() { hook.with_kernel_return(reason) } else { hook })
            }
            Err(NoProbeSite::Site(UnprobeableCode::Prefix(_))) => {
                post_prologue::hook(self.object, symbol, program, function, arguments)
            }
            Err(reason) => Err(error_chain::in_one_line(&reason)),
        }
    }

    fn first_site(&self, symbol: Symbol) -> Result<(FileOffset, InstructionSite), NoProbeSite> {
        if let Some(around) = self.table.at(symbol.address)?
            && around.address != symbol.address
        {
            return Err(NoProbeSite::Inside(around.address.0));
        }
        let length = if symbol.size == 0 { PROLOGUE } else { symbol.size.min(PROLOGUE) };
        let code = self.object.code(symbol.address, length)?;
        let site = decode::probe_site(&code, symbol.address)?;
        let address = VirtAddr(symbol.address.0 + site.offset);
        let offset = self.object.file_offset(address).ok_or(ObjectError::NotCode { address: address.0 })?;
        Ok((offset, site))
    }
}

fn steps_of(exits: &[ExitSite]) -> usize {
    usize::from(exits.iter().any(|exit| !exit.emulated))
}

/// The reason why a function is skipped with `--return-probe=exit`.
fn not_at_exits(why: &UncertainExits) -> String {
    format!(
        "{}, so that its return can only be probed by the kernel, which --return-probe=exit rules out",
        error_chain::in_one_line(why)
    )
}
