//! The text files of the repository, and just enough parsing of Rust for the rules.
//!
//! Owns which files count. It does not really parse: it blanks comments and string literals line by line, so
//! that rules about code do not match them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A text file.
#[derive(Debug)]
pub(super) struct Source {
    /// Relative to the workspace, with `/` as separator.
    pub(super) path: String,
    pub(super) text: String,
}

/// Directories that do not contain the project's own text.
const SKIPPED: [&str; 2] = ["target", ".git"];
/// Bytes for tests that were recorded or that other encoders have made: the endings of their file names, and
/// the largest size.
const RECORDED: ([&str; 3], usize) = ([".bin", ".br", ".zst"], 4096);
/// Endings of the files that are read.
const READ: [&str; 9] = [".rs", ".md", ".toml", ".c", ".h", ".py", ".sh", ".bt", ".ci/run"];

impl Source {
    #[cfg(test)]
    pub(super) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    pub(super) fn is_rust(&self) -> bool {
        Path::new(&self.path).extension().is_some_and(|extension| extension == "rs")
    }

    /// Lines of Rust code with their numbers from 1, without comments and without the contents of string
    /// literals.
    pub(super) fn code(&self) -> impl Iterator<Item = (usize, String)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, blanked(line)))
    }

    /// The same up to the module of unit tests, which is always the last.
    pub(super) fn code_without_tests(&self) -> impl Iterator<Item = (usize, String)> {
        self.code().take_while(|(_, line)| line.trim() != "#[cfg(test)]")
    }
}

/// Reads every text file of the workspace, sorted by path.
pub(super) fn read_tree(root: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for (path, file) in files(root)? {
        if READ.iter().any(|end| path.ends_with(end)) {
            let text = fs::read_to_string(&file).with_context(|| format!("cannot read {path}"))?;
            sources.push(Source { path, text });
        }
    }
    Ok(sources)
}

/// Files that are neither text nor recorded bytes: usually the products of a build.
pub(super) fn products(root: &Path) -> Result<Vec<String>> {
    let mut products = Vec::new();
    for (path, file) in files(root)? {
        let bytes = fs::read(&file).with_context(|| format!("cannot read {path}"))?;
        let is_recorded = RECORDED.0.iter().any(|ending| path.ends_with(ending)) && bytes.len() <= RECORDED.1;
        let is_text = std::str::from_utf8(&bytes).is_ok_and(|text| !text.contains('\0'));
        if !is_text && !is_recorded {
            products.push(path);
        }
    }
    Ok(products)
}

/// The files of the workspace by their relative paths.
fn files(root: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    list(root, root, &mut files)?;
    Ok(files)
}

fn list(root: &Path, directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", directory.display()))?;
        let name = entry.file_name();
        let file = entry.path();
        let kind = entry.file_type()?;
        if kind.is_dir() && !SKIPPED.iter().any(|skipped| name == *skipped) {
            list(root, &file, files)?;
        } else if kind.is_file() {
            files.insert(file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned(), file);
        }
    }
    Ok(())
}

/// A line without its comment and with its string literals emptied.
fn blanked(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    let mut in_string = false;
    // `r#"…"#`: quotation marks inside do not end it, and backslashes have no meaning.
    let mut is_raw = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if in_string && !is_raw => drop(chars.next()),
            '"' if out.ends_with('\'') && chars.peek() == Some(&'\'') => {} // the character literal
            '"' if is_raw && chars.peek() != Some(&'#') => {}
            '"' => {
                in_string = !in_string;
                is_raw = in_string && out.ends_with("r#");
                out.push(c);
            }
            '/' if !in_string && chars.peek() == Some(&'/') => break,
            _ if in_string => {}
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_not_code() {
        let check = |line, expected| assert_eq!(blanked(line), expected);
        check("let a = 1; // unsafe {", "let a = 1; ");
        check(r#"f("unsafe { \" //", b) // c"#, r#"f("", b) "#);
        check(r#"matches!(c, '"' | 'a') // x"#, "matches!(c, '' | 'a') ");
        check("//! doc", "");
        check("f(r#\"a \"unsafe {\" \\\"#, b)", "f(r#\"\"#, b)");
    }

    #[test]
    fn unit_tests_come_last() {
        let source = Source::new("a.rs", "use a;\n#[cfg(test)]\nmod tests {\n}\n");
        assert_eq!(source.code_without_tests().collect::<Vec<_>>(), [(1, "use a;".to_owned())]);
        assert_eq!(source.code().count(), 4);
    }
}
