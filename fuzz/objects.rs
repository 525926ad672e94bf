//! Fuzz target: whatever a file says, looking into it ends, takes little memory, and never panics.
//!
//! An input is a list of patches of a real program: most bytes of a program are of no interest, and a file of noise is
//! refused at its first bytes. Patches are told from places where tables begin, and the functions that the locators find,
//! so that short ones meet. Everything that a trace does with a file is done with it: all locators, the symbols, Go's
//! tables, USDT, and the functions by name.
#![no_main]

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;

use ctrace::object::Object;
use ctrace::probe::uprobe::{Mode, Pattern, Stacks, Uprobe};
use ctrace::probe::{Certainty, Found, Probe};
use libfuzzer_sys::fuzz_target;

/// Programs to patch, separated by `:`; `cargo xtask fuzz` says which.
const VARIABLE: &str = "CTRACE_FUZZ_BASES";
/// Bytes that one patch changes at the most.
const PATCH: u8 = 16;
/// Where tables are named in the header of an ELF file: of segments, and of sections.
const TABLES: [usize; 2] = [0x20, 0x28];
/// Bytes of a section's header, and where its file offset is in it.
const SECTION: (u64, u64) = (64, 24);

struct Base {
    file: File,
    size: u64,
    /// File offsets where something begins.
    anchors: Vec<u64>,
    bytes: Vec<u8>,
}

static BASES: OnceLock<Vec<Base>> = OnceLock::new();

fn bases() -> Vec<Base> {
    let paths = std::env::var(VARIABLE).unwrap_or_else(|_| panic!("{VARIABLE} names the programs to patch"));
    paths.split(':').map(|path| base(Path::new(path))).collect()
}

fn base(path: &Path) -> Base {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // In memory, and never run: it is the fuzzer's own copy.
    let name = format!("/dev/shm/ctrace-fuzz-{}", std::process::id());
    let mut file =
        File::options().create_new(true).read(true).write(true).open(&name).expect("a file in memory");
    std::fs::remove_file(&name).expect("to be removed");
    file.write_all(&bytes).expect("room in memory");
    let number = |at: u64| {
        let at = usize::try_from(at).ok()?;
        Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
    };
    let tables: Vec<u64> = TABLES.iter().filter_map(|at| number(*at as u64)).collect();
    let sections = *tables.last().unwrap_or(&0);
    let starts = (0..64).filter_map(|index| number(sections + index * SECTION.0 + SECTION.1));
    let mut anchors: Vec<u64> = tables.iter().copied().chain(starts).chain([0]).collect();
    let mut base = Base { size: bytes.len() as u64, file, anchors: Vec::new(), bytes };
    let found = look(&base, &Probe::Ssl(Certainty::Unsure));
    anchors.extend(found.iter().flat_map(|found| &found.hooks).map(|hook| hook.offset.0));
    anchors.retain(|anchor| *anchor < base.size);
    anchors.sort_unstable();
    anchors.dedup();
    base.anchors = anchors;
    base
}

fuzz_target!(|data: &[u8]| {
    let bases = BASES.get_or_init(bases);
    let Some((choice, mut patches)) = data.split_first() else { return };
    let base = &bases[usize::from(*choice) % bases.len()];
    let mut touched = Vec::new();
    // Anchor, distance from it, length, bytes.
    while let [anchor, low, high, length, rest @ ..] = patches {
        let anchor = base.anchors[usize::from(*anchor) % base.anchors.len()];
        let at = anchor + u64::from(u16::from_le_bytes([*low, *high]));
        let length = usize::from(length % PATCH + 1).min(rest.len());
        let (bytes, rest) = rest.split_at(length);
        if at + (length as u64) <= base.size {
            base.file.write_all_at(bytes, at).expect("to write in memory");
            touched.push((at, length));
        }
        patches = rest;
    }
    static PROBES: OnceLock<[Probe; 2]> = OnceLock::new();
    for probe in PROBES.get_or_init(|| [Probe::Ssl(Certainty::Unsure), every_function()]) {
        let _ = look(base, probe);
    }
    for (at, length) in touched {
        let from = usize::try_from(at).expect("a size in memory");
        base.file.write_all_at(&base.bytes[from..from + length], at).expect("to write in memory");
    }
});

/// What a trace does with a file. That something is wrong with it is an answer, too.
fn look(base: &Base, probe: &Probe) -> Option<Found> {
    let file = base.file.try_clone().expect("another descriptor");
    let object = Object::parse(file, base.size, &probe.wanted()).ok()?;
    probe.hooks(&object, Path::new("/program")).ok()
}

fn every_function() -> Probe {
    Probe::Uprobe(Uprobe {
        patterns: vec![Pattern::parse("*:*").expect("a pattern")],
        usdt: Vec::new(),
        mode: Mode::Latency,
        stacks: Stacks::Left,
        max_bytes: 64,
        max_probes: 64,
    })
}
