//! ctrace accepts every command line of README.md and docs/*.md. Needs no root, because nothing is traced.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::docs::{self, Shown};
use ctrace_tests::{Ctrace, Nobody, RunningTrace};

/// The exit status of a usage error.
const USAGE: Option<i32> = Some(2);

/// Runs ctrace as somebody without the rights to trace, so that it parses the words and then fails.
struct Parser {
    user: User,
    /// A file with a schema, which ctrace reads before it traces. It stands for those that the text names.
    schema: tempfile::NamedTempFile,
}

enum User {
    /// The tests run as root, and run ctrace as nobody, so that nothing is traced.
    Nobody(Nobody),
    /// The tests run as an ordinary user, and so does ctrace.
    Own,
}

impl Parser {
    fn new() -> Result<Self> {
        let is_root = rustix::process::geteuid().is_root();
        let user = if is_root { User::Nobody(Nobody::new()?) } else { User::Own };
        let schema = tempfile::Builder::new()
            .suffix(".proto")
            .permissions(fs::Permissions::from_mode(0o644))
            .tempfile()?;
        fs::write(&schema, docs::SCHEMA)?;
        Ok(Self { user, schema })
    }

    fn run(&self, words: &[&str]) -> Result<RunningTrace> {
        match &self.user {
            User::Nobody(nobody) => nobody.run(words),
            User::Own => Ctrace::run_to_end(words),
        }
    }

    /// Fails if the words are a usage error with each of these endings: the text may name a command without
    /// its mandatory arguments.
    fn check(&self, words: &[String], endings: &[&[&str]]) -> Result<()> {
        let schema = self.schema.path().to_str().context("no text")?;
        let before = |index: usize| index.checked_sub(1).and_then(|before| words.get(before));
        let words = words.iter().enumerate().map(|(index, word)| {
            if before(index).is_some_and(|option| option == "--proto") { schema } else { word.as_str() }
        });
        let words: Vec<&str> = words.collect();
        let mut first = None;
        for ending in endings {
            let trace = self.run(&[&words, *ending].concat())?;
            if trace.code() != USAGE {
                return Ok(());
            }
            first.get_or_insert(trace.stderr);
        }
        anyhow::bail!("ctrace {} is not understood:\n{}", words.join(" "), first.unwrap_or_default())
    }
}

#[test]
fn each_command_line_that_is_shown_is_one_that_ctrace_takes() -> Result<()> {
    let parser = Parser::new()?;
    let mut count = 0;
    for block in docs::blocks()? {
        for line in block.commands() {
            for words in docs::invocations(&line).with_context(|| block.place.clone())? {
                let is_form = line.contains('[') && docs::excuse(&line).is_some();
                if !is_form {
                    parser.check(&docs::filled(&words), &[&[]]).with_context(|| block.place.clone())?;
                    count += 1;
                }
            }
        }
    }
    ensure!(count >= 20, "{count} command lines: are they still found?");
    Ok(())
}

#[test]
fn each_command_that_the_text_names_is_one() -> Result<()> {
    let parser = Parser::new()?;
    let endings: [&[&str]; 4] = [&[], &["--all"], &["--all", ":main"], &["web"]];
    let named = docs::named_commands()?;
    ensure!(named.len() >= 10, "{} commands: are they still found?", named.len());
    for (place, command) in named {
        for words in docs::invocations(&command).with_context(|| place.clone())? {
            parser.check(&docs::filled(&words), &endings).with_context(|| place.clone())?;
        }
    }
    Ok(())
}

#[test]
fn each_block_is_of_a_kind_that_is_run_or_has_a_reason() -> Result<()> {
    for block in docs::blocks()? {
        let is_covered = block.shown() != Shown::Other || docs::excuse(&block.text).is_some();
        ensure!(is_covered, "{}: what is this? {}", block.place, block.text);
    }
    Ok(())
}

#[test]
fn nothing_is_excused_that_is_not_there() -> Result<()> {
    let blocks = docs::blocks()?;
    for (beginning, reason) in docs::NOT_RUN {
        let is_there = |block: &docs::Block| block.text.lines().any(|line| line.starts_with(beginning));
        ensure!(blocks.iter().any(is_there), "no block has {beginning:?} ({reason}): take it off the table");
    }
    Ok(())
}
