//! The code blocks of README.md and docs/*.md, and the commands that their text names.
//!
//! They are read from the Markdown itself, so that the documents cannot drift from what the program does.
//! Nothing is executed here, except for a shell that shows how it splits a line into words.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};

use crate::paths::CRATE;

/// Command lines (or blocks) that cannot be run, by how they begin, with the reason. They are still parsed.
pub const NOT_RUN: &[(&str, &str)] = &[
    ("cargo xtask demo", "it is a command of the repository, and shows the first block, which is run"),
    ("cargo xtask test", "it is what runs this"),
    ("cargo xtask setup", "it is a command of the repository, which `cargo xtask test` begins with"),
    ("cargo xtask build", "it is a command of the repository, which `cargo xtask test` begins with"),
    ("sudo install target/release/ctrace", "it installs"),
    ("ctrace ssl -- curl https://host/", "there is no such host"),
    ("ctrace requests -- curl https://host/", "there is no such host"),
    ("ctrace uprobe --container web --latency 'libpq.so.5:PQexec'", "the tests have no PostgreSQL client"),
    ("ctrace uprobe --container web --list 'libpq.so.5:PQ*'", "the tests have no PostgreSQL client"),
    ("ctrace uprobe [WHAT TO TRACE]", "it is the form of a command"),
    ("mappings -> files opened -> ELF parsed", "it is a figure"),
];

/// Placeholders in the documents, each with an example. `None` stands for any further words.
const PLACEHOLDERS: &[(&str, Option<&str>)] = &[
    ("…", None),
    ("ARGS…", None),
    ("COMMAND", Some("true")),
    ("CONTAINER", Some("web")),
    ("SHELL", Some("bash")),
];

/// A schema that stands for those that the documents name.
pub const SCHEMA: &str = "syntax = \"proto3\"; message M {} service S { rpc R(M) returns (M); }\n";

/// A block of code.
#[derive(Debug, Clone)]
pub struct Block {
    /// The file and the line in it.
    pub place: String,
    /// The code.
    pub text: String,
}

/// A command line of a transcript, and the output that the document shows for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TranscriptCommand {
    /// The text after `$ `.
    pub command: String,
    /// The lines up to the next command.
    pub output: Vec<String>,
}

/// The kind of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// A session at a terminal.
    Transcript(Vec<TranscriptCommand>),
    /// Command lines, without the explanations that follow them.
    Lines(Vec<String>),
    /// A shell script.
    Script,
    /// None of these.
    Other,
}

impl Block {
    /// The kind of the block.
    pub fn shown(&self) -> Shown {
        let first = self.text.lines().next().unwrap_or_default();
        match first.split_whitespace().next() {
            Some("$") => Shown::Transcript(commands(&self.text)),
            // A block that mixes lines with a prompt and lines without one is neither.
            Some("ctrace" | "sudo" | "cargo") if !self.text.contains("\n$ ") => {
                let lines = self.text.lines().filter(|line| !line.trim().is_empty());
                Shown::Lines(lines.map(without_explanation).collect())
            }
            Some("jq" | "for" | "while") => Shown::Script,
            _ => Shown::Other,
        }
    }

    /// The command lines in the block.
    pub fn commands(&self) -> Vec<String> {
        match self.shown() {
            Shown::Transcript(commands) => commands.into_iter().map(|command| command.command).collect(),
            Shown::Lines(lines) => lines,
            Shown::Script => vec![self.text.clone()],
            Shown::Other => Vec::new(),
        }
    }
}

fn commands(text: &str) -> Vec<TranscriptCommand> {
    let mut commands: Vec<TranscriptCommand> = Vec::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            commands.push(TranscriptCommand { command: command.trim().to_owned(), output: Vec::new() });
        } else if let Some(last) = commands.last_mut() {
            last.output.push(line.trim_end().to_owned());
        }
    }
    commands
}

/// An explanation is separated from its command by two or more spaces, or by `#`.
fn without_explanation(line: &str) -> String {
    let line = line.split_once("  ").map_or(line, |(command, _)| command);
    line.split_once(" # ").map_or(line, |(command, _)| command).trim().to_owned()
}

/// The reason from [`NOT_RUN`] why a line or block is not run.
pub fn excuse(text: &str) -> Option<&'static str> {
    NOT_RUN.iter().find(|(beginning, _)| text.starts_with(beginning)).map(|(_, reason)| *reason)
}

/// All blocks of code of README.md and docs/*.md.
pub fn blocks() -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    for (name, text) in documents()? {
        blocks.extend(blocks_of(&name, &text));
    }
    ensure!(!blocks.is_empty(), "the documents show nothing");
    Ok(blocks)
}

/// Everything in the text of README.md and docs/*.md that is marked as code and begins with `ctrace `, with
/// its place.
pub fn named_commands() -> Result<Vec<(String, String)>> {
    let mut commands = Vec::new();
    for (name, text) in documents()? {
        for (event, range) in Parser::new_ext(&text, options()).into_offset_iter() {
            if let Event::Code(code) = event
                && code.starts_with("ctrace ")
            {
                commands.push((place(&name, &text, range.start), code.to_string()));
            }
        }
    }
    Ok(commands)
}

fn options() -> pulldown_cmark::Options {
    pulldown_cmark::Options::ENABLE_TABLES
}

fn blocks_of(name: &str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (event, range) in Parser::new_ext(text, options()).into_offset_iter() {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Indented | CodeBlockKind::Fenced(_))) => {
                open = Some(Block { place: place(name, text, range.start), text: String::new() });
            }
            Event::End(TagEnd::CodeBlock) => blocks.extend(open.take()),
            Event::Text(part) => {
                if let Some(block) = &mut open {
                    block.text.push_str(&part);
                }
            }
            _ => {}
        }
    }
    blocks
}

fn place(name: &str, text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    format!("{name}:{}", before.matches('\n').count() + 1)
}

/// The documents by name, with their text.
fn documents() -> Result<Vec<(String, String)>> {
    let root = Path::new(CRATE).parent().context("the tests are in no repository")?;
    let mut paths = vec![root.join("README.md")];
    for entry in fs::read_dir(root.join("docs"))? {
        paths.push(entry?.path());
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
        Ok((name, text))
    };
    paths.iter().map(read).collect()
}

/// Runs a script in a shell whose `ctrace` only records its arguments, and returns the arguments of each
/// call. No other program is found.
pub fn invocations(script: &str) -> Result<Vec<Vec<String>>> {
    const RECORD: &str = "#!/bin/sh\n\
        for word; do printf '%s\\037' \"$word\"; done >>\"$CALLS\"\n\
        printf '\\036' >>\"$CALLS\"\n";
    let directory = tempfile::tempdir()?;
    let put = |name: &str, text: &str| -> Result<()> {
        let path = directory.path().join(name);
        fs::write(&path, text)?;
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
    };
    put("ctrace", RECORD)?;
    put("sudo", "#!/bin/sh\nexec \"$@\"\n")?;
    let recorded = directory.path().join("recorded");
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", script]).current_dir(directory.path());
    let output =
        shell.env("PATH", directory.path()).env("CALLS", &recorded).output().context("cannot run sh")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(!error.contains("yntax error"), "no shell takes {script:?}: {error}");
    let recorded = fs::read_to_string(&recorded).unwrap_or_default();
    let words = |one: &str| one.split_terminator('\u{1f}').map(str::to_owned).collect();
    Ok(recorded.split_terminator('\u{1e}').map(words).collect())
}

/// Replaces the placeholders among the words by their examples.
pub fn filled(words: &[String]) -> Vec<String> {
    let mut filled: Vec<String> = Vec::new();
    for word in words {
        match PLACEHOLDERS.iter().find(|(placeholder, _)| word == placeholder) {
            None => filled.push(word.clone()),
            Some((_, Some(example))) => filled.push((*example).to_owned()),
            // `ctrace … -o json` may be any command that traces, `--pid …` any process.
            Some((_, None)) if filled.is_empty() => filled.push("ssl".to_owned()),
            Some((_, None)) if filled.last().is_some_and(|last| last == "--pid") => {
                filled.push("1".to_owned());
            }
            Some((_, None)) => {}
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# A\n\nText with `ctrace ps`.\n\n    $ sudo ctrace ssl -- a 'b  c'; cat x\n\
        \x20   one\n\n    two\n    $ ls\n\n\
        - item\n\n```\nctrace exec --all   all of it\nctrace ps # here\n```\n\n    a -> b\n";

    #[test]
    fn blocks_are_found_wherever_they_stand() {
        let blocks = blocks_of("A.md", TEXT);
        let places: Vec<&str> = blocks.iter().map(|block| block.place.as_str()).collect();
        assert_eq!(places, ["A.md:5", "A.md:13", "A.md:18"]);
        let shown: Vec<Shown> = blocks.iter().map(Block::shown).collect();
        let command = |command: &str, output: &[&str]| TranscriptCommand {
            command: command.to_owned(),
            output: output.iter().map(|line| (*line).to_owned()).collect(),
        };
        let transcript =
            vec![command("sudo ctrace ssl -- a 'b  c'; cat x", &["one", "", "two"]), command("ls", &[])];
        let lines = ["ctrace exec --all", "ctrace ps"].map(str::to_owned).to_vec();
        assert_eq!(shown, [Shown::Transcript(transcript), Shown::Lines(lines), Shown::Other]);
    }

    #[test]
    fn a_shell_tells_the_words() -> Result<()> {
        let calls = invocations("sudo ctrace ssl -- a 'b  c' \"\"; ctrace ps | ctrace schema; nothing")?;
        assert!(calls.contains(&["ssl", "--", "a", "b  c", ""].map(str::to_owned).to_vec()), "{calls:?}");
        assert_eq!(calls.len(), 3, "{calls:?}");
        assert!(invocations("ctrace 'a").is_err());
        Ok(())
    }

    #[test]
    fn placeholders_are_filled() {
        let check = |words: &str, expected: &str| {
            let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
            assert_eq!(filled(&words).join(" "), expected);
        };
        check("… -o json", "ssl -o json");
        check("ssl --pid … -o json", "ssl --pid 1 -o json");
        check("ssl -- COMMAND ARGS…", "ssl -- true");
    }
}
