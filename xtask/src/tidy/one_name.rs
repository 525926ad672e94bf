//! No two types of one name: whoever reads a name need not ask which one is meant.
//!
//! Owns the exceptions. A type that is private to its file may have any name, and so may those of tests.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use super::sources::{Source, read_tree};
use crate::workspace;

/// Where the types of the project are.
const ROOTS: [&str; 6] =
    ["probe-common/src/", "probe-ebpf/src/", "probe-user/src/", "xtask/src/", "tests/src/", "fuzz/src/"];
/// Their names are those of the messages that containerd and the CRI define.
const MESSAGES: &str = "/messages.rs";

/// A name that two types have, and why.
struct Exception {
    name: &'static str,
    reason: &'static str,
}

const EXCEPTIONS: &[Exception] = &[
    Exception {
        name: "Direction",
        reason: "a word of the schema; the tests read records without the library",
    },
    Exception { name: "Process", reason: "a noun of the design, and an object of the schema" },
    Exception { name: "Streams", reason: "the tests read records without the library" },
];

/// Checks the whole tree.
pub(super) fn check_tree() -> Result<()> {
    let findings = findings(&read_tree(&workspace::root())?, EXCEPTIONS);
    if findings.is_empty() {
        return Ok(());
    }
    bail!("{} findings\n    {}", findings.len(), findings.join("\n    "))
}

fn findings(sources: &[Source], exceptions: &[Exception]) -> Vec<String> {
    let mut places: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for source in sources.iter().filter(|source| is_checked(&source.path)) {
        for (_, code) in source.code_without_tests() {
            if let Some(name) = shared_type(&code) {
                places.entry(name.to_owned()).or_default().insert(&source.path);
            }
        }
    }
    places.retain(|_, files| files.len() > 1);
    let mut findings = Vec::new();
    for (name, files) in &places {
        if !exceptions.iter().any(|one| one.name == name) {
            let files: Vec<&str> = files.iter().copied().collect();
            findings.push(format!("{name}: one name: it is the name of types in {}", files.join(", ")));
        }
    }
    for Exception { name, reason } in exceptions.iter().filter(|one| !places.contains_key(one.name)) {
        findings.push(format!("{name} is the name of one type: delete its exception ({reason})"));
    }
    findings
}

fn is_checked(path: &str) -> bool {
    let is_test =
        path.ends_with("/tests.rs") || path.ends_with("_tests.rs") || path.contains("/tests/tests/");
    ROOTS.iter().any(|root| path.starts_with(root)) && !is_test && !path.ends_with(MESSAGES)
}

/// The name of the type that a line of code defines, if others may see it. An associated type is indented.
fn shared_type(code: &str) -> Option<&str> {
    let rest = code.strip_prefix("pub")?;
    let rest = match rest.strip_prefix('(') {
        Some(scope) => scope.split_once(") ")?.1,
        None => rest.strip_prefix(' ')?,
    };
    let (kind, name) = rest.strip_prefix("unsafe ").unwrap_or(rest).split_once(' ')?;
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
    matches!(kind, "struct" | "enum" | "trait" | "type" | "union").then(|| name.get(..end)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(texts: &[(&str, &str)], exceptions: &[Exception], found: usize) {
        let sources: Vec<Source> = texts.iter().map(|(path, text)| Source::new(path, text)).collect();
        let findings = findings(&sources, exceptions);
        assert_eq!(findings.len(), found, "{texts:?}: {findings:?}");
    }

    #[test]
    fn two_types_of_one_name_are_found() {
        let one = ("probe-user/src/a.rs", "pub struct Name<'a> {\n}");
        check(&[one, ("xtask/src/b.rs", "pub(crate) enum Name {}")], &[], 1);
        check(&[one, ("probe-common/src/b.rs", "pub type Name = u32;")], &[], 1);
        check(&[one, ("xtask/src/b.rs", "struct Name;\npub struct Named;")], &[], 0);
        check(&[one, ("xtask/src/b.rs", "#[cfg(test)]\nmod tests {\npub struct Name;")], &[], 0);
        check(&[one, ("probe-user/src/b/tests.rs", "pub struct Name;")], &[], 0);
        check(&[one, ("probe-user/src/b/messages.rs", "pub struct Name;")], &[], 0);
        check(&[one, one], &[], 0);
    }

    #[test]
    fn an_exception_ends_with_its_reason() {
        let exceptions = [Exception { name: "Name", reason: "a test" }];
        let one = ("probe-user/src/a.rs", "pub struct Name;");
        check(&[one, ("xtask/src/b.rs", "pub struct Name;")], &exceptions, 0);
        check(&[one], &exceptions, 1);
    }
}
