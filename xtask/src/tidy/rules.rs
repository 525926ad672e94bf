//! The design's rules that a program can check: a table, each row with its reason.
//!
//! Owns the table and the lists of exceptions. An exception is a line here, with its reason, and never a
//! switch.

use std::path::Path;

use anyhow::{Result, bail};

use super::sources::{Source, products, read_tree};
use crate::workspace;

/// A rule about one file.
struct Rule {
    name: &'static str,
    /// The reason, printed with each finding.
    why: &'static str,
    /// Returns line numbers, from 1, with what is wrong there.
    find: fn(&Source) -> Vec<(usize, String)>,
}

const RULES: [Rule; 9] = [
    Rule { name: "owner", why: "one owner per dependency", find: owner },
    Rule { name: "stdout", why: "standard output carries records only", find: stdout },
    Rule { name: "unsafe", why: "unsafe is opened in named files only", find: unsafe_file },
    Rule { name: "safety", why: "no unsafe without a sentence that proves it", find: safety },
    Rule { name: "allow", why: "expect with a reason warns when it is no longer needed", find: allow },
    Rule { name: "unfinished", why: "what is not done is not in the tree", find: unfinished },
    Rule { name: "module doc", why: "a module says what it owns and what it never does", find: module_doc },
    Rule { name: "width", why: "rustfmt wraps code, but neither comments nor documents", find: width },
    Rule { name: "signature", why: "a bool or a doer's name says too little", find: signature },
];

/// Crates that only one part of ctrace may name: each crate with its owners below `probe-user/src/`.
const OWNERS: [(&str, &[&str]); 33] = [
    ("aya", &["bpf"]),
    ("aya_log", &["bpf"]),
    ("aya_obj", &["bpf"]),
    ("perf_event", &["bpf"]),
    ("libc", &["bpf/sys.rs"]),
    ("clap", &["cli", "main.rs"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
    ("bollard", &["container/runtime"]),
    ("nix", &["app/child", "output/signal_names"]),
    // `protocol` has a module of this name, and uses the crate's types with those of h2, as an oracle in
    // tests.
    ("http", &["container/runtime", "protocol"]),
    ("hyper", &["container/runtime"]),
    ("hyper_util", &["container/runtime"]),
    // The other is the encoder in tests of messages.
    ("prost", &["container/runtime", "protocol/content"]),
    ("tonic", &["container/runtime"]),
    ("tonic_prost", &["container/runtime"]),
    ("procfs", &["proc"]),
    ("aho_corasick", &["elf"]),
    ("crc32fast", &["elf"]),
    ("gimli", &["elf"]),
    ("iced_x86", &["elf"]),
    ("object", &["elf"]),
    ("cpp_demangle", &["elf"]),
    ("rustc_demangle", &["elf"]),
    ("brotli_decompressor", &["protocol/content"]),
    ("encoding_rs", &["protocol/content"]),
    ("flate2", &["protocol"]),
    ("ruzstd", &["protocol/content"]),
    ("prost_reflect", &["protocol/content"]),
    ("protox", &["app/proto_files", "protocol/content/protobuf/tests"]),
    ("tls_parser", &["protocol/tls"]),
    ("serde_ignored", &["output"]),
    ("serde_json", &["output", "container/runtime", "protocol/grpc", "protocol/content/protobuf/tests"]),
];

/// Files that may hold unsafe code.
const UNSAFE: [&str; 7] = [
    "probe-ebpf/src/mem.rs",
    "probe-user/src/app/stop.rs",
    "probe-user/src/bpf/sys.rs",
    "probe-user/src/bpf/tracepoint_format.rs",
    "probe-user/src/bpf/pod.rs",
    "probe-user/src/bpf/ring.rs",
    "probe-user/src/output/json/payload_string/vectors.rs",
];

/// Words that mark unfinished work.
const UNFINISHED: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
    concat!("to", "do!("),
    concat!("unimpl", "emented!("),
];
/// Equals `max_width` in rustfmt.toml.
const MAX_WIDTH: usize = 110;
/// Names for things that do something instead of being something.
const DOERS: [&str; 4] = ["Manager", "Helper", "Utils", "Util"];

/// Checks the whole tree.
pub(super) fn check_tree() -> Result<()> {
    let root = workspace::root();
    let mut findings: Vec<String> = read_tree(&root)?.iter().flat_map(check).collect();
    let product = |path| format!("{path}: product: it is no text (what is built is not in the tree)");
    findings.extend(products(&root)?.into_iter().map(product));
    if findings.is_empty() {
        return Ok(());
    }
    bail!("{} findings\n    {}", findings.len(), findings.join("\n    "))
}

fn check(source: &Source) -> Vec<String> {
    let of_rule = |rule: &Rule| -> Vec<String> {
        let found = (rule.find)(source).into_iter();
        found
            .map(|(line, what)| format!("{}:{line}: {}: {what} ({})", source.path, rule.name, rule.why))
            .collect()
    };
    RULES.iter().flat_map(of_rule).collect()
}

fn owner(source: &Source) -> Vec<(usize, String)> {
    let Some(path) = source.path.strip_prefix("probe-user/src/") else { return Vec::new() };
    let mut found = Vec::new();
    for (line, code) in source.code_without_tests() {
        for (krate, owners) in OWNERS {
            if !owners.iter().any(|owner| is_below(path, owner)) && names_crate(&code, krate) {
                found.push((line, format!("{krate} is named outside of {}", owners.join(", "))));
            }
        }
    }
    found
}

/// Whether a path is an owner's file or in its directory: `bpf.rs`, `bpf/mod.rs`.
fn is_below(path: &str, owner: &str) -> bool {
    path.strip_prefix(owner).is_some_and(|rest| rest.is_empty() || rest == ".rs" || rest.starts_with('/'))
}

/// Whether code begins a path with `krate::`, or has an attribute or import of the crate.
fn names_crate(code: &str, krate: &str) -> bool {
    let path = format!("{krate}::");
    code.match_indices(&path).any(|(at, _)| {
        let before = code.get(..at).unwrap_or_default();
        let own_path =
            before.ends_with("crate::") || before.ends_with("self::") || before.ends_with("super::");
        !own_path && !before.ends_with(|c: char| c.is_alphanumeric() || c == '_')
    })
}

fn stdout(source: &Source) -> Vec<(usize, String)> {
    let allowed = ["probe-user/src/cli", "probe-user/src/main.rs"];
    if !source.path.starts_with("probe-user/src/")
        || allowed.iter().any(|owner| is_below(&source.path, owner))
    {
        return Vec::new();
    }
    let prints = |code: &str| {
        let bare = code.replace("eprint", "");
        bare.contains("println!(") || bare.contains("print!(")
    };
    let lines = source.code_without_tests().filter(|(_, code)| prints(code));
    lines.map(|(line, _)| (line, "prints to standard output".to_owned())).collect()
}

/// Whether code opens something unsafe. `#[unsafe(…)]` and `unsafe_code` do not count.
fn opens_unsafe(code: &str) -> bool {
    ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe trait"]
        .iter()
        .any(|word| code.contains(word))
}

fn unsafe_file(source: &Source) -> Vec<(usize, String)> {
    if !source.is_rust() || UNSAFE.contains(&source.path.as_str()) {
        return Vec::new();
    }
    let lines = source.code().filter(|(_, code)| opens_unsafe(code));
    lines.map(|(line, _)| (line, "this file is not on the list".to_owned())).collect()
}

fn safety(source: &Source) -> Vec<(usize, String)> {
    if !source.is_rust() {
        return Vec::new();
    }
    let lines: Vec<&str> = source.text.lines().collect();
    let proved = |line: usize| {
        let own = lines.get(line - 1).is_some_and(|text| text.contains("SAFETY:"));
        let above = lines.get(..line - 1).unwrap_or_default().iter().rev();
        let mut comment = above.skip_while(|text| is_statements_begin(text)).take_while(|text| {
            let text = text.trim_start();
            text.starts_with("//") || text.starts_with("#[")
        });
        own || comment.any(|text| text.contains("SAFETY:") || text.contains("# Safety"))
    };
    let opened = source.code().filter(|(_, code)| opens_unsafe(code)).map(|(line, _)| line);
    opened
        .filter(|line| !proved(*line))
        .map(|line| (line, "no SAFETY sentence before it".to_owned()))
        .collect()
}

/// A line such as `let x =`, which rustfmt may leave between the comment and the block.
fn is_statements_begin(text: &str) -> bool {
    text.trim_end().ends_with('=')
}

fn allow(source: &Source) -> Vec<(usize, String)> {
    if !source.is_rust() {
        return Vec::new();
    }
    let lines = source.code().filter(|(_, code)| code.contains("#[allow(") || code.contains("#![allow("));
    lines.map(|(line, _)| (line, "an allow attribute".to_owned())).collect()
}

fn unfinished(source: &Source) -> Vec<(usize, String)> {
    let word = |text: &str| UNFINISHED.iter().find(|word| names_word(text, word)).copied();
    // The words of this table are string literals, and would be found in this very file.
    let lines = source.text.lines().enumerate().filter(|_| !source.path.ends_with("tidy/rules.rs"));
    lines.filter_map(|(index, text)| Some((index + 1, format!("says {}", word(text)?)))).collect()
}

fn names_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text.get(..at).unwrap_or_default();
        let after = text.get(at + word.len()..).unwrap_or_default();
        let part = |c: char| c.is_alphanumeric() || c == '_';
        !before.ends_with(part) && (word.ends_with('(') || !after.starts_with(part))
    })
}

fn module_doc(source: &Source) -> Vec<(usize, String)> {
    if !source.is_rust() || source.text.starts_with("//!") {
        return Vec::new();
    }
    vec![(1, "does not begin with //!".to_owned())]
}

/// Comments, and paragraphs of documents, that are wider than rustfmt allows code. Tables and code blocks in
/// documents are left out.
fn width(source: &Source) -> Vec<(usize, String)> {
    let is_document = Path::new(&source.path).extension().is_some_and(|extension| extension == "md");
    let mut is_fenced = false;
    let mut found = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        let start = line.trim_start();
        is_fenced ^= is_document && start.starts_with("```");
        let is_prose = if is_document {
            let is_code = is_fenced || start.starts_with("```") || line.starts_with("    ");
            !is_code && !start.starts_with('|')
        } else {
            source.is_rust() && start.starts_with("//")
        };
        let columns = line.chars().count();
        if is_prose && columns > MAX_WIDTH && start.contains(' ') {
            found.push((index + 1, format!("{columns} columns, at most {MAX_WIDTH}")));
        }
    }
    found
}

fn signature(source: &Source) -> Vec<(usize, String)> {
    if !source.is_rust() {
        return Vec::new();
    }
    let mut found = Vec::new();
    // From `fn` to the parenthesis that closes the parameters, which may be lines below.
    let mut open: Option<(usize, i32)> = None;
    for (line, code) in source.code_without_tests() {
        if let Some(word) = DOERS.iter().find(|doer| defines(&code, doer)) {
            found.push((line, format!("a type named …{word}")));
        }
        let at = code.find("fn ").filter(|_| open.is_none());
        let rest = at.map_or(code.as_str(), |at| code.get(at..).unwrap_or_default());
        if at.is_none() && open.is_none() {
            continue;
        }
        let (begin, mut depth) = open.unwrap_or((line, 0));
        let mut parameters = String::new();
        for c in rest.chars() {
            depth += match c {
                '(' => 1,
                ')' => -1,
                _ => 0,
            };
            parameters.push(c);
            if depth == 0 && c == ')' {
                break;
            }
        }
        // A conversion from bool must take one.
        let is_conversion = parameters.starts_with("fn from(");
        if !is_conversion && (parameters.contains(": bool,") || parameters.contains(": bool)")) {
            found.push((line, "a bool parameter".to_owned()));
        }
        open = (depth > 0).then_some((begin, depth));
    }
    found
}

/// Whether code defines a type or module whose name ends with `doer`.
fn defines(code: &str, doer: &str) -> bool {
    let mut words = code.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    let defined = words.any(|word| matches!(word, "struct" | "enum" | "trait" | "mod"));
    let name = words.find(|word| !word.is_empty()).unwrap_or_default();
    defined && (name.ends_with(doer) || name == doer.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of the rules that a file breaks, with the lines.
    fn broken(path: &str, text: &str) -> Vec<String> {
        let source = Source::new(path, &format!("//! Doc.\n{text}"));
        let of_rule = |rule: &Rule| -> Vec<String> {
            (rule.find)(&source).iter().map(|(line, _)| format!("{} {line}", rule.name)).collect()
        };
        RULES.iter().flat_map(of_rule).collect()
    }

    #[test]
    fn each_rule_finds_what_it_forbids_and_nothing_else() {
        let check = |path: &str, text: &str, expected: &[&str]| {
            assert_eq!(broken(path, text), expected, "{path}: {text}");
        };
        let user = "probe-user/src/plan.rs";
        check(user, "use aya::Ebpf;", &["owner 2"]);
        check("probe-user/src/bpf/loader.rs", "use aya::Ebpf;", &[]);
        check(user, "use crate::procfs::A;\nlet b = my_procfs::b();", &[]);
        check(user, "let v = serde_json::json!(1);", &["owner 2"]);
        check(user, "#[cfg(test)]\nmod tests { use serde_json::json; }", &[]);
        check(user, "use object::read::elf;", &["owner 2"]);
        check("tests/src/a.rs", "use bollard::Docker;", &[]);
        check(user, "println!(\"a\");", &["stdout 2"]);
        check(user, "eprintln!(\"a\");", &[]);
        check("probe-user/src/cli/schema.rs", "println!(\"a\");", &[]);
        check(user, "unsafe { f() }", &["unsafe 2", "safety 2"]);
        check(user, "#[unsafe(no_mangle)]\nlet s = \"unsafe {\";", &[]);
        check("probe-ebpf/src/mem.rs", "// SAFETY: it is so.\nlet a =\n    unsafe { f() };", &[]);
        check("probe-ebpf/src/mem.rs", "// Safe.\nunsafe { f() }", &["safety 3"]);
        check(user, "#[allow(dead_code)]", &["allow 2"]);
        check(user, &format!("// {}: later", concat!("TO", "DO")), &["unfinished 2"]);
        check("docs/a.md", "All that is done; a todo list.", &[]);
        check(user, "fn f(a: u8, b: bool) {}", &["signature 2"]);
        check(user, "fn f(\n    a: u8,\n    b: bool,\n) {}", &["signature 4"]);
        check(user, "fn from(yes: bool) -> Self {}", &[]);
        check(user, "fn f(a: u8) -> bool {}\nstruct A { b: bool }", &[]);
        check(user, "struct ProbeManager;", &["signature 2"]);
        let long = "word ".repeat(23);
        check(user, &format!("// {long}"), &["width 2"]);
        check(user, &format!("let a = \"{long}\";"), &[]);
        check("docs/a.md", &long, &["width 2"]);
        check("docs/a.md", &format!("| {long} |\n```\n{long}\n```\n    {long}"), &[]);
    }

    #[test]
    fn a_file_without_a_module_doc_is_found() {
        assert_eq!(module_doc(&Source::new("a.rs", "use a;")).len(), 1);
        assert_eq!(module_doc(&Source::new("a.md", "# A")).len(), 0);
    }

    #[test]
    fn exceptions_are_for_files_that_are_there() {
        let root = workspace::root();
        for path in &UNSAFE {
            assert!(root.join(path).is_file(), "{path}");
        }
        for (krate, owners) in OWNERS {
            for owner in owners {
                let path = root.join("probe-user/src").join(owner);
                assert!(path.exists() || path.with_extension("rs").exists(), "{krate}: {owner}");
            }
        }
    }

    #[test]
    fn rules_have_different_names() {
        let mut names: Vec<&str> = RULES.iter().map(|rule| rule.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), RULES.len());
    }
}
