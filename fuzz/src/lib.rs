//! Fuzzing of file inspection: whatever a file contains, inspecting it must end, take little memory, and
//! never panic.
//!
//! An input is a list of patches to a real program, because most bytes of a program do not matter, and random
//! bytes are refused at the first check. Patch offsets are relative to the starts of tables and of the
//! functions that the locators find, so that short inputs reach them. Everything that a trace does with a
//! file is done: all locators, the symbols, Go's tables, and functions by name. The results are not checked;
//! it is enough that nothing goes wrong.

pub mod content;
pub mod loader;
pub mod protocols;
pub mod recordings;
pub mod schema;
pub mod streams;

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ctrace::elf::{Linkage, Object};
use ctrace::plan::return_probe::ReturnPolicy;
use ctrace::probe::Confidence;
use ctrace::probe::Probe;
use ctrace::probe::ProbeMatch;
use ctrace::probe::SslProbe;
use ctrace::probe::uprobe::Mode;
use ctrace::probe::uprobe::Pattern;
use ctrace::probe::uprobe::Stacks;
use ctrace::probe::uprobe::Uprobe;

/// The programs to patch, separated as in `PATH`; `cargo xtask fuzz` sets it.
const VARIABLE: &str = "CTRACE_FUZZ_PROGRAMS";
/// The directory of the copies, in memory.
const COPIES: &str = "/dev/shm";
/// Limit of the bytes that one patch changes.
const PATCH: u8 = 16;
/// The offsets of the tables' own offsets in the ELF header: program headers and section headers.
const TABLES: [u64; 2] = [0x20, 0x28];
/// Size of a section header, offset of the file offset in it, and how many section headers are used.
const SECTION: (u64, u64, u64) = (64, 24, 64);

/// The programs to patch, and the probes to run on them.
#[derive(Debug)]
pub struct ProgramCorpus {
    programs: Vec<Program>,
    probes: [Probe; 2],
}

#[derive(Debug)]
struct Program {
    bytes: Vec<u8>,
    copy: File,
    /// File offsets at which tables or functions start.
    anchors: Vec<u64>,
}

impl ProgramCorpus {
    /// Opens the programs that the environment variable lists. Fails if one cannot be read.
    pub fn from_environment() -> Result<Self> {
        let paths =
            env::var_os(VARIABLE).with_context(|| format!("{VARIABLE} names no programs to patch"))?;
        Self::open(&env::split_paths(&paths).collect::<Vec<_>>())
    }

    /// Opens the programs in these files. Fails if one cannot be read.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        ensure!(!paths.is_empty(), "there are no programs to patch");
        let ssl = Probe::Ssl(SslProbe { least: Confidence::Low, ..SslProbe::default() });
        let open = |path: &PathBuf| {
            Program::open(path, &ssl).with_context(|| format!("cannot patch {}", path.display()))
        };
        let programs = paths.iter().map(open).collect::<Result<_>>()?;
        Ok(Self { programs, probes: [ssl, every_function()?] })
    }

    /// Patches one of the programs as `input` says, inspects it, and restores it. The input is the index of a
    /// program, and for each patch the index of an anchor, the distance from it (two bytes), the length, and
    /// the bytes.
    pub fn look(&self, input: &[u8]) -> Result<()> {
        let Some((choice, mut patches)) = input.split_first() else { return Ok(()) };
        let program = cyclic(&self.programs, *choice).context("there are no programs")?;
        let mut changed = Vec::new();
        while let [anchor, low, high, length, rest @ ..] = patches {
            let (bytes, rest) = rest.split_at(usize::from(length % PATCH + 1).min(rest.len()));
            let anchor = cyclic(&program.anchors, *anchor).copied().unwrap_or_default();
            let at = anchor + u64::from(u16::from_le_bytes([*low, *high]));
            if let Some(original) = program.original(at, bytes.len()) {
                program.copy.write_all_at(bytes, at)?;
                changed.push((at, original));
            }
            patches = rest;
        }
        for probe in &self.probes {
            // An error is a valid result, too.
            let _ = program.look(probe);
        }
        for (at, original) in changed {
            program.copy.write_all_at(original, at)?;
        }
        Ok(())
    }
}

impl Program {
    fn open(path: &Path, ssl: &Probe) -> Result<Self> {
        let bytes = fs::read(path)?;
        let mut copy =
            tempfile::tempfile_in(COPIES).with_context(|| format!("cannot make a file in {COPIES}"))?;
        copy.write_all(&bytes)?;
        let mut program = Self { bytes, copy, anchors: Vec::new() };
        let [_, sections] = TABLES.map(|at| program.number(at).unwrap_or_default());
        let (size, offset, count) = SECTION;
        let begins =
            (0..count).filter_map(|index| program.number(sections.checked_add(index * size + offset)?));
        let tables = TABLES.into_iter().filter_map(|at| program.number(at));
        let functions = program.look(ssl);
        let functions = functions.iter().flat_map(|found| &found.hooks).map(|hook| hook.offset.0);
        let mut anchors: Vec<u64> = begins.chain(tables).chain(functions).chain([0]).collect();
        anchors.retain(|anchor| program.original(*anchor, 1).is_some());
        anchors.sort_unstable();
        anchors.dedup();
        program.anchors = anchors;
        Ok(program)
    }

    /// Does what a trace does with a file.
    fn look(&self, probe: &Probe) -> Option<ProbeMatch> {
        let copy = self.copy.try_clone().ok()?;
        // Before a program starts, its loader's part of it is read by itself.
        let _ = Linkage::read(copy.try_clone().ok()?, self.bytes.len() as u64);
        let object = Object::parse(copy, self.bytes.len() as u64, &probe.symbol_filter()).ok()?;
        probe.hooks(&object, Path::new("/program")).ok()
    }

    fn original(&self, at: u64, length: usize) -> Option<&[u8]> {
        self.bytes.get(usize::try_from(at).ok()?..)?.get(..length)
    }

    fn number(&self, at: u64) -> Option<u64> {
        Some(u64::from_le_bytes(self.original(at, 8)?.try_into().ok()?))
    }
}

/// An item, by an index that wraps around.
fn cyclic<T>(things: &[T], number: u8) -> Option<&T> {
    things.get(usize::from(number).checked_rem(things.len())?)
}

fn every_function() -> Result<Probe> {
    Ok(Probe::Uprobe(Uprobe {
        patterns: vec![Pattern::parse("*:*")?],
        usdt: Vec::new(),
        mode: Mode::Latency,
        returns: ReturnPolicy::Auto,
        stacks: Stacks::Left,
        max_bytes: 64,
        max_probes: 64,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patched_program_is_looked_at_and_whole_again() -> Result<()> {
        let programs = ProgramCorpus::open(&["/bin/sh".into()])?;
        let program = programs.programs.first().context("one was opened")?;
        assert!(program.anchors.contains(&0) && program.anchors.len() > 10, "{:?}", program.anchors);
        let content = || {
            let mut content = vec![0; program.bytes.len()];
            program.copy.read_exact_at(&mut content, 0).map(|()| content)
        };
        // The first bytes identify it as a program.
        program.copy.write_all_at(b"none", 0)?;
        assert!(program.look(&every_function()?).is_none());
        program.copy.write_all_at(program.original(0, 4).context("it is not empty")?, 0)?;
        assert!(program.look(&every_function()?).is_some());
        for input in
            [&b""[..], b"\0", b"\0\0\0\0\x03none", b"\x07\x01\x02\0\x0fsome bytes", b"\0\0\xff\xff\x01\0\0"]
        {
            programs.look(input)?;
            assert_eq!(content()?, program.bytes, "{input:?}");
        }
        Ok(())
    }
}
