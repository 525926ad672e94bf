//! rustls: two methods of its `CommonState`, by symbols, or where `signature` has found them. Which arguments
//! the sending one has depends on the version, which the paths in its panic messages tell. Some builds have
//! no `send_appdata_encrypt`: it is a part of `buffer_plaintext` then, which has the same arguments. Some
//! have no `take_received_plaintext`: it is a part of its callers then, which `signature` finds, with symbols
//! or without, because the compiler decides how they tell data from other messages.
//!
//! A return is seen at the `ret` instructions: a return probe would be in the way of a panic.

use probe_common::{BufferLayout, CallShape, Calls, Direction, Length};

use crate::elf::{FileOffset, Function, Index, Object, VirtAddr};
use crate::error_chain;
use crate::plan::{Hook, ProbeProgram};
use crate::probe::{Found, LibraryInfo};

use super::signature::{self, SignatureMatch};
use super::{Confidence, all_ends, ends, version};

/// As events name it.
pub(super) const API: &str = "rustls";

/// What the mangled names contain, in both manglings.
pub(super) const PARTS: &[&str] = &[
    "11CommonState20send_a",
    "11CommonState16buffer",
    "11CommonState19send_some",
    "11CommonState23take_r",
    "11CommonState22start_o",
    "ExpectTraffic",
];

/// Methods of `CommonState`.
pub(super) const SENDS: &str = "send_appdata_encrypt";
pub(super) const BUFFERS: &str = "buffer_plaintext";
/// As that one is called before 0.23.
const WRITES: &str = "send_some_plaintext";
pub(super) const RECEIVES: &str = "take_received_plaintext";
pub(super) const BEGINS: &str = "start_outgoing_traffic";
/// A method of each `ExpectTraffic`, and how all of them are called.
pub(super) const HANDLES: &str = "handle";
const HANDLER: &str = "rustls::ExpectTraffic::handle";

/// Functions that have one of the names, at the most: several versions may be in one program.
const MAX_FUNCTIONS: usize = 64;
/// The first version that sends `OutboundChunks`; the ones before send one slice.
const WITH_CHUNKS: (u32, u32) = (0, 23);
/// Bytes of a path that are looked at.
const CONTEXT: usize = 48;

/// What a method does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Sends,
    /// Calls the one that sends, or has it inside.
    Buffers,
    Receives,
    /// Receives, among others, messages of data.
    Handles,
    Begins,
}

/// Adds the hooks of a program that has rustls in it. Gives what is known of it; none if there is none.
pub(super) fn add(object: &Object, found: &mut Found) -> Option<LibraryInfo> {
    if !object.symbols().keys().any(|name| PARTS.iter().any(|part| name.contains(part))) {
        return None;
    }
    let index =
        object.index().inspect_err(|error| found.skipped.push(error_chain::in_one_line(error))).ok()?;
    let selected = index.select(object, MAX_FUNCTIONS, |name| {
        PARTS.iter().any(|part| name.raw().contains(part))
            && name.demangled().is_some_and(|name| role(&name.path).is_some())
    });
    let functions = selected.inspect_err(|error| found.skipped.push(error_chain::in_one_line(error))).ok()?;
    let named = || functions.iter().filter_map(|function| Some((function, role(function.shown())?)));
    let has = |wanted| named().any(|(_, role)| role == wanted);
    if ![Role::Sends, Role::Buffers, Role::Receives].into_iter().any(has) {
        return None;
    }
    let mark = if has(Role::Receives) { None } else { mark(object, named(), found) };
    let version = version(object);
    let facts = facts(object, version.clone());
    let is_part = |role| match role {
        Role::Buffers => has(Role::Sends),
        Role::Handles => mark.is_none(),
        _ => false,
    };
    for (function, role) in named().filter(|(_, role)| !is_part(*role)) {
        // One name in both manglings.
        let name = match role {
            Role::Handles => HANDLER.to_owned(),
            _ => function.shown().replace(['<', '>'], ""),
        };
        let entry =
            object.site(function).map(|(offset, _)| offset).map_err(|error| error_chain::in_one_line(&error));
        let ends = || ends_beyond(object, &index, function);
        match entry.and_then(|entry| hook(name.clone(), role, entry, ends, (version.as_deref(), mark))) {
            // Equal code that the linker has folded.
            Ok(hook) if found.hooks.iter().any(|known| known.offset == hook.offset) => {}
            Ok(hook) => found.hooks.push(hook),
            Err(reason) => found.skipped.push(format!("{name}: {reason}")),
        }
    }
    if !has(Role::Receives) && !has(Role::Handles) {
        add_handlers(object, found);
    }
    Some(facts)
}

/// The instructions that return, also those of what it jumps to in the end: `send_some_plaintext` of 0.22
/// does.
fn ends_beyond(object: &Object, index: &Index, function: &Function) -> Result<Vec<FileOffset>, String> {
    let returns = object.returns(index, function).map_err(|error| error_chain::in_one_line(&error))?;
    let [next] = returns.jumps_to.as_slice() else { return all_ends(Ok(returns)) };
    let Some(next) = index.function_at(object, *next).filter(|found| found.address == *next) else {
        return all_ends(Ok(returns));
    };
    let mut sites: Vec<FileOffset> = returns.sites.into_iter().map(|(_, offset)| offset).collect();
    sites.extend(ends(object, index, &next)?);
    Ok(sites)
}

/// What says that a message is data, by the code of the handlers that symbols name.
fn mark<'f>(
    object: &Object,
    named: impl Iterator<Item = (&'f Function, Role)>,
    found: &mut Found,
) -> Option<u8> {
    let handlers = named.filter(|(_, role)| *role == Role::Handles);
    let handlers: Vec<VirtAddr> = handlers.map(|(function, _)| function.address).collect();
    let mark = signature::mark_of_data(object, &handlers);
    let mark = mark
        .inspect_err(|error| found.skipped.push(format!("{HANDLER}: {}", error_chain::in_one_line(error))))
        .ok()?;
    if mark.is_none() && !handlers.is_empty() {
        found.skipped.push(format!("{HANDLER}: its code does not tell data from other messages as is known"));
    }
    mark
}

/// Adds the hooks of what receives, where no symbol names it.
fn add_handlers(object: &Object, found: &mut Found) {
    let search = signature::locate(object, |api| api == API, std::iter::empty());
    found.skipped.extend(search.failed);
    for located in &search.located {
        match located.certainty {
            Confidence::High => add_functions(object, located, found),
            Confidence::Low => {
                found.skipped.push(format!("{API}: {RECEIVES} is not there by name ({})", located.why));
            }
        }
    }
}

fn facts(object: &Object, version: Option<String>) -> LibraryInfo {
    let name = object.soname().map(str::to_owned);
    LibraryInfo { name, implementation: Some(API.to_owned()), version, version_in: None }
}

/// Adds the hooks of what was found by signature, if it is certain enough.
pub(super) fn add_located(
    object: &Object,
    located: &SignatureMatch,
    least: Confidence,
    found: &mut Found,
) -> LibraryInfo {
    let version = located.version.clone();
    match (located.certainty, least) {
        (Confidence::Low, Confidence::High) => {
            found.skipped.push(format!(
                "{API} is in it, without symbols, and where is not certain ({}): --guess attaches to what \
                 was found",
                located.why
            ));
            return facts(object, version);
        }
        (Confidence::High, _) => {
            found.evidence.push(format!("{API} found without symbols, by signature: {}", located.why));
        }
        (Confidence::Low, Confidence::Low) => {
            found.evidence.push(format!("{API} guessed (--guess), by signature: {}", located.why));
        }
    }
    add_functions(object, located, found);
    facts(object, version)
}

fn add_functions(object: &Object, located: &SignatureMatch, found: &mut Found) {
    let version = located.version.as_deref();
    for (name, symbol) in &located.functions {
        let name = match *name {
            HANDLES => HANDLER.to_owned(),
            _ => format!("rustls::common_state::CommonState::{name}"),
        };
        let Some(role) = role(&name) else { continue };
        let entry = object.entry_site(symbol.address, symbol.size);
        let entry = entry.map(|(offset, _)| offset).map_err(|error| error_chain::in_one_line(&error));
        let ends = || all_ends(object.returns_without_symbols(symbol.address, symbol.size));
        match entry.and_then(|entry| hook(name.clone(), role, entry, ends, (version, located.mark))) {
            // A name that was left alone.
            Ok(hook) if found.hooks.iter().any(|known| known.offset == hook.offset) => {}
            Ok(hook) => found.hooks.push(hook),
            Err(reason) => found.skipped.push(format!("{name}: {reason}")),
        }
    }
}

/// `rustls::common_state::CommonState::send_appdata_encrypt`; `conn` instead of `common_state` before 0.21.
/// The newer mangling has the type in angle brackets.
fn role(path: &str) -> Option<Role> {
    let (holder, method) = path.rsplit_once("::")?;
    let holder = holder.trim_start_matches('<').trim_end_matches('>');
    if !holder.starts_with("rustls::") {
        return None;
    }
    // Of the newer ones, `<rustls::client::tls13::ExpectTraffic as rustls::common_state::State<…>>`.
    if method == HANDLES {
        let (of, as_what) = holder.split_once(" as ").unwrap_or((holder, "rustls::common_state::State"));
        let is_handler =
            of.ends_with("::ExpectTraffic") && as_what.starts_with("rustls::common_state::State");
        return is_handler.then_some(Role::Handles);
    }
    if !holder.ends_with("::CommonState") {
        return None;
    }
    match method {
        SENDS => Some(Role::Sends),
        BUFFERS | WRITES => Some(Role::Buffers),
        RECEIVES => Some(Role::Receives),
        BEGINS => Some(Role::Begins),
        _ => None,
    }
}

fn hook(
    name: String,
    role: Role,
    entry: FileOffset,
    ends: impl FnOnce() -> Result<Vec<FileOffset>, String>,
    (version, mark): (Option<&str>, Option<u8>),
) -> Result<Hook, String> {
    let arguments = |direction, form: BufferLayout| {
        let length = Length::Returned;
        CallShape { handle: 0, buffer: 1, length, direction, calls: Calls::All }.pack() | form.pack()
    };
    let (program, arguments, ends) = match role {
        Role::Sends | Role::Buffers => {
            let form =
                sending(version).ok_or("which version it is, and so where its bytes are, is not known")?;
            (ProbeProgram::IoVecAtRets, arguments(Direction::Transmit, form), ends()?)
        }
        Role::Receives => {
            (ProbeProgram::IoAtEntry, arguments(Direction::Receive, BufferLayout::Payload), Vec::new())
        }
        Role::Handles => {
            let mark = mark.ok_or("what a message of data is, is not known")?;
            (ProbeProgram::IoAtEntry, arguments(Direction::Receive, BufferLayout::Message(mark)), Vec::new())
        }
        Role::Begins => (ProbeProgram::OpenIfNew, 0, Vec::new()),
    };
    Ok(Hook { ret_offsets: ends, ..Hook::new(program, name, entry, arguments) })
}

/// What `send_appdata_encrypt` of a version is given.
fn sending(version: Option<&str>) -> Option<BufferLayout> {
    let mut numbers = version?.split('.').map_while(|number| number.parse().ok());
    let version: (u32, u32) = (numbers.next()?, numbers.next()?);
    Some(if version >= WITH_CHUNKS { BufferLayout::RustChunks } else { BufferLayout::PtrLen })
}

/// `.../rustls-0.23.46/src/common_state.rs`: its place in cargo's registry, or in a vendored one.
fn version(object: &Object) -> Option<String> {
    let found = object.find_rodata(&[b"rustls-"], CONTEXT, |hit| {
        let (version, rest) = version::number(hit.text.strip_prefix(b"rustls-")?)?;
        (rest.starts_with(b"/src/")
            && hit.before.is_none_or(|byte| !byte.is_ascii_alphanumeric() && byte != b'-'))
        .then_some(version)
    });
    found.inspect_err(|reason| tracing::debug!(%reason, "the version was not looked for to the end")).ok()?
}

#[cfg(test)]
mod tests {
    use super::{BufferLayout, PARTS, Role, role, sending};
    use crate::elf::symbols::demangle::demangle;

    #[test]
    fn methods_in_both_manglings() {
        let cases = [
            (
                "_ZN6rustls12common_state11CommonState20send_appdata_encrypt17h47c88a232720db0cE.llvm.11866135037816087123",
                Some(Role::Sends),
            ),
            (
                "_ZN6rustls12common_state11CommonState23take_received_plaintext17h35fd8a6aafb001d1E",
                Some(Role::Receives),
            ),
            (
                "_ZN6rustls12common_state11CommonState22start_outgoing_traffic17hd72d5c6f82e88ef5E",
                Some(Role::Begins),
            ),
            (
                "_RNvMNtCslbo1VyZPVY1_6rustls12common_stateNtB2_11CommonState20send_appdata_encrypt",
                Some(Role::Sends),
            ),
            (
                "_ZN141_$LT$rustls..client..tls13..ExpectTraffic$u20$as$u20$rustls..common_state..State$LT$rustls..client..client_conn..ClientConnectionData$GT$$GT$6handle17hc7234d8e4bcce0baE",
                Some(Role::Handles),
            ),
            (
                "_ZN141_$LT$rustls..client..tls13..ExpectTraffic$u20$as$u20$rustls..common_state..State$LT$rustls..client..client_conn..ClientConnectionData$GT$$GT$15extract_secrets17hc7234d8e4bcce0baE",
                None,
            ),
            (
                "_ZN6rustls12common_state11CommonState19send_some_plaintext17h991b818be4ed155aE",
                Some(Role::Buffers),
            ),
            ("_ZN6rustls4conn11CommonState20send_appdata_encrypt17h47c88a232720db0cE", Some(Role::Sends)),
            (
                "_ZN6rustls6server11server_conn14EarlyDataState23take_received_plaintext17hab7742cd285656a4E",
                None,
            ),
            ("_ZN6others12common_state11CommonState20send_appdata_encrypt17h47c88a232720db0cE", None),
        ];
        for (name, expected) in cases {
            let path = demangle(name).map(|demangled| demangled.path).unwrap_or_default();
            assert_eq!(role(&path), expected, "{name}: {path}");
            assert!(expected.is_none() || PARTS.iter().any(|part| name.contains(part)), "{name}");
        }
    }

    #[test]
    fn the_version_says_what_is_sent() {
        assert_eq!(sending(Some("0.23.46")), Some(BufferLayout::RustChunks));
        assert_eq!(sending(Some("1.0.0-rc.1")), Some(BufferLayout::RustChunks));
        assert_eq!(sending(Some("0.22.4")), Some(BufferLayout::PtrLen));
        assert_eq!(sending(None), None);
    }
}
