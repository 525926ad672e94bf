//! What is found by signature, against what symbols say, over whatever files this machine has: `cargo xtask
//! signatures`.
//!
//! Asks for its files in the environment; without them it looks at the machine's TLS libraries alone.
#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ctrace::elf::Object;
use ctrace::probe::tls::Confidence;
use ctrace::probe::tls::signature;
use ctrace::probe::tls::symbol_filter;

/// Files and directories, separated by `:`.
const VARIABLE: &str = "CTRACE_SIGNATURES";
const USUAL: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3:/usr/lib/x86_64-linux-gnu/libgnutls.so.30";
/// A search that takes longer is told.
const SLOW: Duration = Duration::from_secs(1);

fn files(path: &Path, seen: &mut HashSet<(u64, u64)>, found: &mut Vec<PathBuf>) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    if metadata.is_dir() {
        let Ok(entries) = fs::read_dir(path) else { return };
        let mut entries: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        entries.sort();
        for entry in entries {
            files(&entry, seen, found);
        }
    } else if let Ok(metadata) = fs::metadata(path)
        && metadata.is_file()
        && seen.insert((metadata.dev(), metadata.ino()))
    {
        found.push(path.to_owned());
    }
}

#[test]
fn no_sure_answer_where_symbols_say_otherwise() {
    let asked = std::env::var(VARIABLE).unwrap_or_else(|_| USUAL.to_owned());
    let (mut paths, mut seen) = (Vec::new(), HashSet::new());
    asked.split(':').for_each(|path| files(Path::new(path), &mut seen, &mut paths));
    let (mut objects, mut bytes, mut wrong) = (0, 0, Vec::new());
    let begun = Instant::now();
    for path in &paths {
        let Ok(file) = File::open(path) else { continue };
        let size = file.metadata().unwrap().len();
        let Ok(object) = Object::parse(file, size, &symbol_filter()) else { continue };
        objects += 1;
        bytes += size;
        let begun = Instant::now();
        let signature::Search { located, failed, .. } =
            signature::locate(&object, |_| true, std::iter::empty());
        let (path, took) = (path.display(), begun.elapsed());
        if took > SLOW {
            println!("{path}: {} MB in {took:?}", size >> 20);
        }
        for reason in failed {
            println!("{path}: {reason}");
        }
        for found in located {
            println!("{path}: {} {:?}: {} ({took:?})", found.implementation, found.certainty, found.why);
            for (name, symbol) in &found.functions {
                println!("    {name} {:#x}", symbol.address.0);
                let named = object.functions(name);
                let fits = named.is_empty() || named.iter().any(|named| named.address == symbol.address);
                if found.certainty == Confidence::High && !fits {
                    wrong.push(format!("{path}: {name} at {:#x}, not {named:x?}", symbol.address.0));
                }
            }
        }
    }
    println!("{objects} ELF files, {} MB, in {:?}", bytes >> 20, begun.elapsed());
    assert!(wrong.is_empty(), "{wrong:#?}");
}
