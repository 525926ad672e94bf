//! Finds the internal function that several public ones share, from their machine code.
//!
//! From OpenSSL 1.1.1 on, `SSL_read` and `SSL_read_ex` both call `ssl_read_internal`, which has no symbol.
//! The first instruction of the public functions is single-stepped in most builds, which makes a probe ten
//! times as slow as one on the `push` at the start of the internal function. Nothing is guessed: if the
//! instructions do not prove a step, the public functions are hooked.

use std::collections::BTreeSet;

use crate::elf::code::decode;
use crate::elf::{FileOffset, Object, ObjectError, VirtAddr};

use super::libraries::{Internal, LibraryFunction, TlsLibrary};

/// Limit of the code of a public function that is read: they have up to 500 bytes.
const MAX_BODY: u64 = 4096;
/// How much code from the entry on is enough to place a probe.
pub(super) const PROLOGUE: u64 = 64;

/// An internal function that public ones share.
#[derive(Debug)]
pub(super) struct SharedImplementation {
    /// Its name in the library's source.
    pub name: &'static str,
    /// The address of its entry.
    pub address: VirtAddr,
    /// The file offset for the probe.
    pub offset: FileOffset,
    /// The public function with the same arguments.
    pub forwarder: LibraryFunction,
    /// Public functions that need no hook of their own, because all of their bytes pass here.
    pub serves: BTreeSet<&'static str>,
    /// The public function for the low 12 bits of each return address.
    pub callers: Vec<(u16, &'static str)>,
    /// Where it returns to in these functions.
    pub returns_to: BTreeSet<VirtAddr>,
    /// The public function that reaches it by other functions.
    pub indirect: &'static str,
}

/// Why the public functions are hooked instead.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unproven {
    #[error("no public function passes on its arguments, or several have the same name")]
    NoForwarder,
    #[error("{0} does more than pass its arguments on to one function")]
    NotForwarding(&'static str),
    #[error("{0} passes its arguments on to another public function, or out of the object")]
    NotInternal(&'static str),
    #[error("a probe in the internal function would be no cheaper")]
    NotCheaper,
    #[error("{0} does not call the internal function")]
    NoWitness(&'static str),
    #[error("{0} jumps to the internal function")]
    TailCall(&'static str),
    #[error("{0} and {1} have the same low bits in their return addresses")]
    SameCaller(&'static str, &'static str),
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// A public function with its calls.
struct Member {
    name: &'static str,
    calls: decode::CallTargets,
}

/// Follows a forwarder to the function that it shares with the others of its direction.
pub(super) fn find(
    object: &Object,
    row: &TlsLibrary,
    internal: &Internal,
) -> Result<SharedImplementation, Unproven> {
    let forwarder = internal
        .forwarders
        .iter()
        .find(|name| !object.functions(name).is_empty())
        .and_then(|name| row.functions.iter().find(|function| function.name == *name))
        .ok_or(Unproven::NoForwarder)?;
    let (address, body) = body(object, forwarder.name)?.ok_or(Unproven::NoForwarder)?;
    let target = only_target(&body, address).ok_or(Unproven::NotForwarding(forwarder.name))?;
    let offset = site(object, forwarder.name, address, target)?;

    let mut members = Vec::new();
    for function in row.functions.iter().filter(|function| function.direction == forwarder.direction) {
        if let Some((address, body)) = self::body(object, function.name)? {
            members.push(Member { name: function.name, calls: decode::calls(&body, address) });
        }
    }
    let callers = callers(&members, target)?;
    if !callers.iter().any(|(_, name)| *name == internal.witness) {
        return Err(Unproven::NoWitness(internal.witness));
    }
    let serves = serves(object, &members, &callers);
    let calls = members.iter().flat_map(|member| &member.calls.direct);
    let returns_to = calls.filter(|call| call.target == target).map(|call| call.return_address).collect();
    Ok(SharedImplementation {
        name: internal.name,
        address: target,
        offset,
        forwarder: *forwarder,
        serves,
        callers,
        returns_to,
        indirect: internal.indirect,
    })
}

/// A function's address and code. None unless there is exactly one such function, of known size.
fn body(object: &Object, name: &str) -> Result<Option<(VirtAddr, Vec<u8>)>, ObjectError> {
    match object.function(name) {
        Some(symbol) if (1..=MAX_BODY).contains(&symbol.size) => {
            Ok(Some((symbol.address, object.code(symbol.address, symbol.size)?)))
        }
        _ => Ok(None),
    }
}

/// The callee, if the function calls nothing else: then nothing else can move its bytes.
fn only_target(body: &[u8], address: VirtAddr) -> Option<VirtAddr> {
    let target = decode::forwarder(body, address)?;
    let calls = decode::calls(body, address);
    (calls.complete && calls.indirect == 0 && calls.direct.len() == 1).then_some(target)
}

/// Where to place the probe in the internal function, if it is one and a probe there is cheap.
fn site(
    object: &Object,
    name: &'static str,
    from: VirtAddr,
    target: VirtAddr,
) -> Result<FileOffset, Unproven> {
    let public = object.symbols().values().flatten().any(|symbol| symbol.address == target);
    if public || !object.same_segment(from, target) {
        return Err(Unproven::NotInternal(name));
    }
    let prologue = object.code(target, PROLOGUE)?;
    if decode::plt_slot(&prologue, target).is_some() {
        return Err(Unproven::NotInternal(name));
    }
    let site = decode::probe_site(&prologue, target).ok().filter(|site| site.emulated);
    site.and_then(|site| object.file_offset(VirtAddr(target.0 + site.offset))).ok_or(Unproven::NotCheaper)
}

/// The callers of the internal function, by return address. Load addresses are multiples of at least 4 KiB,
/// so the low 12 bits are the same as in the file.
fn callers(members: &[Member], target: VirtAddr) -> Result<Vec<(u16, &'static str)>, Unproven> {
    let mut callers: Vec<(u16, &'static str)> = Vec::new();
    for member in members {
        for call in member.calls.direct.iter().filter(|call| call.target == target) {
            if call.tail {
                return Err(Unproven::TailCall(member.name));
            }
            let low = (call.return_address.0 & 0xfff) as u16;
            match callers.iter().find(|(other, _)| *other == low) {
                Some((_, name)) if *name != member.name => {
                    return Err(Unproven::SameCaller(name, member.name));
                }
                Some(_) => {}
                None => callers.push((low, member.name)),
            }
        }
    }
    callers.sort_unstable();
    Ok(callers)
}

/// The callers, and the public functions that call one of these, directly or through the PLT. In this API, a
/// function that calls another one of its direction leaves it to move the bytes.
fn serves(object: &Object, members: &[Member], callers: &[(u16, &'static str)]) -> BTreeSet<&'static str> {
    let mut serves: BTreeSet<_> = callers.iter().map(|(_, name)| *name).collect();
    loop {
        let before = serves.len();
        for member in members {
            let through = |call: &decode::CallSite| {
                public_name(object, call.target).is_some_and(|name| serves.contains(name.as_str()))
            };
            if member.calls.direct.iter().any(through) {
                serves.insert(member.name);
            }
        }
        if serves.len() == before {
            return serves;
        }
    }
}

/// The public function at an address, or the one that the PLT stub there jumps to.
fn public_name(object: &Object, target: VirtAddr) -> Option<String> {
    let direct = object
        .symbols()
        .iter()
        .find(|(_, symbols)| symbols.iter().any(|symbol| symbol.address == target))
        .map(|(name, _)| name.clone());
    direct.or_else(|| {
        let stub = object.code(target, 16).ok()?;
        object.slot(decode::plt_slot(&stub, target)?).map(str::to_owned)
    })
}
