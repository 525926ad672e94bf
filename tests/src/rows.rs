//! The table of docs/tls.md: each test that traces an implementation makes a row of it, from the trace and
//! the traced file.
//!
//! Owns what a row has, and where rows are stored. The test fails if its row differs from the table in
//! anything but the version, which depends on the machine's packages; `cargo xtask tls-table` rewrites the
//! table.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::ctrace::RETURN_PROBE_VARIABLE;
use crate::paths;
use crate::streams::Direction;
use crate::trace::RunningTrace;

/// Set while the table is rewritten: rows are not compared then.
pub const ROWS_VARIABLE: &str = "CTRACE_TLS_TABLE";

/// The cell that has the version, which depends on the machine's packages.
const VERSION: usize = 1;
/// The cell that has the way of probing returns.
const RETURNS: usize = 8;

/// The result of a test, from which its row is made.
#[derive(Debug)]
pub struct TestRow<'a> {
    /// `suite::test`.
    pub test: &'a str,
    /// The traced program, described for a reader.
    pub program: &'a str,
    /// The trace that the row describes as a whole.
    pub trace: &'a RunningTrace,
    /// The root directory of the traced program, as the host reaches it.
    pub root: &'a Path,
}

/// The directory in which rows are stored until the table is made of them.
pub fn rows_directory() -> PathBuf {
    paths::cache().join("tls-rows")
}

impl TestRow<'_> {
    /// Stores the row, and compares it with the table.
    pub fn check(&self) -> Result<()> {
        let cells = self.cells().with_context(|| format!("the row of {}", self.test))?;
        let line = format!("| {} |", cells.join(" | "));
        let is_chosen = env::var_os(RETURN_PROBE_VARIABLE).is_some();
        if !is_chosen {
            fs::create_dir_all(rows_directory())?;
            fs::write(rows_directory().join(self.test.replace("::", "-")), format!("{line}\n"))?;
        }
        if env::var_os(ROWS_VARIABLE).is_some() {
            return Ok(());
        }
        let path = Path::new(paths::CRATE).join("../docs/tls.md");
        let document = fs::read_to_string(&path)?;
        let same = |row: &str| row.ends_with(&format!("| `{}` |", self.test));
        let ignored: &[usize] = if is_chosen { &[VERSION, RETURNS] } else { &[VERSION] };
        let found = document.lines().find(|row| same(row)).unwrap_or_default();
        ensure!(
            without(found, ignored) == without(&line, ignored),
            "docs/tls.md says\n{found}\nbut it is\n{line}\n`cargo xtask tls-table` writes the table anew"
        );
        Ok(())
    }

    /// The last cell is the test, the second one the version.
    fn cells(&self) -> Result<[String; 10]> {
        let lines = self.trace.lines()?;
        let calls: Vec<&Value> = lines.iter().filter(|line| line["type"] == "ssl").collect();
        let of_all = |pointer: &str| -> BTreeSet<String> {
            let values = calls.iter().filter_map(|line| line.pointer(pointer)?.as_str());
            values.map(str::to_owned).collect()
        };
        let joined = |pointer: &str, otherwise: &str| {
            let values = of_all(pointer).into_iter().collect::<Vec<_>>().join(", ");
            if values.is_empty() { otherwise.to_owned() } else { values }
        };
        let path = of_all("/library/path").into_iter().next().context("no library")?;
        let file = self.root.join(path.trim_start_matches('/'));
        let functions = of_all("/function");
        let (linkage, symbols) = linkage(&file, &functions)?;
        let names: BTreeSet<String> = of_all("/library/name").iter().map(|name| unversioned(name)).collect();
        Ok([
            joined("/library/implementation", "unknown"),
            joined("/library/version", "unknown"),
            self.program.to_owned(),
            format!("`{}`", names.into_iter().collect::<Vec<_>>().join("`, `")),
            linkage.to_owned(),
            symbols,
            self.directions()?,
            socket(&of_all("/connection/socket")).to_owned(),
            returns(&self.trace.stderr, &functions),
            format!("`{}`", self.test),
        ])
    }

    fn directions(&self) -> Result<String> {
        let streams = self.trace.streams(|_| true)?;
        let has = |wanted| streams.iter().any(|(direction, _)| direction == wanted);
        let begin =
            if streams.iter().all(|(_, stream)| stream.from_start) { "from the start" } else { "later" };
        let ways = [(Direction::Receive, "received"), (Direction::Transmit, "sent")];
        let ways: Vec<&str> = ways.into_iter().filter(|(way, _)| has(*way)).map(|(_, name)| name).collect();
        Ok(format!("{}; {begin}", ways.join(", ")))
    }
}

/// How the returns of these functions were probed, by what `-v` has said on standard error.
fn returns(stderr: &str, functions: &BTreeSet<String>) -> String {
    let mut ways = BTreeSet::new();
    for line in stderr.lines() {
        let Some((way, names)) = line.split_once(": returns by ").and_then(|(_, rest)| rest.split_once(": "))
        else {
            continue;
        };
        if names.split(", ").any(|name| functions.contains(name)) {
            ways.insert(way);
        }
    }
    let ways = ways.into_iter().collect::<Vec<_>>().join(", ");
    if ways.is_empty() { "not needed".to_owned() } else { ways }
}

/// Whether the addresses of connections were seen or guessed.
fn socket(certainties: &BTreeSet<String>) -> &'static str {
    let has = |name: &str| certainties.contains(name);
    match (has("seen"), has("guessed")) {
        (true, false) => "seen",
        (false, true) => "guessed",
        (true, true) => "seen, guessed",
        (false, false) => "unknown",
    }
}

/// The kind of the file, and which of its functions have names in it.
fn linkage(file: &Path, functions: &BTreeSet<String>) -> Result<(&'static str, String)> {
    let read = |what: &[&str]| -> Result<String> {
        let output = Command::new("readelf").args(["--wide", "--demangle"]).args(what).arg(file).output()?;
        ensure!(output.status.success(), "readelf: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let headers = read(&["--file-header", "--program-headers", "--dynamic", "--section-headers"])?;
    let is_fixed = headers.contains("EXEC (Executable file)");
    let is_dynamic = headers.contains(" INTERP ");
    let linkage = match (is_fixed, is_dynamic) {
        (true, true) => "program",
        (true, false) => "static program",
        (false, true) => "position-independent program",
        (false, false) if headers.contains(" PIE") => "static position-independent program",
        (false, false) => "shared object",
    };
    let exported = read(&["--dyn-syms"])?;
    // The last part of a path, or of several names in one record.
    let last = |function: &str| function.rsplit([',', ':', ' ', '.']).next().unwrap_or_default().to_owned();
    let names: BTreeSet<&str> = exported.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let is_exported = functions.iter().all(|function| names.contains(last(function).as_str()));
    let symbols = match (headers.contains(" .symtab "), is_exported && !functions.is_empty()) {
        (true, _) => "all",
        (false, true) => "exported",
        (false, false) => "none",
    };
    Ok((linkage, symbols.to_owned()))
}

/// A soname without its version, which differs between distributions.
fn unversioned(name: &str) -> String {
    name.find(".so.").and_then(|at| name.get(..at + 3)).unwrap_or(name).to_owned()
}

/// The cells of a row but for these.
fn without<'r>(line: &'r str, ignored: &[usize]) -> Vec<&'r str> {
    line.split(" | ")
        .enumerate()
        .filter(|(index, _)| !ignored.contains(index))
        .map(|(_, cell)| cell)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_and_versions_are_no_difference() {
        for (name, expected) in [
            ("libssl.so.3", "libssl.so"),
            ("libssl-8b.so.3", "libssl-8b.so"),
            ("a.so", "a.so"),
            ("node", "node"),
        ] {
            assert_eq!(unversioned(name), expected);
        }
        let row = |version, socket| format!("| OpenSSL | {version} | curl | {socket} | `a::b` |");
        let cells = |line: &str| without(line, &[VERSION]).join(" | ");
        assert_eq!(cells(&row("3.0.1", "seen")), cells(&row("unknown", "seen")));
        assert_ne!(cells(&row("3.0.1", "seen")), cells(&row("3.0.1", "guessed")));
    }

    #[test]
    fn returns_are_those_of_the_functions_that_were_called() {
        let stderr = "libssl.so.3: returns by emulated exits: SSL_read, SSL_write\n\
                      libssl.so.3: returns by ret instructions: SSL_new, SSL_read_ex\ntracing";
        let check = |functions: &[&str], expected: &str| {
            let functions = functions.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(returns(stderr, &functions), expected);
        };
        check(&["SSL_read"], "emulated exits");
        check(&["SSL_read", "SSL_read_ex"], "emulated exits, ret instructions");
        check(&["handed"], "not needed");
    }

    #[test]
    fn the_way_that_a_file_is_linked() -> Result<()> {
        let functions = BTreeSet::from(["main".to_owned()]);
        let check = |name: &str, expected: (&str, &str)| -> Result<()> {
            let (linkage, symbols) = linkage(&crate::program(name)?, &functions)?;
            ensure!((linkage, symbols.as_str()) == expected, "{name}: {linkage}, {symbols}");
            Ok(())
        };
        check("idle", ("static program", "all"))?;
        check("functions-stripped", ("position-independent program", "none"))?;
        check("exchange.so", ("shared object", "all"))
    }
}
