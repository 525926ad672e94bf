//! TLS libraries with a C ABI: which functions of an object carry plaintext, as hooks.
//!
//! Owns the table of libraries, the choice between public functions and a cheaper internal one, and
//! what implementation and version an object is. It never reads a file except through its [`Object`].

mod internal;
mod libraries;
#[cfg(test)]
mod tests;
pub mod version;

use crate::object::{FileOffset, Object, ObjectError, Symbol, VirtAddr, Wanted, code, with_causes};
use crate::plan::{Hook, Program};
use crate::probe::{Facts, Found, Nothing};

use internal::{PROLOGUE, Shared};
use libraries::{Function, ROWS, Row};

/// What to do about a target that has nothing to attach to.
pub(super) const NEXT_STEP: &str = "If a program that uses TLS is started, or its library loaded, later, run with --wait. TLS \
     libraries are recognised by the functions of the OpenSSL API (SSL_read, SSL_write) that they export or have \
     symbols of; run with -v to see each file, or `ctrace doctor CONTAINER` to see where each process \
     ends and what to do.";

/// The symbols that [`hooks`] looks at, for [`Object::parse`].
pub fn wanted() -> Wanted {
    let functions = ROWS.iter().flat_map(|row| row.functions.iter().map(|function| function.name));
    let opens = ROWS.iter().flat_map(|row| row.opens.iter().copied());
    functions.chain(opens).chain(version::marks()).collect()
}

/// The hooks of an object that was parsed with [`wanted`].
pub fn hooks(object: &Object) -> Result<Found, Nothing> {
    let mut found = Found::default();
    let mut any = false;
    for row in ROWS {
        if row.functions.iter().any(|function| !object.functions(function.name).is_empty()) {
            any = true;
            add_row(object, row, &mut found);
        }
    }
    if !any {
        return Err(Nothing::Ssl);
    }
    found.hooks.sort_by_key(|hook| hook.offset);
    let (implementation, version) = version::find(object).map_or_else(
        || (version::guess(object), None),
        |version::Version { implementation, version }| (Some(implementation), version),
    );
    let libcrypto = || object.needed().iter().find(|name| name.starts_with("libcrypto")).cloned();
    found.library = Facts {
        version_in: if version.is_none() { libcrypto() } else { None },
        name: object.soname().map(str::to_owned),
        implementation: implementation.map(str::to_owned),
        version,
    };
    Ok(found)
}

fn add_row(object: &Object, row: &Row, found: &mut Found) {
    let mut shared = Vec::new();
    for internal in row.internals {
        match internal::find(object, row, internal) {
            Ok(function) => shared.push(function),
            Err(reason) => {
                tracing::debug!(library = row.name, witness = internal.witness, %reason, "the public functions are hooked");
            }
        }
    }
    found.hooks.extend(shared.iter().map(shared_hook));
    for function in row.functions {
        if !shared.iter().any(|shared| shared.serves.contains(function.name)) {
            add_public(object, function.name, Some(function), found);
        }
    }
    for name in row.opens {
        add_public(object, name, None, found);
    }
}

fn shared_hook(shared: &Shared) -> Hook {
    Hook {
        program: Program::Call,
        function: shared.name.to_owned(),
        serves: shared.serves.iter().map(|name| (*name).to_owned()).collect(),
        offset: shared.offset,
        arguments: shared.forwarder.shape().pack(),
        callers: shared.callers.clone(),
    }
}

/// Hooks all functions of one name; `moves` is none for one that opens a connection.
fn add_public(object: &Object, name: &'static str, moves: Option<&Function>, found: &mut Found) {
    for symbol in object.functions(name) {
        match place(object, *symbol) {
            // Two names of one function: the linker folded equal code.
            Ok(offset) if found.hooks.iter().any(|hook| hook.offset == offset) => {
                found.skipped.push(format!("{name}: the same code as another function"));
            }
            Ok(offset) => found.hooks.push(Hook {
                program: if moves.is_some() { Program::Call } else { Program::Open },
                function: name.to_owned(),
                serves: moves.iter().map(|function| function.name.to_owned()).collect(),
                offset,
                arguments: moves.map_or(0, |function| function.shape().pack()),
                callers: Vec::new(),
            }),
            Err(reason) => found.skipped.push(format!("{name}: {}", with_causes(&reason))),
        }
    }
}

/// Why one function is not hooked.
#[derive(Debug, thiserror::Error)]
enum NoPlace {
    #[error(transparent)]
    Site(#[from] code::NoSite),
    #[error(transparent)]
    Object(#[from] ObjectError),
}

fn place(object: &Object, symbol: Symbol) -> Result<FileOffset, NoPlace> {
    let known = if symbol.size == 0 { PROLOGUE } else { symbol.size.min(PROLOGUE) };
    let code = object.code(symbol.address, known)?;
    let site = code::probe_site(&code, symbol.address)?;
    let address = VirtAddr(symbol.address.0 + site.offset);
    object.file_offset(address).ok_or_else(|| ObjectError::NotCode { address: address.0 }.into())
}
