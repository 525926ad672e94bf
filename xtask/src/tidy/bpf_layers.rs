//! The layers of `probe-ebpf/src`: a module imports from the rows above its own, never from a sibling or from
//! below.
//!
//! Owns the rows. A module is a file, or a folder that is named as a whole: `emit`. `main.rs` has the entry
//! points and belongs to no row.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};

use super::sources::{Source, read_tree};
use crate::workspace;

/// The modules, lowest layer first.
const ROWS: [&[&str]; 12] = [
    &["mem", "maps", "constants"],
    &["current"],
    &["scope"],
    &["emit"],
    &["connection/identity", "connection/socket_address", "connection/hello", "process/exec_args"],
    &["io/frame", "process/exec"],
    &["io/call", "process/exec_failure", "process/cgroup", "process/signal", "uprobe"],
    &["io/iovec", "io/entry_only", "io/borrowed", "io/callback", "io/go"],
    &["io/cleartext"],
    &["connection/unattributed"],
    &["connection/lifecycle", "connection/socket", "process/task"],
    &["connection/mod", "io/mod", "process/mod"],
];

/// Checks every file of `probe-ebpf/src`.
pub(super) fn check_tree() -> Result<()> {
    let mut findings = Vec::new();
    for source in &read_tree(&workspace::root())? {
        findings.extend(findings_in(source)?);
    }
    if findings.is_empty() {
        return Ok(());
    }
    bail!("{} findings\n    {}", findings.len(), findings.join("\n    "))
}

fn findings_in(source: &Source) -> Result<Vec<String>> {
    let file = source.path.strip_prefix("probe-ebpf/src/").and_then(|path| path.strip_suffix(".rs"));
    let Some(file) = file.filter(|file| *file != "main") else { return Ok(Vec::new()) };
    let (own_row, own) = position(file)
        .with_context(|| format!("{} is in no row of xtask/src/tidy/bpf_layers.rs", source.path))?;
    let is_wrong = |path: &&String| position(path).is_some_and(|(row, to)| to != own && row >= own_row);
    let imports = imports(source, file);
    let findings = imports.iter().filter(is_wrong);
    Ok(findings
        .map(|to| format!("{}: layers: it imports {to}, which is not above it", source.path))
        .collect())
}

/// The row and the name of the module that a path belongs to, by its longest prefix that has a row.
fn position(path: &str) -> Option<(usize, &'static str)> {
    let is_in =
        |module: &str| path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let rows = ROWS.iter().enumerate();
    let all = rows.flat_map(|(row, modules)| modules.iter().map(move |module| (row, *module)));
    all.filter(|(_, module)| is_in(module)).max_by_key(|(_, module)| module.len())
}

/// The modules of the crate that a file's `use` declarations name, as paths from its root with `/` between
/// the segments.
fn imports(source: &Source, file: &str) -> BTreeSet<String> {
    let code: Vec<String> = source.code().map(|(_, line)| line.trim().to_owned()).collect();
    let code = code.join(" ");
    let mut found = BTreeSet::new();
    for declaration in code.split(';') {
        let Some((before, tree)) = declaration.rsplit_once("use ") else { continue };
        if before.ends_with(|last: char| last.is_alphanumeric() || last == '_') {
            continue;
        }
        expand("", tree.trim(), &mut found);
    }
    let parent = file.rsplit_once('/').map_or("", |(parent, _)| parent);
    // `emit/mod` is the module `emit`, so its `super` is the root.
    let parent = if file.ends_with("/mod") { "" } else { parent };
    let from_root = |path: &String| {
        if let Some(rest) = path.strip_prefix("crate/") {
            return Some(rest.to_owned());
        }
        let rest = path.strip_prefix("super/")?;
        Some(if parent.is_empty() { rest.to_owned() } else { format!("{parent}/{rest}") })
    };
    found.iter().filter_map(from_root).collect()
}

/// Expands a tree of imports: `a::{b, c::d}` is `a/b` and `a/c/d`.
fn expand(prefix: &str, tree: &str, found: &mut BTreeSet<String>) {
    match tree.split_once('{') {
        Some((path, rest)) => {
            let prefix = format!("{prefix}{}", path.replace("::", "/"));
            let list = rest.trim_end().strip_suffix('}').unwrap_or(rest);
            for item in at_commas(list) {
                expand(&prefix, item.trim(), found);
            }
        }
        None if !tree.is_empty() => {
            found.insert(format!("{prefix}{}", tree.replace("::", "/").trim_end_matches("/self")));
        }
        None => {}
    }
}

/// Splits at the commas outside of braces.
fn at_commas(list: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    list.split(|c: char| {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_imports_from_the_rows_above_it_alone() {
        let check = |path: &str, text: &str, found: usize| {
            let findings =
                findings_in(&Source::new(path, text)).unwrap_or_else(|error| vec![error.to_string()]);
            assert_eq!(findings.len(), found, "{path}: {text}: {findings:?}");
        };
        check("probe-ebpf/src/io/call.rs", "use super::frame;\nuse crate::{\n    emit,\n    mem,\n};", 0);
        check("probe-ebpf/src/io/frame.rs", "use super::call;", 1);
        check(
            "probe-ebpf/src/io/frame.rs",
            "use crate::{\n    connection::{\n        identity, lifecycle},\n};",
            1,
        );
        check("probe-ebpf/src/io/go.rs", "use super::{call, iovec};", 1);
        check("probe-ebpf/src/emit/call.rs", "use super::{lost, submit};", 0);
        check("probe-ebpf/src/emit/mod.rs", "pub use call::chunk;\nuse crate::io::frame;", 1);
        check("probe-ebpf/src/mem.rs", "// use crate::scope;\nuse probe_common::Frame;", 0);
        check("probe-ebpf/src/mem.rs", "use crate::current::Current;", 1);
        check("probe-ebpf/src/nowhere.rs", "", 1);
        check("probe-ebpf/src/main.rs", "use crate::io;", 0);
    }
}
