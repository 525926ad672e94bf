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

use internal::{PROLOGUE, Shared};
use libraries::{Function, ROWS, Row};

/// What is known of the library in an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its soname.
    pub name: Option<String>,
    /// `OpenSSL`, …; without a version when only the symbols tell.
    pub implementation: Option<String>,
    /// `3.0.19`; OpenSSL's is often in libcrypto only: see [`version::find`].
    pub version: Option<String>,
    /// The library that it is linked against and that may know the version, such as `libcrypto.so.3`
    /// (a soname); none when the version is known, or nothing else can know it.
    pub version_in: Option<String>,
}

/// What to hook in an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SslHooks {
    /// The library.
    pub library: Facts,
    /// In the order of their offsets.
    pub hooks: Vec<Hook>,
    /// Functions that cannot be hooked, with the reason.
    pub skipped: Vec<String>,
}

/// The object defines no function of a TLS library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no function of a known TLS library is defined in it (by .dynsym and .symtab)")]
pub struct NotTls;

/// The symbols that [`hooks`] looks at, for [`Object::parse`].
pub fn wanted() -> Wanted {
    let functions = ROWS.iter().flat_map(|row| row.functions.iter().map(|function| function.name));
    let opens = ROWS.iter().flat_map(|row| row.opens.iter().copied());
    functions.chain(opens).chain(version::marks()).collect()
}

/// The hooks of an object that was parsed with [`wanted`].
pub fn hooks(object: &Object) -> Result<SslHooks, NotTls> {
    let mut found = SslHooks::default();
    let mut any = false;
    for row in ROWS {
        if row.functions.iter().any(|function| !object.functions(function.name).is_empty()) {
            any = true;
            add_row(object, row, &mut found);
        }
    }
    if !any {
        return Err(NotTls);
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

fn add_row(object: &Object, row: &Row, found: &mut SslHooks) {
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
        serves: shared.serves.iter().copied().collect(),
        offset: shared.offset,
        shape: Some(shared.forwarder.shape()),
        callers: shared.callers.clone(),
    }
}

/// Hooks all functions of one name; `moves` is none for one that opens a connection.
fn add_public(object: &Object, name: &'static str, moves: Option<&Function>, found: &mut SslHooks) {
    for symbol in object.functions(name) {
        match place(object, *symbol) {
            // Two names of one function: the linker folded equal code.
            Ok(offset) if found.hooks.iter().any(|hook| hook.offset == offset) => {
                found.skipped.push(format!("{name}: the same code as another function"));
            }
            Ok(offset) => found.hooks.push(Hook {
                program: if moves.is_some() { Program::Call } else { Program::Open },
                function: name.to_owned(),
                serves: moves.iter().map(|function| function.name).collect(),
                offset,
                shape: moves.map(Function::shape),
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
