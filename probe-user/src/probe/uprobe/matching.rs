//! Turns the patterns of `ctrace uprobe` and one object into hooks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::{Convention, Glob, MissingFunction, ObjectName, Pattern, PatternPlace, Uprobe, usdt};
use crate::elf::{
    DebugSearch, ElfFunction, ExitSite, FileOffset, FunctionKind, FunctionTable, GoAbi, Index, Language,
    Name, Object, ObjectError, Returns, VirtAddr,
};
use crate::error_chain;
use crate::plan::capture::Capture;
use crate::plan::return_probe::ReturnPolicy;
use crate::plan::value_type::Type;
use crate::plan::{Hook, ProbeProgram};
use crate::probe::{LibraryInfo, NoHooks, ProbeMatch, UnseenPart};
use crate::terminal;

/// Limit of the return instructions that are probed in one function.
const MAX_ENDS: usize = 128;
/// How many reasons are reported per object.
const REASONS: usize = 20;
/// How many similar names are suggested for one that was not found.
const NEAREST: usize = 5;

/// The hooks of an object that is at `path` in its container.
pub fn hooks(uprobe: &Uprobe, object: &Object, path: &Path) -> Result<ProbeMatch, NoHooks> {
    let patterns = uprobe.patterns.iter().enumerate();
    let meant: Vec<(usize, &Pattern)> =
        patterns.filter(|(_, pattern)| is_meant(&pattern.object, object, path)).collect();
    let mut matching = Matching {
        uprobe,
        object,
        table: object.frames().ok(),
        hooks: BTreeMap::new(),
        skipped: Vec::new(),
        unseen: Vec::new(),
        missing: Vec::new(),
        matched: BTreeSet::new(),
        over_limit: None,
    };
    let has_usdt = !uprobe.usdt.is_empty() && usdt::add(&mut matching);
    if meant.is_empty() && !has_usdt {
        return Err(NoHooks::Uprobe);
    }
    match object.index() {
        _ if meant.is_empty() => {}
        Ok(index) => {
            matching.skipped.extend(index.notes().iter().cloned());
            for (number, pattern) in meant {
                matching.pattern((number, pattern), &index);
            }
        }
        Err(error) => matching.unseen.push(UnseenPart::Other(error_chain::in_one_line(&error))),
    }
    let Matching { hooks, mut skipped, unseen, missing, matched, over_limit, .. } = matching;
    if skipped.len() > REASONS {
        let more = skipped.len() - REASONS;
        skipped.truncate(REASONS);
        skipped.push(format!("… and {more} more"));
    }
    let library = LibraryInfo { name: object.soname().map(str::to_owned), ..LibraryInfo::default() };
    Ok(ProbeMatch {
        library,
        hooks: hooks.into_values().collect(),
        skipped,
        unseen,
        missing,
        matched,
        over_limit,
        ..ProbeMatch::default()
    })
}

/// Whether a pattern names functions of an object by their symbols.
pub(super) fn needs_symbols(uprobe: &Uprobe, object: &Object, path: &Path) -> bool {
    let is_symbol = |pattern: &&Pattern| matches!(pattern.place, PatternPlace::Symbol(..));
    uprobe.patterns.iter().filter(is_symbol).any(|pattern| is_meant(&pattern.object, object, path))
}

fn is_meant(name: &ObjectName, object: &Object, path: &Path) -> bool {
    let ObjectName::Named(name) = name else { return object.is_program() };
    if name.text().contains('/') {
        return path.to_str().is_some_and(|path| name.matches(path));
    }
    let file = path.file_name().and_then(|file| file.to_str());
    object.soname().into_iter().chain(file).any(|own| name.matches(own))
}

/// The hooks found so far in an object.
pub(super) struct Matching<'a> {
    pub(super) uprobe: &'a Uprobe,
    pub(super) object: &'a Object,
    /// The bounds of functions. None if they cannot be read.
    table: Option<FunctionTable<'a>>,
    /// Hooks by offset. A function that matches two patterns is hooked once, as the first one requests.
    pub(super) hooks: BTreeMap<u64, Hook>,
    pub(super) skipped: Vec<String>,
    /// Why a function that was named is not probed.
    unseen: Vec<UnseenPart>,
    missing: Vec<MissingFunction>,
    /// The indices of the patterns that match.
    pub(super) matched: BTreeSet<usize>,
    /// Set when a pattern matches too many functions.
    over_limit: Option<String>,
}

impl Matching<'_> {
    fn pattern(&mut self, (number, pattern): (usize, &Pattern), index: &Index) {
        match &pattern.place {
            PatternPlace::Symbol(name, offset) => {
                let selected = index.select(self.uprobe.max_probes, |found: &Name<'_>| {
                    if !name.is_pattern() {
                        return found.is(name.text());
                    }
                    name.matches(found.raw())
                        || found
                            .demangled()
                            .is_some_and(|found| name.matches(&found.text) || name.matches(&found.path))
                });
                match selected {
                    Ok(functions) => {
                        // A wildcard that matches a function matches the names of its cold parts as well;
                        // those are not meant.
                        let is_whole = |function: &&ElfFunction| {
                            !name.is_pattern() || function.kind != FunctionKind::Fragment
                        };
                        let mut functions = functions.iter().filter(is_whole).peekable();
                        if functions.peek().is_none() {
                            self.missing.push(self.not_there(index, (number, pattern), name));
                        }
                        for function in functions {
                            self.function(index, (number, pattern), function, *offset);
                        }
                    }
                    Err(ObjectError::TooLarge { .. }) => {
                        let limit = self.uprobe.max_probes;
                        self.over_limit =
                            Some(format!("`{}` matches more than {limit} functions", pattern.text));
                    }
                    Err(error) => self.unseen.push(UnseenPart::Other(error_chain::in_one_line(&error))),
                }
            }
            PatternPlace::Address(address) => self.address((number, pattern), VirtAddr(*address), index),
        }
    }

    fn not_there(&self, index: &Index, (number, pattern): (usize, &Pattern), name: &Glob) -> MissingFunction {
        let requested = name.text();
        let function = (!name.is_pattern()).then(|| requested.to_owned());
        let reason = format!("no function `{requested}`");
        let similar = match &function {
            Some(name) if !index.is_empty() => index.nearest(name, NEAREST),
            _ => Vec::new(),
        };
        let names_file = matches!(&pattern.object, ObjectName::Named(name) if !name.is_pattern());
        let is_stripped = index.is_empty();
        let searched = match self.object.debug_search() {
            DebugSearch::Missing(places) => places.clone(),
            DebugSearch::NotSearched | DebugSearch::Found(..) => Vec::new(),
        };
        MissingFunction { pattern: number, names_file, function, reason, similar, is_stripped, searched }
    }

    fn function(
        &mut self,
        index: &Index,
        (number, pattern): (usize, &Pattern),
        function: &ElfFunction,
        offset: u64,
    ) {
        let shown = match offset {
            0 => function.shown().to_owned(),
            _ => format!("{}+{offset:#x}", function.shown()),
        };
        let hook = self.hook(index, pattern, function, offset, &shown);
        self.found((number, pattern), &shown, hook);
    }

    /// Adds a hook of a pattern, or the reason why there is none. Users have to know of the latter unless
    /// they have named other functions as well.
    fn found(&mut self, (number, pattern): (usize, &Pattern), shown: &str, hook: Result<Hook, String>) {
        match hook {
            Ok(hook) => {
                self.matched.insert(number);
                self.hooks.entry(hook.offset.0).or_insert(hook);
            }
            Err(why) if pattern.is_glob() => self.skipped.push(format!("{shown}: {why}")),
            Err(why) => self.unseen.push(UnseenPart::Other(format!("{shown}: {why}"))),
        }
    }

    fn hook(
        &self,
        index: &Index,
        pattern: &Pattern,
        function: &ElfFunction,
        offset: u64,
        shown: &str,
    ) -> Result<Hook, String> {
        let returned = self.uprobe.returned(pattern);
        let convention = match function.go_abi {
            Some(GoAbi::Registers) => Convention::Go,
            None => Convention::C,
            Some(GoAbi::Stack | GoAbi::Unknown) => {
                if !pattern.arguments.is_empty() || returned.is_some() {
                    return Err("it takes its arguments on the stack (Go before 1.17, or assembly), where \
                                ctrace cannot read them: leave out the types and ->"
                        .to_owned());
                }
                Convention::C
            }
        };
        if function.kind == FunctionKind::Fragment {
            return Err("it is a part of a function (.cold), which is jumped to and not called".to_owned());
        }
        let (place, _) =
            self.object.site_at(function, offset).map_err(|error| error_chain::in_one_line(&error))?;
        if returned.is_some() && offset != 0 {
            return Err("a return can only be traced from the entry of a function: leave out +OFFSET or ->"
                .to_owned());
        }
        check_texts(index, pattern, function)?;
        let reading = Capture::of_function(self.uprobe, &pattern.arguments, returned, convention)?;
        if returned.is_none() {
            return Ok(new_hook(ProbeProgram::Function, shown.to_owned(), place, reading));
        }
        let hook = new_hook(ProbeProgram::FunctionAndReturn, shown.to_owned(), place, reading);
        self.with_return(hook, index, function)
    }

    /// Adds to a hook how the return of its function is probed: at its exits, or by the kernel. The latter
    /// replaces the return address on the stack. Go's runtime, exceptions and panics walk the stack, find the
    /// replaced address, and end the program; functions that may do so are probed at their exits in any case.
    fn with_return(&self, hook: Hook, index: &Index, function: &ElfFunction) -> Result<Hook, String> {
        let is_c = function.language == Language::C;
        if is_c {
            self.object.return_probe(function).map_err(|error| error_chain::in_one_line(&error))?;
            if self.uprobe.returns == ReturnPolicy::Kernel {
                return Ok(hook.with_kernel_return(None));
            }
        }
        let why = match self.exits(function) {
            Ok(exits) => return Ok(hook.with_exits(exits)),
            Err(why) => why,
        };
        if !is_c {
            let returns =
                self.object.returns(index, function).map_err(|error| error_chain::in_one_line(&error))?;
            return Ok(hook.with_exits(all_ends(returns)?));
        }
        match self.uprobe.returns {
            ReturnPolicy::Exit => Err(format!(
                "{why}, so that its return can only be probed by the kernel, which --return-probe=exit \
                 rules out"
            )),
            ReturnPolicy::Auto | ReturnPolicy::Kernel => Ok(hook.with_kernel_return(Some(why))),
        }
    }

    fn exits(&self, function: &ElfFunction) -> Result<Vec<ExitSite>, String> {
        if function.language == Language::Go {
            return Err("Go's functions are probed at their return instructions".to_owned());
        }
        let table = self.table.as_ref().ok_or("the bounds of functions cannot be read")?;
        table.exits(function.address, function.size).map_err(|error| error_chain::in_one_line(&error))
    }

    fn address(&mut self, (number, pattern): (usize, &Pattern), address: VirtAddr, index: &Index) {
        if let Some(found) = index.at(address)
            && let Some(function) = index.function_at(found.address)
        {
            return self.function(index, (number, pattern), &function, found.offset);
        }
        let shown = format!("{:#x}", address.0);
        // Without symbols nothing shows where functions start.
        let hook = match self.object.bare_site(address) {
            Err(why) => Err(error_chain::in_one_line(&why)),
            Ok(_) if self.uprobe.returned(pattern).is_some() => {
                Err("no symbol shows that a function starts there, so its return cannot be traced: leave \
                     out ->"
                    .to_owned())
            }
            Ok(place) => Capture::of_function(self.uprobe, &pattern.arguments, None::<Type>, Convention::C)
                .map(|reading| new_hook(ProbeProgram::Function, shown.clone(), place, reading)),
        };
        self.found((number, pattern), &shown, hook);
    }
}

/// The return instructions of a function. A function that also leaves by a jump is refused, because such
/// calls would be reported as never returned: in Go, for example, the methods that the compiler generates for
/// embedded types only jump to the method that they stand for.
fn all_ends(returns: Returns) -> Result<Vec<ExitSite>, String> {
    if returns.tail_jumps > 0 || returns.sites.is_empty() {
        return Err(
            "it ends with a jump to another function, which returns in its place, and a uretprobe would \
             break exceptions, panics and Go's stacks: leave out ->, or name that function"
                .to_owned(),
        );
    }
    let ends: Vec<ExitSite> = returns.sites.into_iter().map(|(_, offset)| ExitSite::ret(offset)).collect();
    if ends.len() > MAX_ENDS {
        return Err(format!("it returns at {} places, more than {MAX_ENDS}", ends.len()));
    }
    Ok(ends)
}

/// A hook of a function, without its return.
pub(super) fn new_hook(program: ProbeProgram, shown: String, offset: FileOffset, reading: Capture) -> Hook {
    Hook {
        public_names: vec![shown.clone()],
        capture: Some(Arc::new(reading)),
        ..Hook::new(program, shown, offset, 0)
    }
}

/// Refuses to read Rust's `&str`, which no NUL ends, as a text of C. A function with a name as in C may
/// be either, so that only a word is said about it.
fn check_texts(index: &Index, pattern: &Pattern, function: &ElfFunction) -> Result<(), String> {
    if !pattern.arguments.iter().chain(&pattern.returned).any(|kind| *kind == Type::Str) {
        return Ok(());
    }
    if function.language == Language::Rust {
        return Err("it is a function of Rust, whose strings do not end with a NUL as `str` does: write \
                    rust_str for a &str, rust_string for a String, or ptr for the address of a C string"
            .to_owned());
    }
    let is_rust = |name: &Name<'_>| name.is("rust_eh_personality");
    let has_rust = || index.select(1, is_rust).is_ok_and(|found| !found.is_empty());
    if function.language == Language::C && has_rust() {
        tracing::warn!(
            "{}: the file is partly written in Rust; if this function is, too, write rust_str for its &str, \
             because `str` reads up to the next NUL",
            terminal::escaped(function.shown())
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_that_end_with_a_jump_have_no_return() {
        let site = (VirtAddr(0x1000), FileOffset(0x100));
        let returns = |sites: &[_], tail_jumps, indirect_jumps| Returns {
            jumps_to: Vec::new(),
            sites: sites.to_vec(),
            tail_jumps,
            indirect_jumps,
        };
        assert_eq!(all_ends(returns(&[site], 0, 1)), Ok(vec![ExitSite::ret(FileOffset(0x100))]));
        for refused in [returns(&[site], 1, 0), returns(&[], 1, 0), returns(&[], 0, 1)] {
            assert!(all_ends(refused.clone()).is_err(), "{refused:?}");
        }
        assert!(all_ends(returns(&[site; MAX_ENDS + 1], 0, 0)).is_err());
    }
}
