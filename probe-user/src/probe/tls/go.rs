//! Go's crypto/tls and packages with the same methods, found by symbols or by the function table of Go's
//! runtime, which stripped programs contain too.
//!
//! Returns are traced at the `ret` instructions: a uretprobe changes the stack, which Go moves and walks.

use probe_common::{CallShape, Calls, IoDirection, LengthSource};

use super::directions::DirectionCheck;
use super::ends;
use crate::elf::code::decode;
use crate::elf::{ElfFunction, GoAbi, Index, Object};
use crate::error_chain;
use crate::plan::{Hook, ProbeProgram};
use crate::probe::{LibraryInfo, ProbeMatch, UnseenPart};

/// Limit of the matching functions: several packages in one program may have them.
const MAX_FUNCTIONS: usize = 64;

/// The name in events.
const IMPLEMENTATION: &str = "Go crypto/tls";

/// A symbol that every C library written in Go exports (`-buildmode=c-shared`; runtime/cgo).
pub(super) const FOR_C: &str = "crosscall2";

/// What a method does to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Moves(IoDirection),
    Begins,
    Ends,
}

/// Adds the hooks of a Go program that contains TLS. None if the object is not one.
pub(super) fn add(object: &Object, found: &mut ProbeMatch) -> Option<LibraryInfo> {
    // A shared library contains Go only if C can call it. Checking that first avoids a search of all of its
    // data.
    if object.soname().is_some() && object.functions(FOR_C).is_empty() {
        return None;
    }
    let is_go = match object.go() {
        Ok(go) => go.is_some(),
        Err(error) => {
            let why = format!("Go's functions are not found: {}", error_chain::in_one_line(&error));
            found.unseen.push(UnseenPart::Other(why));
            false
        }
    };
    if !is_go {
        return None;
    }
    let index =
        object.index().inspect_err(|error| found.skipped.push(error_chain::in_one_line(error))).ok()?;
    let selected = index.select(MAX_FUNCTIONS, |name| role(name.raw()).is_some());
    let functions = selected.inspect_err(|error| found.skipped.push(error_chain::in_one_line(error))).ok()?;
    let has_tls = functions.iter().any(|function| matches!(role_of(function), Some(Role::Moves(_))));
    if !has_tls {
        return None;
    }
    let check = DirectionCheck::begin(found);
    for function in &functions {
        if hands_on(object, function, &functions) {
            continue;
        }
        if let Err(reason) = hook(object, &index, function, found) {
            found.skipped.push(format!("{}: {reason}", function.shown()));
        }
    }
    check.end(IMPLEMENTATION, found);
    let version = index.go().and_then(|go| go.version()).map(|version| version.text.clone());
    Some(LibraryInfo {
        name: None,
        implementation: Some(IMPLEMENTATION.to_owned()),
        // `go1.24.4`
        version: version.map(|text| text.strip_prefix("go").unwrap_or(&text).to_owned()),
        version_in: None,
    })
}

/// The role of a method such as `crypto/tls.(*Conn).Read` or
/// `github.com/refraction-networking/utls.(*UConn).Write`.
fn role(name: &str) -> Option<Role> {
    let (package, method) = name.split_once(".(*")?;
    let (receiver, method) = method.split_once(").")?;
    let package = package.rsplit('/').next().filter(|name| name.contains("tls"))?;
    match (receiver, method) {
        // utls' UConn has a Conn, and methods of its own or generated ones that only call Conn's.
        ("Conn" | "UConn", "Read") => Some(Role::Moves(IoDirection::Receive)),
        ("Conn" | "UConn", "Write") => Some(Role::Moves(IoDirection::Transmit)),
        ("Conn" | "UConn", "clientHandshake" | "serverHandshake") if !package.is_empty() => {
            Some(Role::Begins)
        }
        ("Conn" | "UConn", "Close") => Some(Role::Ends),
        _ => None,
    }
}

fn role_of(function: &ElfFunction) -> Option<Role> {
    function.names.iter().find_map(|name| role(&name.raw))
}

/// Whether a method leaves what it does to another one that is hooked, as a generated method of an embedded
/// type does: only one of them may report it.
fn hands_on(object: &Object, function: &ElfFunction, all: &[ElfFunction]) -> bool {
    let role = role_of(function);
    let Ok(body) = object.code(function.address, function.size) else { return false };
    let calls = decode::calls(&body, function.address).direct;
    let is_it = |other: &&ElfFunction| other.address != function.address && role_of(other) == role;
    all.iter().filter(is_it).any(|other| calls.iter().any(|call| call.target == other.address))
}

fn hook(
    object: &Object,
    index: &Index,
    function: &ElfFunction,
    found: &mut ProbeMatch,
) -> Result<(), String> {
    let Some(role) = role_of(function) else { return Ok(()) };
    if function.go_abi != Some(GoAbi::Registers) {
        return Err(
            "its arguments are on the stack (Go 1.16 or older), which is not supported: build it with a newer \
             Go"
                .into(),
        );
    }
    let (offset, _) = object.site(function).map_err(|error| error_chain::in_one_line(&error))?;
    let (program, arguments) = match role {
        Role::Moves(direction) => {
            let length = LengthSource::Returned;
            let shape = CallShape { handle: 0, buffer: 1, length, direction, calls: Calls::All };
            (ProbeProgram::GoIo, shape.pack())
        }
        Role::Begins => (ProbeProgram::GoOpen, 0),
        Role::Ends => (ProbeProgram::GoClose, 0),
    };
    let ends = match program {
        ProbeProgram::GoIo => ends(object, index, function)?,
        _ => Vec::new(),
    };
    let name = function.shown().to_owned();
    found.hooks.push(Hook::new(program, name, offset, arguments).with_exits(ends));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{IoDirection, Role, role};

    #[test]
    fn methods_by_name() {
        let (receives, transmits) = (Role::Moves(IoDirection::Receive), Role::Moves(IoDirection::Transmit));
        for (name, expected) in [
            ("crypto/tls.(*Conn).Read", Some(receives)),
            ("crypto/tls.(*Conn).Write", Some(transmits)),
            ("crypto/tls.(*Conn).serverHandshake", Some(Role::Begins)),
            ("crypto/tls.(*Conn).Close", Some(Role::Ends)),
            ("github.com/refraction-networking/utls.(*UConn).Write", Some(transmits)),
            ("github.com/refraction-networking/utls.(*UConn).Read", Some(receives)),
            ("github.com/bogdanfinn/utls.(*UConn).clientHandshake", Some(Role::Begins)),
            ("github.com/bogdanfinn/utls.(*QUICConn).Close", None),
            ("crypto/tls.(*Conn).Read-fm", None),
            ("crypto/tls.(*Conn).readRecord", None),
            ("net.(*Conn).Read", None),
            ("github.com/tls/net.(*Conn).Read", None),
            ("crypto/tls.Client", None),
            ("", None),
        ] {
            assert_eq!(role(name), expected, "{name}");
        }
    }
}
