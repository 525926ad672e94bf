//! TLS: finds the functions of an object that carry plaintext, as hooks.
//!
//! Libraries with a C ABI are rows of a table. Those with other rules have files of their own (`go`,
//! `rustls`, `prefixed`). `signature` finds functions without symbols; these then use the same row.
//!
//! Decides between public functions and a cheaper internal one, and determines implementation and version. It
//! reads files only through their [`Object`].

mod botan;
mod directions;
mod function_places;
mod go;
mod implementations;
mod libraries;
mod post_prologue;
mod prefixed;
mod rustls;
mod shared_impl;
pub mod signature;
#[cfg(test)]
mod tests;
mod untraceable;
pub mod version;

use std::ffi::OsStr;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use probe_common::{CallShape, Calls, IoDirection, LengthSource};

use super::{LibraryInfo, NoHooks, ProbeMatch, UnseenPart};
use crate::elf::symbols::demangle::demangle;
use crate::elf::{ElfFunction, ExitSite, Index, NoReturn, Object, Returns, SymbolFilter};
use crate::error_chain;
use crate::plan::program_set::{CapturedConnections, ConnectionRecords};
use crate::plan::return_probe::ReturnPolicy;
use crate::plan::{HookImplementation, ProbeProgram};

use directions::DirectionCheck;
use function_places::FunctionPlaces;
use implementations::{Naming, TwoImplementations, naming};
use libraries::{LIBRARIES, TlsLibrary};
pub use signature::Confidence;
use signature::{Search, SignatureMatch};
pub use untraceable::Untraceable;

/// The next step for the user when there is nothing to attach to.
pub(super) const NEXT_STEP: &str = "Use --wait to wait for a program or library that is loaded later. TLS \
                                    libraries are recognised by their functions (SSL_read, \
                                    gnutls_record_recv, …): by exports and symbols, some also by signatures \
                                    (--guess: uncertain ones too). -v lists each file that was inspected; \
                                    `ctrace doctor CONTAINER` shows which step fails for each process, and \
                                    what to do.";

/// The shape of a handshake function, of which only the handle, its first argument, is used.
const HANDSHAKE: CallShape = CallShape {
    handle: 0,
    buffer: 0,
    length: LengthSource::Returned,
    direction: IoDirection::Receive,
    calls: Calls::All,
};

/// A warning for processes whose kernel encrypts for them. Writes through the library are still traced.
pub const KERNEL_TLS: &str = "kernel TLS is in use in the network namespace of this process: files that are \
                              sent with SSL_sendfile are not traced; turn kernel TLS off to see them (nginx: \
                              `ssl_conf_command Options -KTLS`)";

/// What `ctrace ssl` traces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SslProbe {
    /// Functions that are less certain than this are not hooked.
    pub least: Confidence,
    /// Which connections to capture.
    pub captured: CapturedConnections,
    /// Whether to emit connection records.
    pub connections: ConnectionRecords,
    /// How returns may be probed.
    pub returns: ReturnPolicy,
}

/// The symbols that [`hooks`] needs, for [`Object::parse`].
pub fn symbol_filter() -> SymbolFilter {
    let functions = LIBRARIES.iter().flat_map(|row| row.functions.iter().map(|function| function.name));
    let opens = LIBRARIES
        .iter()
        .flat_map(|row| row.constructors.iter().chain(row.external_constructors).map(|open| open.name));
    let closes = LIBRARIES.iter().flat_map(|row| {
        row.destructors.iter().chain(row.handshakes).chain(row.optional_destructors).copied()
    });
    let marks = version::marks().chain(untraceable::functions()).chain([go::FOR_C]).chain(botan::FROM_PEER);
    let wanted: SymbolFilter = functions.chain(opens).chain(closes).chain(marks).collect();
    wanted.or_containing(rustls::PARTS.iter().chain(prefixed::PARTS).copied())
}

/// Whether a file name is that of a shared TLS library, with any version, that is worth attaching to before
/// anybody maps it. NSPR is not: programs that do not use TLS have it as well, and only the kernel can probe
/// the returns of its functions.
pub fn is_expected_library(name: &str) -> bool {
    let is_for_tls = |row: &&TlsLibrary| row.functions.iter().all(|function| function.calls.is_for_all());
    LIBRARIES.iter().filter(is_for_tls).flat_map(|row| row.sonames).any(|soname| name.starts_with(soname))
}

/// Parts of the names of extension modules that have TLS of their own: libraries that wheels bundle
/// (`libssl-7b0a1a.so.1.1`), and modules that include one (`_ssl.abi3.so`, cryptography's `_rust.abi3.so`,
/// grpc's `cygrpc.cpython-311-x86_64-linux-gnu.so`).
const MODULES: [&str; 6] = ["libssl", "libgnutls", "libmbedtls", "_ssl.", "_rust.abi3", "cygrpc."];

/// Whether a file name is that of an extension module of Python or Node.js that may have TLS of its own. Any
/// module of Node.js may: their names say nothing.
pub fn is_expected_module(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    match extension {
        Some("node") => true,
        Some("so") => MODULES.iter().any(|part| name.contains(part)),
        _ => name.contains(".so.") && MODULES.iter().any(|part| name.contains(part)),
    }
}

/// The hooks, of high confidence, of an object that was parsed with [`symbol_filter`].
pub fn hooks(object: &Object) -> Result<ProbeMatch, NoHooks> {
    hooks_of(object, SslProbe::default())
}

/// The same, with options.
pub fn hooks_of(object: &Object, watched: SslProbe) -> Result<ProbeMatch, NoHooks> {
    let defines = |row: &&TlsLibrary| {
        let functions = row.functions.iter().map(|function| function.name);
        let mut names = functions.chain(row.external_constructors.iter().map(|open| open.name));
        names.any(|name| !object.functions(name).is_empty())
    };
    let rows: Vec<&TlsLibrary> = LIBRARIES.iter().filter(defines).collect();
    let mut found = ProbeMatch::default();
    let mut groups = HookGroups::default();
    let mut plain = None;
    for row in &rows {
        let check = DirectionCheck::begin(&found);
        add_row(object, row, watched, &mut found);
        if row.name == botan::ROW.name {
            botan::add(object, watched, &mut found);
        }
        // An implementation may be split into several libraries, and this one only opens connections.
        if row.functions.iter().any(|function| !object.functions(function.name).is_empty()) {
            check.end(row.name, &mut found);
        }
        let group = groups.end(&found, || Some(facts(object, row)));
        plain = plain.or(group.filter(|_| row.name == libraries::OPENSSL));
    }
    let has_openssl = rows.iter().any(|row| row.name == libraries::OPENSSL) || prefixed::is_in(object);
    let mut both = if has_openssl { TwoImplementations::of(object) } else { None };
    let copies = prefixed::add(object, (watched, both.is_some()), &mut found);
    let prefixed = groups.end(&found, || copies.clone());
    let crates = rustls::add(object, &mut found);
    groups.end(&found, || crates.clone());
    // What an object names with symbols needs no signature, unless something else has the same names.
    let may_be_named = |api: &str| {
        rows.iter().any(|row| row.name == api)
            || copies.is_some() && api == libraries::OPENSSL
            || crates.is_some() && api == rustls::API
    };
    let is_named = |api: &str| may_be_named(api) && (both.is_none() || api != libraries::OPENSSL);
    let Search { located, texts, failed } =
        signature::locate(object, |api| !is_named(api), untraceable::needles());
    found.skipped.extend(failed);
    let untraceable = untraceable::find(object, &texts);
    if located.iter().filter(|located| located.api == libraries::OPENSSL).count() > 1 {
        both = both.or_else(|| TwoImplementations::of(object));
    }
    if let Some(both) = &both {
        let [of_plain, of_copies] = both.by_naming(object, &located);
        groups.set_library(plain, of_plain.info(object));
        groups.set_library(prefixed, of_copies.info(object));
    }
    let mut signed = None;
    for located in &located {
        let both = both.as_ref().filter(|_| located.api == libraries::OPENSSL);
        if both.is_some() && naming(object, located) != Naming::Unnamed {
            continue;
        }
        let facts = add_located(object, (located, both), watched, &mut found);
        groups.end(&found, || Some(facts.clone()));
        signed = signed.or(Some(facts));
    }
    let of_go = go::add(object, &mut found);
    groups.end(&found, || of_go.clone());
    let others = [copies, crates, of_go, signed];
    let others = others.into_iter().flatten().next();
    // If several libraries are linked into one file, the first one names it.
    found.library = match (rows.first(), others) {
        (Some(row), _) => plain
            .and_then(|group| groups.library(group))
            .filter(|_| row.name == libraries::OPENSSL)
            .unwrap_or_else(|| facts(object, row)),
        (None, Some(other)) => other,
        (None, None) if found.unseen.is_empty() => {
            return Err(untraceable.map_or(NoHooks::Ssl, NoHooks::Untraceable));
        }
        (None, None) => LibraryInfo { name: object.soname().map(str::to_owned), ..LibraryInfo::default() },
    };
    groups.name(&mut found);
    found.hooks.sort_by_key(|hook| hook.offset);
    found.untraceable = untraceable;
    Ok(found)
}

/// Which hooks of an object belong to which of its TLS libraries.
#[derive(Default)]
struct HookGroups(Vec<(Range<usize>, Option<LibraryInfo>)>);

impl HookGroups {
    /// Ends a group with the hooks that were added since the one before, and returns its index. Its library
    /// is looked up only if there are any.
    fn end(&mut self, found: &ProbeMatch, library: impl FnOnce() -> Option<LibraryInfo>) -> Option<usize> {
        let begin = self.0.last().map_or(0, |(range, _)| range.end);
        if found.hooks.len() == begin {
            return None;
        }
        self.0.push((begin..found.hooks.len(), library()));
        Some(self.0.len() - 1)
    }

    fn library(&self, group: usize) -> Option<LibraryInfo> {
        self.0.get(group)?.1.clone()
    }

    fn set_library(&mut self, group: Option<usize>, library: LibraryInfo) {
        if let Some((_, own)) = group.and_then(|group| self.0.get_mut(group)) {
            *own = Some(library);
        }
    }

    /// Names the library of those hooks whose library, or version of it, is another one than the object is
    /// named after.
    fn name(self, found: &mut ProbeMatch) {
        for (range, library) in self.0 {
            let Some(LibraryInfo { implementation: Some(name), version, .. }) = library else { continue };
            if found.library.implementation.as_ref() == Some(&name) && found.library.version == version {
                continue;
            }
            let implementation = Arc::new(HookImplementation { name, version });
            for hook in found.hooks.get_mut(range).unwrap_or_default() {
                hook.implementation = Some(Arc::clone(&implementation));
            }
        }
    }
}

/// Adds the hooks of functions that were found by signature, if the confidence suffices.
fn add_located(
    object: &Object,
    (located, both): (&SignatureMatch, Option<&TwoImplementations>),
    watched: SslProbe,
    found: &mut ProbeMatch,
) -> LibraryInfo {
    let least = watched.least;
    let SignatureMatch { api, implementation, version: _, functions, certain, mark: _, why, certainty } =
        located;
    if *api == rustls::API {
        return rustls::add_located(object, located, least, found);
    }
    let with = |is_wanted: &dyn Fn(&str) -> bool| {
        let functions = functions.iter().filter(|(name, _)| is_wanted(name));
        let functions = functions.map(|(name, symbol)| ((*name).to_owned(), *symbol));
        match both {
            // Symbols of these names are the other implementation's.
            Some(_) => object.with_only_functions(functions),
            None => object.with_functions(functions),
        }
    };
    let named = with(&|_| true);
    let row = LIBRARIES.iter().find(|row| row.name == *api);
    match (row, *certainty, least) {
        (Some(row), Confidence::High, _) => {
            found.evidence.push(format!("{implementation} found without symbols, by signature: {why}"));
            add_checked_row(&named, row, watched, (implementation, found));
        }
        // One direction is certain: it is attached to, and the other one is named as missing.
        (Some(row), Confidence::Low, Confidence::High) if !certain.is_empty() => {
            found.evidence.push(format!("a part of {implementation} found without symbols, by signature"));
            let named = with(&|name| certain.contains(&name));
            let check = DirectionCheck::begin(found);
            found.skipped.push(format!("{why}: --guess attaches anyway"));
            add_row(&named, row, watched, found);
            check.end(implementation, found);
        }
        (Some(row), Confidence::Low, Confidence::Low) => {
            found.evidence.push(format!("{implementation} guessed (--guess), by signature: {why}"));
            add_checked_row(&named, row, watched, (implementation, found));
        }
        _ => found.unseen.push(UnseenPart::Other(format!(
            "it seems to contain {implementation} without symbols, but its functions could not be located \
             with certainty ({why}): --guess attaches anyway"
        ))),
    }
    if let Some(both) = both {
        return both.located(located).info(object);
    }
    let version = row.and_then(|row| version::find_of(object, row));
    let (implementation, version) =
        version.map_or((*implementation, None), |found| (found.implementation, found.version));
    LibraryInfo {
        name: object.soname().map(str::to_owned),
        implementation: Some(implementation.to_owned()),
        version,
        version_in: None,
    }
}

/// Adds the hooks of an implementation, and what of it is not seen.
fn add_checked_row(
    object: &Object,
    row: &TlsLibrary,
    watched: SslProbe,
    (implementation, found): (&str, &mut ProbeMatch),
) {
    let check = DirectionCheck::begin(found);
    add_row(object, row, watched, found);
    check.end(implementation, found);
}

fn facts(object: &Object, row: &TlsLibrary) -> LibraryInfo {
    let (implementation, version) = version::find_of(object, row).map_or_else(
        || (version::guess(object, row), None),
        |version::Version { implementation, version }| (Some(implementation), version),
    );
    let beside = |prefix: &str| object.needed().iter().find(|name| name.starts_with(prefix)).cloned();
    LibraryInfo {
        version_in: if version.is_none() { row.version_in.and_then(beside) } else { None },
        name: object.soname().map(str::to_owned),
        implementation: implementation.map(str::to_owned),
        version,
    }
}

/// The places for probes in an object. None, with the reason in `found`, if its functions cannot be read.
fn places<'o>(object: &'o Object, watched: SslProbe, found: &mut ProbeMatch) -> Option<FunctionPlaces<'o>> {
    FunctionPlaces::new(object, watched.returns)
        .inspect_err(|error| found.skipped.push(error_chain::in_one_line(error)))
        .ok()
}

fn add_row(object: &Object, row: &TlsLibrary, watched: SslProbe, found: &mut ProbeMatch) {
    let Some(places) = places(object, watched, found) else { return };
    let mut shared = Vec::new();
    for internal in row.internals {
        match shared_impl::find(object, row, internal) {
            Ok(function) if places.prefers(&function) => shared.push(function),
            Ok(function) => {
                tracing::debug!(
                    library = row.name,
                    function = internal.name,
                    "the public functions are hooked, because their returns are cheaper or safer to probe"
                );
                match places.indirect_hooks(&function) {
                    Ok(hooks) => found.hooks.extend(hooks),
                    Err(reason) => found.skipped.push(format!("{}: {reason}", function.indirect)),
                }
            }
            Err(reason) => {
                tracing::debug!(library = row.name, witness = internal.witness, %reason, "the public \
                 functions are hooked");
            }
        }
    }
    for internal in &shared {
        match places.shared_hook(internal) {
            Ok(hook) => found.hooks.push(hook),
            Err(reason) => found.skipped.push(format!("{}: {reason}", internal.name)),
        }
    }
    for function in row.functions {
        if !shared.iter().any(|shared| shared.serves.contains(function.name)) {
            add_public(&places, function.name, function.program(), function.arguments(), found);
        }
    }
    for open in row.constructors.iter().chain(row.external_constructors) {
        add_public(&places, open.name, open.handle.program(), 0, found);
    }
    for name in row.destructors {
        add_public(&places, name, ProbeProgram::Close, 0, found);
    }
    if watched.connections.enabled() {
        add_records(&places, (row, watched.connections), str::to_owned, found);
    }
}

/// Adds hooks that only connection records need. `named` maps a function to its name in this object.
fn add_records(
    places: &FunctionPlaces<'_>,
    (row, connections): (&TlsLibrary, ConnectionRecords),
    named: impl Fn(&str) -> String,
    found: &mut ProbeMatch,
) {
    let handshakes = if connections.has_handshakes() { row.handshakes } else { &[] };
    for name in handshakes {
        add_public(places, &named(name), ProbeProgram::Handshake, HANDSHAKE.pack(), found);
    }
    for name in row.optional_destructors {
        add_public(places, &named(name), ProbeProgram::Close, 0, found);
    }
}

/// Hooks all functions of this name.
fn add_public(
    places: &FunctionPlaces<'_>,
    name: &str,
    program: ProbeProgram,
    arguments: u32,
    found: &mut ProbeMatch,
) {
    // The name without parameter types.
    let shown = demangle(name).map_or_else(|| name.to_owned(), |name| name.path);
    for symbol in places.object.functions(name) {
        match places.hook(*symbol, program, shown.clone(), arguments) {
            // Two names of one function: the linker folded identical code.
            Ok(hook) if found.hooks.iter().any(|other| other.offset == hook.offset) => {
                found.skipped.push(format!("{name}: has the same code as another hooked function"));
            }
            Ok(hook) => found.hooks.push(hook),
            Err(reason) => found.skipped.push(format!("{name}: {reason}")),
        }
    }
}

/// All return instructions of a function. If a call could leave it elsewhere, it would be joined with the
/// next call.
fn ends(object: &Object, index: &Index, function: &ElfFunction) -> Result<Vec<ExitSite>, String> {
    all_ends(object.returns(index, function))
}

fn all_ends(returns: Result<Returns, NoReturn>) -> Result<Vec<ExitSite>, String> {
    let returns = returns.map_err(|error| error_chain::in_one_line(&error))?;
    if returns.tail_jumps > 0 || returns.sites.is_empty() {
        return Err(
            "it returns by a jump to another function, so the number of bytes that it moved cannot be read"
                .into(),
        );
    }
    Ok(returns.sites.into_iter().map(|(_, offset)| ExitSite::ret(offset)).collect())
}
