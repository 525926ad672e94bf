//! Errors of reading an object.

use std::io;

/// Why a file could not be read as an object. Whoever opened the file adds its path.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The file does not begin with the ELF magic.
    #[error("not an ELF file")]
    NotElf,
    /// A 32-bit ELF file.
    #[error("a 32-bit ELF file: not supported yet, only 64-bit x86-64 is")]
    Class32,
    /// A big-endian ELF file.
    #[error("a big-endian ELF file: not supported, only x86-64 is")]
    BigEndian,
    /// An ELF file for another machine.
    #[error("an ELF file for {}: not supported yet, only x86-64 is", machine_name(*.0))]
    Machine(u16),
    /// An object file or core dump: neither an executable nor a shared object, so no process runs it.
    #[error("an ELF file of type {0} (object file or core dump): it cannot be run, so nothing to probe")]
    NotLoadable(u16),
    /// A part of the file lies beyond its end.
    #[error("truncated: {what} ends at byte {end} of a file of {size}")]
    Truncated {
        /// The part of the file.
        what: &'static str,
        /// The offset at which it should end.
        end: u64,
        /// The size of the file.
        size: u64,
    },
    /// The file contradicts itself.
    #[error("broken ELF file: {what}")]
    Broken {
        /// The contradiction.
        what: &'static str,
    },
    /// A part is larger than ctrace is willing to read.
    #[error("{what} has {found} (bytes or entries), more than the {limit} that ctrace reads")]
    TooLarge {
        /// The part of the file.
        what: &'static str,
        /// Its size, in bytes or entries.
        found: u64,
        /// The most that ctrace reads.
        limit: u64,
    },
    /// The address is not in an executable segment.
    #[error("address {address:#x} is not in an executable segment of the file")]
    NotCode {
        /// The address that was asked for.
        address: u64,
    },
    /// The file was opened, but its descriptor could not be duplicated, so it cannot be read.
    #[error(
        "the opened file could not be used: its descriptor could not be duplicated; raise the limit (ulimit \
         -n)"
    )]
    Unusable(#[from] io::Error),
    /// A read failed.
    #[error("reading {what} at byte {offset} failed")]
    Read {
        /// The part of the file.
        what: &'static str,
        /// The offset of the read.
        offset: u64,
        /// The error of the system call.
        #[source]
        source: io::Error,
    },
}

impl ObjectError {
    /// Whether the file is intact but not for ctrace (not ELF, another machine), as opposed to broken.
    pub const fn is_foreign(&self) -> bool {
        matches!(
            self,
            Self::NotElf | Self::Class32 | Self::BigEndian | Self::Machine(_) | Self::NotLoadable(_)
        )
    }
}

fn machine_name(machine: u16) -> String {
    match machine {
        object::elf::EM_AARCH64 => "aarch64".to_owned(),
        object::elf::EM_RISCV => "riscv".to_owned(),
        object::elf::EM_PPC64 => "ppc64".to_owned(),
        object::elf::EM_S390 => "s390".to_owned(),
        other => format!("machine {other}"),
    }
}
