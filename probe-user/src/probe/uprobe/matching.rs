//! Patterns and an object → hooks.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::{Convention, Mode, ObjectName, Pattern, Place, Reading, Uprobe};
use crate::object::{
    Function, Index, Kind, Language, Name, Object, ObjectError, Symbol, VirtAddr, code, with_causes,
};
use crate::plan::{Hook, Program};
use crate::probe::{Facts, Found, Nothing};

/// Bytes of a function's beginning that are decoded.
const PROLOGUE: u64 = 64;
/// Reasons that are told of one object.
const REASONS: usize = 20;
/// Names that are offered in place of one that is not there.
const NEAREST: usize = 5;

/// The hooks of an object at `path` of its container.
pub fn hooks(uprobe: &Uprobe, object: &Object, path: &Path) -> Result<Found, Nothing> {
    let meant: Vec<&Pattern> =
        uprobe.patterns.iter().filter(|pattern| is_meant(&pattern.object, object, path)).collect();
    if meant.is_empty() {
        return Err(Nothing::Uprobe);
    }
    let mut matching = Matching { uprobe, object, hooks: BTreeMap::new(), skipped: Vec::new(), excess: None };
    match object.index() {
        Ok(index) => {
            matching.skipped.extend(index.notes().iter().cloned());
            for pattern in meant {
                matching.pattern(pattern, &index);
            }
        }
        Err(error) => matching.skipped.push(with_causes(&error)),
    }
    let Matching { hooks, mut skipped, excess, .. } = matching;
    if skipped.len() > REASONS {
        let more = skipped.len() - REASONS;
        skipped.truncate(REASONS);
        skipped.push(format!("… and {more} more"));
    }
    let library = Facts { name: object.soname().map(str::to_owned), ..Facts::default() };
    Ok(Found { library, hooks: hooks.into_values().collect(), skipped, excess })
}

fn is_meant(name: &ObjectName, object: &Object, path: &Path) -> bool {
    let ObjectName::Named(name) = name else { return object.is_program() };
    if name.text().contains('/') {
        return path.to_str().is_some_and(|path| name.matches(path));
    }
    let file = path.file_name().and_then(|file| file.to_str());
    object.soname().into_iter().chain(file).any(|known| name.matches(known))
}

/// What was found so far in an object.
struct Matching<'a> {
    uprobe: &'a Uprobe,
    object: &'a Object,
    /// By their offsets: a function that two patterns name is hooked once, as the first one says.
    hooks: BTreeMap<u64, Hook>,
    skipped: Vec<String>,
    /// Too many functions match.
    excess: Option<String>,
}

/// A place for a hook.
struct At {
    offset: crate::object::FileOffset,
    /// What is called so.
    shown: String,
    language: Language,
}

impl Matching<'_> {
    fn pattern(&mut self, pattern: &Pattern, index: &Index) {
        let before = (self.hooks.len(), self.skipped.len());
        match &pattern.place {
            Place::Symbol(name, offset) => {
                let selected = index.select(self.object, self.uprobe.max_probes, |found: &Name<'_>| {
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
                        functions.iter().for_each(|function| self.function(pattern, function, *offset))
                    }
                    Err(ObjectError::TooLarge { .. }) => {
                        let limit = self.uprobe.max_probes;
                        self.excess = Some(format!("`{}` names more than {limit} functions", pattern.text));
                    }
                    Err(error) => self.skipped.push(with_causes(&error)),
                }
                if before == (self.hooks.len(), self.skipped.len()) && self.excess.is_none() {
                    self.skipped.push(self.not_there(index, name.text(), name.is_pattern()));
                }
            }
            Place::Address(address) => self.address(pattern, VirtAddr(*address), index),
        }
    }

    fn not_there(&self, index: &Index, asked: &str, is_pattern: bool) -> String {
        if index.is_empty() {
            return format!(
                "no function `{asked}`: the file has no symbols (it is stripped); OBJECT:0xADDRESS names a place in it"
            );
        }
        let nearest = if is_pattern { Vec::new() } else { index.nearest(self.object, asked, NEAREST) };
        if nearest.is_empty() {
            return format!("no function `{asked}`");
        }
        format!("no function `{asked}`; there is {}", nearest.join(", "))
    }

    fn function(&mut self, pattern: &Pattern, function: &Function, offset: u64) {
        let shown = function.shown().to_owned();
        let place = match function.kind {
            Kind::Resolver => {
                Err("it only chooses the function that is used (IFUNC): name that one".to_owned())
            }
            Kind::Fragment if self.uprobe.returned(pattern).is_some() => {
                Err("it is a part of a function (.cold), which has no return of its own".to_owned())
            }
            Kind::Body | Kind::Fragment if offset == 0 => self.entry(function),
            Kind::Body | Kind::Fragment => self.inside(function, offset),
        };
        let shown = if offset == 0 { shown } else { format!("{shown}+{offset:#x}") };
        match place {
            Ok(offset) => self.add(pattern, At { offset, shown, language: function.language }),
            Err(why) => self.skipped.push(format!("{shown}: {why}")),
        }
    }

    fn address(&mut self, pattern: &Pattern, address: VirtAddr, index: &Index) {
        let shown = format!("{:#x}", address.0);
        if let Some(function) = index.function_at(self.object, address) {
            return self.function(pattern, &function, 0);
        }
        let found = index.at(address);
        if let Some(found) = found
            && let Some(function) = index.function_at(self.object, found.address)
        {
            if self.uprobe.returned(pattern).is_some() {
                let why = format!(
                    "{shown}: it is inside of {}, and returns are known only at a beginning",
                    function.shown()
                );
                return self.skipped.push(why);
            }
            return self.function(pattern, &function, found.offset);
        }
        if self.uprobe.returned(pattern).is_some() {
            let why = "no symbol tells that a function begins there: where it returns to cannot be known";
            return self.skipped.push(format!("{shown}: {why}"));
        }
        match self.object.file_offset(address) {
            Some(offset) => self.add(pattern, At { offset, shown, language: Language::C }),
            None => self.skipped.push(with_causes(&ObjectError::NotCode { address: address.0 })),
        }
    }

    /// Where a function's entry is probed.
    fn entry(&self, function: &Function) -> Result<crate::object::FileOffset, String> {
        let symbol = Symbol { address: function.address, size: function.size };
        let code = self
            .object
            .code(symbol.address, symbol.size.clamp(1, PROLOGUE))
            .map_err(|error| with_causes(&error))?;
        let site = code::probe_site(&code, symbol.address).map_err(|error| error.to_string())?;
        self.offset(VirtAddr(symbol.address.0 + site.offset))
    }

    /// Where an instruction of a function is.
    fn inside(&self, function: &Function, offset: u64) -> Result<crate::object::FileOffset, String> {
        if offset >= function.size {
            return Err(format!("it has only {} bytes", function.size));
        }
        self.offset(VirtAddr(function.address.0 + offset))
    }

    fn offset(&self, address: VirtAddr) -> Result<crate::object::FileOffset, String> {
        let not_code = || with_causes(&ObjectError::NotCode { address: address.0 });
        self.object.file_offset(address).ok_or_else(not_code)
    }

    fn add(&mut self, pattern: &Pattern, At { offset, shown, language }: At) {
        let returned = self.uprobe.returned(pattern);
        let convention = if language == Language::Go { Convention::Go } else { Convention::C };
        if convention == Convention::Go && returned.is_some() {
            return self.skipped.push(format!("{shown}: the ends of functions of Go are not known yet"));
        }
        let reading = match Reading::of_function(self.uprobe, &pattern.arguments, returned, convention) {
            Ok(reading) => reading,
            Err(why) => return self.skipped.push(format!("{shown}: {why}")),
        };
        let program = match (returned, self.uprobe.mode) {
            (Some(_), Mode::Calls | Mode::ReturnsOnly | Mode::Latency) => Program::FunctionAndReturn,
            _ => Program::Function,
        };
        self.hooks.entry(offset.0).or_insert_with(|| Hook {
            program,
            function: shown.clone(),
            serves: vec![shown],
            offset,
            arguments: 0,
            callers: Vec::new(),
            reading: Some(Arc::new(reading)),
        });
    }
}
