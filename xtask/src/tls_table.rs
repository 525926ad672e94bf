//! `cargo xtask tls-table`: writes the table of docs/tls.md from the results of the live tests.
//!
//! Owns the table's place in the document, and the check that each row's test exists. `ctrace_tests::Library`
//! decides what a row says; a test whose row differs from the table fails by itself.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use ctrace_tests::{ROWS_VARIABLE, rows_directory};

use crate::{test, workspace};

const DOCUMENT: &str = "docs/tls.md";
const BEGIN: &str = "<!-- what the tests saw: cargo xtask tls-table -->\n";
const END: &str = "<!-- end -->\n";
const HEAD: &str = "| implementation | version | program | file | linkage | symbols | directions | addresses \
 | returns by | test |\n\
                    |---|---|---|---|---|---|---|---|---|---|\n";

/// The suites whose tests make rows.
const SUITES: [&str; 5] = [
    "live_libraries",
    "live_payloads",
    "live_third_party",
    "live_third_party_large",
    "live_third_party_servers",
];

#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct TlsTableOptions {
    /// Run no test: use the rows that the last runs have left
    #[arg(long)]
    kept: bool,
}

/// Runs the command.
pub(crate) fn run(options: TlsTableOptions) -> Result<()> {
    let directory = rows_directory();
    if !options.kept {
        if directory.is_dir() {
            fs::remove_dir_all(&directory)
                .with_context(|| format!("cannot remove {}", directory.display()))?;
        }
        test::run_named(&SUITES, (ROWS_VARIABLE, "1"))?;
    }
    let mut rows = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("no rows in {}", directory.display()))? {
        rows.push(fs::read_to_string(entry?.path())?);
    }
    rows.sort();
    let document = fs::read_to_string(path())?;
    let (before, _, after) = parts(&document)?;
    fs::write(path(), format!("{before}{BEGIN}{HEAD}{}{END}{after}", rows.concat()))?;
    println!("{} rows written to {DOCUMENT}", rows.len());
    Ok(())
}

/// Fails if a row belongs to a test that does not exist.
pub(crate) fn check() -> Result<()> {
    let document = fs::read_to_string(path())?;
    let (_, table, _) = parts(&document)?;
    let rows: Vec<&str> = table.lines().skip(HEAD.lines().count()).collect();
    if rows.is_empty() {
        bail!("{DOCUMENT} has an empty table: `cargo xtask tls-table` writes it");
    }
    for row in rows {
        let name = test_of(row).with_context(|| format!("no row with a test: {row}"))?;
        let (suite, function) = name;
        let path = workspace::root().join(format!("tests/tests/{suite}.rs"));
        let source = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if !source.contains(&format!("fn {function}(")) {
            bail!("{suite} has no test {function}, of which {DOCUMENT} has a row: `cargo xtask tls-table`");
        }
    }
    Ok(())
}

fn path() -> PathBuf {
    workspace::root().join(DOCUMENT)
}

/// The text before the table, the table, and the text after it.
fn parts(document: &str) -> Result<(&str, &str, &str)> {
    let parts = document.split_once(BEGIN).and_then(|(before, rest)| {
        let (table, after) = rest.split_once(END)?;
        Some((before, table, after))
    });
    parts.with_context(|| format!("{DOCUMENT} has no place for the table, between {BEGIN:?} and {END:?}"))
}

/// The suite and test name in a row's last cell.
fn test_of(row: &str) -> Option<(&str, &str)> {
    row.strip_suffix("` |")?.rsplit_once('`')?.1.split_once("::")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_names_its_test() {
        assert_eq!(test_of("| OpenSSL | 3.0 | `live_x::curl` |"), Some(("live_x", "curl")));
        assert_eq!(test_of("| OpenSSL | 3.0 | curl |"), None);
    }

    #[test]
    fn the_document_has_its_parts() {
        let document = format!("before\n{BEGIN}table\n{END}after\n");
        assert_eq!(parts(&document).ok(), Some(("before\n", "table\n", "after\n")));
        assert!(parts("no table").is_err());
    }
}
