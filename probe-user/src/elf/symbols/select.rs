//! Selects functions by name.
//!
//! Merges the names of one function and determines its kind. Patterns are not known here: the caller passes a
//! predicate that decides whether a name matches.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::ops::ControlFlow;

use serde::Serialize;

use super::demangle::Language;
use super::index::{Binding, Entry, Index, SymbolForm};
use super::names::Name;
use crate::elf::go::{Go, GoAbi};
use crate::elf::{ObjectError, VirtAddr};

/// How many names of one function are read.
const MAX_ALIASES: usize = 32;
/// How many names are compared to suggest one that is similar to a name that was not found.
const MAX_COMPARED: usize = 300_000;
/// How many pairs of characters that comparison may look at: takes less than a second.
const MAX_PAIRS: usize = 100_000_000;
/// Longest name that is compared, in bytes.
const MAX_COMPARED_LENGTH: usize = 160;

/// What the symbol of a function refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FunctionKind {
    /// A function: it is called, so its return address is on the stack at its entry.
    Body,
    /// An IFUNC resolver: the loader runs it once to choose the function. It is not the function itself.
    Resolver,
    /// The rarely executed part of a function (`.cold`). It is jumped to, so no return address is on top of
    /// the stack at its first instruction.
    Fragment,
}

/// A name of a function.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FunctionName {
    /// The name as in the file.
    pub raw: String,
    /// The demangled name, if it differs.
    pub demangled: Option<String>,
    /// The symbol's version, if the table has it.
    pub version: Option<String>,
}

/// A function with its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElfFunction {
    /// The address of its entry.
    pub address: VirtAddr,
    /// The size of its code in bytes.
    pub size: u64,
    /// Whether the file gives the size. Otherwise the function is assumed to reach up to the next one.
    pub is_sized: bool,
    /// The widest visibility of its names.
    pub binding: Binding,
    /// What is at the address.
    pub kind: FunctionKind,
    /// The language, as far as names and tables reveal it.
    pub language: Language,
    /// Its calling convention, if it is a Go function.
    pub go_abi: Option<GoAbi>,
    /// All of its names: those that were asked for, then the others, the most public ones first.
    pub names: Vec<FunctionName>,
}

impl ElfFunction {
    /// The name to show.
    pub fn shown(&self) -> &str {
        self.names.first().map_or("", FunctionName::shown)
    }
}

impl FunctionName {
    /// The name to show.
    pub fn shown(&self) -> &str {
        self.demangled.as_deref().unwrap_or(&self.raw)
    }

    fn new(name: &Name<'_>) -> Self {
        Self {
            raw: name.raw().to_owned(),
            demangled: name.demangled().map(|demangled| demangled.text.clone()),
            version: name.version().map(str::to_owned),
        }
    }
}

impl Index {
    /// The functions with at least one name that `matches`, by address. The predicate sees each name once.
    /// More than `limit` functions are an error.
    pub fn select(
        &self,
        limit: usize,
        mut matches: impl FnMut(&Name<'_>) -> bool,
    ) -> Result<Vec<ElfFunction>, ObjectError> {
        let mut requested: BTreeMap<VirtAddr, BTreeSet<FunctionName>> = BTreeMap::new();
        let mut overflow = false;
        self.visit(|name, here| {
            if !matches(name) {
                return ControlFlow::Continue(());
            }
            for entry in here.iter().filter_map(|number| self.entry(*number)) {
                let names = requested.entry(VirtAddr(entry.address)).or_default();
                if names.len() < MAX_ALIASES {
                    names.insert(FunctionName::new(name));
                }
                if requested.len() > limit {
                    overflow = true;
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        if overflow {
            let (found, limit) = (requested.len() as u64, limit as u64);
            return Err(ObjectError::TooLarge { what: "the list of matching functions", found, limit });
        }
        Ok(requested.into_iter().map(|(address, names)| self.function(address, names)).collect())
    }

    /// The function with its entry at `address`, with its names. None if no table names it.
    pub fn function_at(&self, address: VirtAddr) -> Option<ElfFunction> {
        let found = !self.entries_at(address).is_empty();
        found.then(|| self.function(address, BTreeSet::new()))
    }

    /// Names similar to `requested`, the most similar first.
    pub fn nearest(&self, requested: &str, count: usize) -> Vec<String> {
        if requested.len() > MAX_COMPARED_LENGTH {
            return Vec::new();
        }
        let mut best = BinaryHeap::new();
        let (mut left, mut pairs) = (MAX_COMPARED, MAX_PAIRS);
        let requested = requested.to_lowercase();
        // A name that cannot be read could not be suggested either, so errors do not matter here.
        let _ = self.visit(|name, _| {
            let text = name.demangled().map_or(name.raw(), |name| &name.path);
            if text.len().abs_diff(requested.len()) <= requested.len() / 2 + 2
                && text.len() <= MAX_COMPARED_LENGTH
            {
                pairs = pairs.saturating_sub(requested.len() * text.len());
                let distance = strsim::osa_distance(&requested, &text.to_lowercase());
                if distance <= requested.len() / 3 + 1 {
                    best.push((distance, text.to_owned()));
                }
                if best.len() > count.saturating_mul(4).max(16) {
                    best.pop();
                }
            }
            left -= 1;
            if left == 0 || pairs == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let mut names: Vec<String> = Vec::new();
        for (_, name) in best.into_sorted_vec() {
            if !names.contains(&name) && names.len() < count {
                names.push(name);
            }
        }
        names
    }

    fn function(&self, address: VirtAddr, requested: BTreeSet<FunctionName>) -> ElfFunction {
        let entries = self.entries_at(address);
        let mut others: Vec<(_, FunctionName)> = Vec::new();
        let mut languages = Vec::new();
        for entry in entries.iter().take(MAX_ALIASES * 4) {
            let read = |name: &Name<'_>| (name.language(), rank(entry, name), FunctionName::new(name));
            let Some((language, rank, name)) = self.with_name(entry, read) else { continue };
            languages.push(language);
            let same = |other: &FunctionName| other.raw == name.raw;
            if !others.iter().any(|(_, other)| same(other)) && !requested.iter().any(same) {
                others.push((rank, name));
            }
        }
        others.sort();
        others.truncate(MAX_ALIASES);
        let names: Vec<_> = requested.into_iter().chain(others.into_iter().map(|(_, name)| name)).collect();
        let (size, is_sized) = self.size(address);
        let kind = if entries.iter().any(|entry| entry.form == SymbolForm::Resolver) {
            FunctionKind::Resolver
        } else if !names.is_empty() && names.iter().all(|name| is_fragment(&name.raw)) {
            FunctionKind::Fragment
        } else {
            FunctionKind::Body
        };
        // Go's table is certain; a mangled name is more certain than a plain one.
        let language = languages.into_iter().max().unwrap_or(Language::C);
        let is_go = language == Language::Go;
        ElfFunction {
            address,
            go_abi: self.go().filter(|_| is_go).map(|go| go_abi(go, entries, &names)),
            size,
            is_sized,
            binding: entries.iter().map(|entry| entry.binding).max().unwrap_or(Binding::Local),
            kind,
            language,
            names,
        }
    }
}

/// Sorts public names first, then those that a person would rather write.
fn rank(entry: &Entry, name: &Name<'_>) -> (Reverse<Binding>, usize, usize) {
    let underscores = name.raw().len() - name.raw().trim_start_matches('_').len();
    let underscores = if name.demangled().is_some() { 0 } else { underscores };
    (Reverse(entry.binding), underscores, name.raw().len())
}

/// The calling convention of a Go function. Assembler functions use either: for those with arguments on the
/// stack, the linker appends a suffix to the name, but only in `.symtab`.
fn go_abi(go: &Go, entries: &[Entry], names: &[FunctionName]) -> GoAbi {
    let is_assembler = entries.iter().any(|entry| entry.form == SymbolForm::Assembler);
    if names.iter().any(|name| name.raw.strip_suffix(".abi0").is_some()) {
        GoAbi::Stack
    } else if is_assembler {
        GoAbi::Unknown
    } else {
        go.abi()
    }
}

/// Whether this is the name that GCC and LLVM give to the cold part of a function.
fn is_fragment(raw: &str) -> bool {
    raw.split('.').skip(1).any(|part| part == "cold")
}
