//! rustls: two methods of its `CommonState`, found by symbols or by `signature`.
//!
//! The arguments of the sending method depend on the version, which the source paths in panic messages
//! contain. In some builds `send_appdata_encrypt` is inlined into `buffer_plaintext`, which has the same
//! arguments. In some, `take_received_plaintext` is inlined into its callers. `signature` finds these, with
//! symbols or without, because the compiler decides how they distinguish data from other messages.
//!
//! Returns are traced at the `ret` instructions, because a uretprobe would break panics.

use std::collections::BTreeSet;

use probe_common::{BufferLayout, CallShape, Calls, IoDirection, LengthSource};

use crate::elf::{ElfFunction, ExitSite, FileOffset, Index, Object, VirtAddr};
use crate::error_chain;
use crate::event::Direction;
use crate::plan::{Hook, ProbeProgram};
use crate::probe::{LibraryInfo, ProbeMatch, UnseenPart};

use super::directions::DirectionCheck;
use super::signature::{self, SignatureMatch};
use super::{Confidence, all_ends, ends, version};

/// The name of the API in events.
pub(super) const API: &str = "rustls";

/// Parts of the mangled names, in both mangling schemes.
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
/// The name of `buffer_plaintext` before 0.23.
const WRITES: &str = "send_some_plaintext";
pub(super) const RECEIVES: &str = "take_received_plaintext";
pub(super) const BEGINS: &str = "start_outgoing_traffic";
/// A method of each `ExpectTraffic`, and the name that all of them get in events.
pub(super) const HANDLES: &str = "handle";
const HANDLER: &str = "rustls::ExpectTraffic::handle";

/// Limit of the matching functions: a program may contain several versions.
const MAX_FUNCTIONS: usize = 64;
/// The first version that sends `OutboundChunks`. Older ones send one slice.
const WITH_CHUNKS: (u32, u32) = (0, 23);
/// How much of a path is read, in bytes.
const CONTEXT: usize = 48;

/// What a method does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Sends,
    /// Calls the sending method, or has it inlined.
    Buffers,
    Receives,
    /// Handles all messages; among them, it receives data.
    Handles,
    Begins,
}

/// Adds the hooks of a program that contains rustls. None if it does not.
pub(super) fn add(object: &Object, found: &mut ProbeMatch) -> Option<LibraryInfo> {
    if !object.symbols().keys().any(|name| PARTS.iter().any(|part| name.contains(part))) {
        return None;
    }
    let index =
        object.index().inspect_err(|error| found.skipped.push(error_chain::in_one_line(error))).ok()?;
    let selected = index.select(MAX_FUNCTIONS, |name| {
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
    let versions = versions(object);
    let version = versions.first().cloned();
    let layout = sending(layout_version(&versions));
    let facts = facts(object, version);
    let check = DirectionCheck::begin(found);
    let (first, named_before) = (found.hooks.len(), found.unseen.len());
    let is_part = |role| match role {
        Role::Buffers => has(Role::Sends),
        Role::Handles => mark.is_none(),
        _ => false,
    };
    for (function, role) in named().filter(|(_, role)| !is_part(*role)) {
        // The same name for both mangling schemes.
        let name = match role {
            Role::Handles => HANDLER.to_owned(),
            _ => function.shown().replace(['<', '>'], ""),
        };
        let entry =
            object.site(function).map(|(offset, _)| offset).map_err(|error| error_chain::in_one_line(&error));
        let ends = || ends_beyond(object, &index, function);
        match entry.and_then(|entry| hook(name.clone(), role, entry, ends, (layout, mark))) {
            // Identical code that the linker folded.
            Ok(hook) if found.hooks.iter().any(|other| other.offset == hook.offset) => {}
            Ok(hook) => found.hooks.push(hook),
            Err(reason) => found.skipped.push(format!("{name}: {reason}")),
        }
    }
    if !has(Role::Receives) && !has(Role::Handles) {
        add_handlers(object, found);
    }
    check.end(API, found);
    if found.unseen.len() == named_before {
        note_copies(&versions, first, found);
    }
    Some(facts)
}

/// The return instructions of a function, and those of the function to which it tail-jumps:
/// `send_some_plaintext` of 0.22 does.
fn ends_beyond(object: &Object, index: &Index, function: &ElfFunction) -> Result<Vec<ExitSite>, String> {
    let returns = object.returns(index, function).map_err(|error| error_chain::in_one_line(&error))?;
    let [next] = returns.jumps_to.as_slice() else { return all_ends(Ok(returns)) };
    let Some(next) = index.function_at(*next).filter(|found| found.address == *next) else {
        return all_ends(Ok(returns));
    };
    let rets = returns.sites.into_iter().map(|(_, offset)| ExitSite::ret(offset));
    let mut sites: Vec<ExitSite> = rets.collect();
    sites.extend(ends(object, index, &next)?);
    Ok(sites)
}

/// The first word of a data message, which the code of the named handlers reveals.
fn mark<'f>(
    object: &Object,
    named: impl Iterator<Item = (&'f ElfFunction, Role)>,
    found: &mut ProbeMatch,
) -> Option<u8> {
    let handlers = named.filter(|(_, role)| *role == Role::Handles);
    let handlers: Vec<VirtAddr> = handlers.map(|(function, _)| function.address).collect();
    let mark = signature::mark_of_data(object, &handlers);
    let mark = mark
        .inspect_err(|error| found.skipped.push(format!("{HANDLER}: {}", error_chain::in_one_line(error))))
        .ok()?;
    if mark.is_none() && !handlers.is_empty() {
        found.skipped.push(format!(
            "{HANDLER}: ctrace does not recognise how its code distinguishes data from other messages"
        ));
    }
    mark
}

/// Adds the hooks for received data if no symbol names its function.
fn add_handlers(object: &Object, found: &mut ProbeMatch) {
    let search = signature::locate(object, |api| api == API, std::iter::empty());
    found.skipped.extend(search.failed);
    for located in &search.located {
        match located.certainty {
            Confidence::High => add_functions(object, located, None, found),
            Confidence::Low => {
                found.skipped.push(format!(
                    "{API}: no symbol for {RECEIVES}, and its callers are not certain ({})",
                    located.why
                ));
            }
        }
    }
}

fn facts(object: &Object, version: Option<String>) -> LibraryInfo {
    let name = object.soname().map(str::to_owned);
    LibraryInfo { name, implementation: Some(API.to_owned()), version, version_in: None }
}

/// Adds the hooks of functions that were found by signature, if the confidence suffices.
pub(super) fn add_located(
    object: &Object,
    located: &SignatureMatch,
    least: Confidence,
    found: &mut ProbeMatch,
) -> LibraryInfo {
    let version = located.version.clone();
    match (located.certainty, least) {
        (Confidence::Low, Confidence::High) => {
            let which = version.as_ref().map(|version| format!(" {version}")).unwrap_or_default();
            found.unseen.push(UnseenPart::Other(format!(
                "it contains {API}{which} without symbols, but its functions could not be located with \
                 certainty ({}): --guess attaches anyway",
                located.why
            )));
            return facts(object, version);
        }
        (Confidence::High, _) => {
            found.evidence.push(format!("{API} found without symbols, by signature: {}", located.why));
        }
        (Confidence::Low, Confidence::Low) => {
            found.evidence.push(format!("{API} guessed (--guess), by signature: {}", located.why));
        }
    }
    let mut check = DirectionCheck::begin(found);
    add_functions(object, located, Some(&mut check), found);
    check.end(API, found);
    facts(object, version)
}

fn add_functions(
    object: &Object,
    located: &SignatureMatch,
    mut check: Option<&mut DirectionCheck>,
    found: &mut ProbeMatch,
) {
    // Whatever the version: a sending function is only found by how it takes its chunks.
    let layout = Some(BufferLayout::RustChunks);
    for (name, symbol) in &located.functions {
        let name = match *name {
            HANDLES => HANDLER.to_owned(),
            _ => format!("rustls::common_state::CommonState::{name}"),
        };
        let Some(role) = role(&name) else { continue };
        let entry = object.entry_site(symbol.address, symbol.size);
        let entry = entry.map(|(offset, _)| offset).map_err(|error| error_chain::in_one_line(&error));
        let ends = || all_ends(object.returns_without_symbols(symbol.address, symbol.size));
        match entry.and_then(|entry| hook(name.clone(), role, entry, ends, (layout, located.mark))) {
            // A function that symbols named, or that several copies of rustls share, and that was hooked
            // already.
            Ok(hook) if found.hooks.iter().any(|other| other.offset == hook.offset) => {
                if let Some(check) = &mut check {
                    check.share(&hook);
                }
            }
            Ok(hook) => found.hooks.push(hook),
            Err(reason) => found.skipped.push(format!("{name}: {reason}")),
        }
    }
}

/// The role of a function such as `rustls::common_state::CommonState::send_appdata_encrypt` (`conn` instead
/// of `common_state` before 0.21). The newer mangling puts the type in angle brackets.
fn role(path: &str) -> Option<Role> {
    let (holder, method) = path.rsplit_once("::")?;
    let holder = holder.trim_start_matches('<').trim_end_matches('>');
    if !holder.starts_with("rustls::") {
        return None;
    }
    // The newer mangling: `<rustls::client::tls13::ExpectTraffic as rustls::common_state::State<…>>`.
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
    ends: impl FnOnce() -> Result<Vec<ExitSite>, String>,
    (layout, mark): (Option<BufferLayout>, Option<u8>),
) -> Result<Hook, String> {
    let arguments = |direction, form: BufferLayout| {
        let length = LengthSource::Returned;
        CallShape { handle: 0, buffer: 1, length, direction, calls: Calls::All }.pack() | form.pack()
    };
    let (program, arguments, ends) = match role {
        Role::Sends | Role::Buffers => {
            let form = layout
                .ok_or("the version of rustls, on which the place of the data depends, is not certain")?;
            (ProbeProgram::IoVec, arguments(IoDirection::Transmit, form), ends()?)
        }
        Role::Receives => {
            (ProbeProgram::IoAtEntry, arguments(IoDirection::Receive, BufferLayout::Payload), Vec::new())
        }
        Role::Handles => {
            let mark = mark.ok_or("the type code of data messages was not found")?;
            (
                ProbeProgram::IoAtEntry,
                arguments(IoDirection::Receive, BufferLayout::Message(mark)),
                Vec::new(),
            )
        }
        Role::Begins => (ProbeProgram::OpenIfNew, 0, Vec::new()),
    };
    Ok(Hook::new(program, name, entry, arguments).with_exits(ends))
}

/// The layout of the data that `send_appdata_encrypt` of a version gets.
fn sending(version: Option<&str>) -> Option<BufferLayout> {
    let mut numbers = version?.split('.').map_while(|number| number.parse().ok());
    let version: (u32, u32) = (numbers.next()?, numbers.next()?);
    Some(if version >= WITH_CHUNKS { BufferLayout::RustChunks } else { BufferLayout::PtrLen })
}

/// The versions, from paths such as `.../rustls-0.23.46/src/common_state.rs` in cargo's registry or a
/// vendored one.
fn versions(object: &Object) -> BTreeSet<String> {
    let mut versions = BTreeSet::new();
    let found = object.find_rodata(&[b"rustls-"], CONTEXT, |hit| {
        let (version, rest) = version::number(hit.text.strip_prefix(b"rustls-")?)?;
        let is_path = rest.starts_with(b"/src/")
            && hit.before.is_none_or(|byte| !byte.is_ascii_alphanumeric() && byte != b'-');
        if is_path && versions.len() < MAX_FUNCTIONS {
            versions.insert(version);
        }
        None::<()>
    });
    if let Err(reason) = found {
        tracing::debug!(%reason, "the search for the version was not finished");
    }
    versions
}

/// One of these versions, if all pass sent data in the same way: symbols do not say of which version a
/// function is.
fn layout_version(versions: &BTreeSet<String>) -> Option<&str> {
    let first = versions.first()?;
    versions.iter().all(|version| sending(Some(version)) == sending(Some(first))).then_some(first.as_str())
}

/// Says so if there are more versions than functions in one of the directions.
fn note_copies(versions: &BTreeSet<String>, first: usize, found: &mut ProbeMatch) {
    let hooks = found.hooks.get(first..).unwrap_or_default();
    let count = |direction| hooks.iter().filter(|hook| hook.direction() == Some(direction)).count();
    let least = count(Direction::Receive).min(count(Direction::Transmit));
    if least < versions.len() && versions.len() > 1 {
        let all = versions.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        found.unseen.push(UnseenPart::Other(format!(
            "it contains {} versions of {API} ({all}), but the functions of only {least} were found: what the others \
             send and receive may not be seen",
            versions.len()
        )));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use probe_common::{CallShape, Calls, IoDirection, LengthSource};

    use super::{BufferLayout, PARTS, Role, layout_version, note_copies, role, sending};
    use crate::elf::FileOffset;
    use crate::elf::symbols::demangle::demangle;
    use crate::plan::{Hook, ProbeProgram};
    use crate::probe::{ProbeMatch, UnseenPart};

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

    fn versions(versions: &[&str]) -> BTreeSet<String> {
        versions.iter().map(|version| (*version).to_owned()).collect()
    }

    #[test]
    fn the_layout_of_several_versions_is_certain_if_it_is_the_same() {
        assert_eq!(layout_version(&versions(&["0.23.5", "0.23.40"])), Some("0.23.40"));
        assert_eq!(layout_version(&versions(&["0.22.4", "0.23.40"])), None);
        assert_eq!(layout_version(&versions(&[])), None);
    }

    #[test]
    fn a_version_whose_functions_are_not_found_is_named() {
        use IoDirection::{Receive, Transmit};
        let note = |all: &[&str], directions: &[IoDirection]| {
            let mut found = ProbeMatch::default();
            for direction in directions {
                let (length, direction) = (LengthSource::Returned, *direction);
                let shape = CallShape { handle: 0, buffer: 1, length, direction, calls: Calls::All };
                found.hooks.push(Hook::new(ProbeProgram::Io, "x".into(), FileOffset(0), shape.pack()));
            }
            note_copies(&versions(all), 0, &mut found);
            found.unseen
        };
        assert_eq!(note(&["0.23.5"], &[Receive, Transmit]), []);
        assert_eq!(note(&["0.22.4", "0.23.5"], &[Receive, Transmit, Receive, Transmit]), []);
        let found = note(&["0.22.4", "0.23.5"], &[Receive, Transmit, Transmit]);
        let [UnseenPart::Other(why)] = found.as_slice() else { panic!("{found:?}") };
        assert!(why.contains("2 versions of rustls (0.22.4, 0.23.5)") && why.contains("only 1"), "{why}");
    }

    #[test]
    fn the_version_says_what_is_sent() {
        assert_eq!(sending(Some("0.23.46")), Some(BufferLayout::RustChunks));
        assert_eq!(sending(Some("1.0.0-rc.1")), Some(BufferLayout::RustChunks));
        assert_eq!(sending(Some("0.22.4")), Some(BufferLayout::PtrLen));
        assert_eq!(sending(None), None);
    }
}
