//! The layers of `probe-user/src`: a room imports from the rows above its own, never from a sibling or from
//! below.
//!
//! Owns the rows and the exceptions. A room is a folder or file directly below `probe-user/src`; `lib.rs` and
//! `main.rs` are the two faces of the crate and belong to no row.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};

use super::sources::{Source, read_tree};
use crate::workspace;

/// The rooms, lowest layer first.
const ROWS: [&[&str]; 10] = [
    &["stderr", "timeout", "clock", "error_chain", "terminal", "glob", "test_rng"],
    &["event", "elf", "proc"],
    &["rootfs", "container", "decode", "protocol"],
    &["scope"],
    &["plan"],
    &["probe", "pipeline", "output"],
    &["bpf", "discovery", "enrich", "recording"],
    &["diagnose"],
    &["cli"],
    &["app"],
];

/// A file that imports what its row does not allow, with the reason.
struct Exception {
    /// Path below `probe-user/src`.
    file: &'static str,
    room: &'static str,
    reason: &'static str,
}

const EXCEPTIONS: [Exception; 1] = [Exception {
    file: "stderr.rs",
    room: "terminal",
    reason: "every line on standard error is escaped, and there is one place for escaping",
}];

/// An import of another room.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Import {
    file: String,
    line: usize,
    from: String,
    to: String,
}

/// Checks every file of `probe-user/src`.
pub(super) fn check_tree() -> Result<()> {
    let findings = findings(&read_tree(&workspace::root())?, &EXCEPTIONS)?;
    if findings.is_empty() {
        return Ok(());
    }
    bail!("{} findings\n    {}", findings.len(), findings.join("\n    "))
}

/// Prints which rooms each room imports, lowest layer first.
pub(super) fn print_graph() -> Result<()> {
    let mut graph: BTreeMap<(usize, String), BTreeSet<String>> = BTreeMap::new();
    for source in &read_tree(&workspace::root())? {
        let Some(room) = room(&source.path) else { continue };
        let imports = graph.entry((row(room)?, room.to_owned())).or_default();
        imports.extend(imports_of(source).into_iter().map(|import| import.to));
    }
    for ((row, room), imports) in graph {
        let imports: Vec<String> = imports.into_iter().collect();
        println!("{row}  {room:12} {}", imports.join(" "));
    }
    Ok(())
}

fn findings(sources: &[Source], exceptions: &[Exception]) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    let mut used = BTreeSet::new();
    for import in sources.iter().flat_map(imports_of) {
        if row(&import.to)? < row(&import.from)? {
            continue;
        }
        let excepted = exceptions.iter().position(|one| one.file == import.file && one.room == import.to);
        let Some(index) = excepted else {
            let Import { file, line, from, to } = import;
            findings.push(format!("{file}:{line}: layers: {from} imports {to}, which is not above it"));
            continue;
        };
        used.insert(index);
    }
    for (index, Exception { file, room, reason }) in exceptions.iter().enumerate() {
        if !used.contains(&index) {
            findings.push(format!("{file} does not import {room} any more: delete its exception ({reason})"));
        }
    }
    Ok(findings)
}

fn row(room: &str) -> Result<usize> {
    let row = ROWS.iter().position(|rooms| rooms.contains(&room));
    row.with_context(|| format!("the room {room} is in no row of xtask/src/tidy/layers.rs"))
}

/// The room of a file, by its path in the workspace.
fn room(path: &str) -> Option<&str> {
    let path = path.strip_prefix("probe-user/src/")?.strip_suffix(".rs")?;
    let room = path.split('/').next()?;
    (room != "lib" && room != "main").then_some(room)
}

/// The other rooms that a file names. Its unit tests may name any.
fn imports_of(source: &Source) -> Vec<Import> {
    let Some(from) = room(&source.path) else { return Vec::new() };
    if is_test(&source.path) {
        return Vec::new();
    }
    let mut imports = BTreeSet::new();
    for (line, code) in source.code_without_tests() {
        for (at, prefix) in code.match_indices("crate::") {
            let is_other =
                code.get(..at).is_some_and(|before| before.ends_with(|c: char| c.is_alphanumeric()));
            let rest = code.get(at + prefix.len()..).unwrap_or_default();
            let name = |text: &str| -> String {
                text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
            };
            // `use crate::{a, b}` names several rooms.
            let names: Vec<String> = match rest.strip_prefix('{') {
                Some(list) => list.trim_end_matches(['}', ';']).split(',').map(name).collect(),
                None => vec![name(rest)],
            };
            let others = names.into_iter().filter(|to| !is_other && to != from && !to.is_empty());
            imports.extend(others.filter(|to| !to.starts_with(char::is_uppercase)).map(|to| Import {
                file: source.path.trim_start_matches("probe-user/src/").to_owned(),
                line,
                from: from.to_owned(),
                to,
            }));
        }
    }
    imports.into_iter().collect()
}

fn is_test(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name == "tests.rs"
        || name.ends_with("_tests.rs")
        || name.ends_with("fixture.rs")
        || path.contains("/tests/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_imports_from_the_rows_above_it_alone() {
        let check = |path: &str, text: &str, found: bool| {
            let sources = [Source::new(path, text)];
            let findings = findings(&sources, &[]).unwrap_or_else(|error| vec![error.to_string()]);
            assert_eq!(!findings.is_empty(), found, "{path}: {text}: {findings:?}");
        };
        check("probe-user/src/scope/mod.rs", "use crate::proc::Process;", false);
        check("probe-user/src/proc/mod.rs", "use crate::scope::Scope;", true);
        check("probe-user/src/proc/mod.rs", "/// As [`crate::scope::Scope`] has it.", false);
        check("probe-user/src/proc/tests.rs", "use crate::scope::Scope;", false);
        check("probe-user/src/elf/mod.rs", "fn f(process: crate::proc::Process) {}", true);
        check("probe-user/src/bpf/mod.rs", "use crate::{clock, app};", true);
        check("probe-user/src/app/mod.rs", "pub(in crate::app) fn f() {}\nuse crate::cli;", false);
        check("probe-user/src/nowhere.rs", "use crate::app;", true);
        check("probe-user/src/main.rs", "use crate::app;", false);
    }

    #[test]
    fn an_exception_is_for_one_file_and_ends_with_its_import() -> Result<()> {
        let exceptions = [Exception { file: "proc/mod.rs", room: "scope", reason: "a test" }];
        let with = [Source::new("probe-user/src/proc/mod.rs", "use crate::scope::Scope;")];
        assert_eq!(findings(&with, &exceptions)?, Vec::<String>::new());
        let without = [Source::new("probe-user/src/proc/mod.rs", "")];
        assert_eq!(findings(&without, &exceptions)?.len(), 1);
        Ok(())
    }
}
