//! Why an object could not be used.

use std::io;

/// Why a file could not be read as an object. Whoever opened the file adds its path.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// It does not begin with the magic of ELF.
    #[error("not an ELF file")]
    NotElf,
    /// ELF of 32 bits.
    #[error("a 32-bit ELF file: not supported yet, only 64-bit x86-64 is")]
    Class32,
    /// ELF of big-endian byte order.
    #[error("a big-endian ELF file: not supported, only x86-64 is")]
    BigEndian,
    /// Another machine.
    #[error("an ELF file for {}: not supported yet, only x86-64 is", machine_name(*.0))]
    Machine(u16),
    /// Neither an executable nor a shared object: nothing that a process runs.
    #[error("an ELF file of type {0} (object file or core dump): it cannot be run, so nothing to probe")]
    NotLoadable(u16),
    /// A part lies beyond the end of the file.
    #[error("truncated: {what} ends at byte {end} of a file of {size}")]
    Truncated {
        /// Which part.
        what: &'static str,
        /// Where it should end.
        end: u64,
        /// Size of the file.
        size: u64,
    },
    /// The file contradicts itself.
    #[error("broken ELF file: {what}")]
    Broken {
        /// In which way.
        what: &'static str,
    },
    /// Larger than ctrace reads.
    #[error("{what} has {found} (bytes or entries), more than the {limit} that ctrace reads")]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// How much there is.
        found: u64,
        /// How much is read.
        limit: u64,
    },
    /// Not in an executable segment.
    #[error("address {address:#x} is not in an executable segment of the file")]
    NotCode {
        /// The address.
        address: u64,
    },
    /// The file was opened but cannot be read from: its descriptor could not be duplicated.
    #[error(
        "the opened file could not be used: its descriptor could not be duplicated; raise the limit (ulimit \
         -n)"
    )]
    Unusable(#[from] io::Error),
    /// The file could not be read.
    #[error("reading {what} at byte {offset} failed")]
    Read {
        /// Which part.
        what: &'static str,
        /// From where.
        offset: u64,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl ObjectError {
    /// Whether the file is well but not for ctrace (not ELF, another machine), as opposed to broken.
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
