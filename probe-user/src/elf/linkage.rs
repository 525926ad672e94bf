//! What a loader needs to know of a file: its interpreter, the libraries that it names, and where they are
//! searched for.
//!
//! Reads neither symbols nor code, so it costs little even for a large file.

use std::fs::File;

use super::ObjectError;
use super::file::dynamic::{self, Dynamic};
use super::file::header::{ElfHeader, Segments};
use super::file::reader::Reader;

/// Length limit of the interpreter's path (`PATH_MAX`, as in `load_elf_binary` of fs/binfmt_elf.c).
const MAX_INTERPRETER: u64 = 4096;

/// How a file is linked. Names and directories are as the file has them, with `$ORIGIN` and its like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Linkage {
    /// `PT_INTERP`: the loader that the kernel starts for the program. None for a library or a static
    /// program.
    pub interpreter: Option<String>,
    /// `DT_SONAME`, which libraries have, and the loader itself.
    pub soname: Option<String>,
    /// `DT_NEEDED`, in order.
    pub needed: Vec<String>,
    /// `DT_RPATH`: directories, separated by colons.
    pub rpath: Option<String>,
    /// `DT_RUNPATH`: the same. If it is there, the loader ignores `DT_RPATH`.
    pub runpath: Option<String>,
}

impl Linkage {
    /// Whether it is a program, and neither a library nor a loader.
    pub fn is_program(&self) -> bool {
        self.interpreter.is_some() || self.soname.is_none()
    }

    /// Reads the headers and the dynamic table of `file`, which has `size` bytes.
    pub fn read(file: File, size: u64) -> Result<Self, ObjectError> {
        let reader = Reader::new(file, size);
        let segments = Segments::read(&reader, &ElfHeader::read(&reader)?)?;
        let interpreter = match segments.interpreter {
            Some(extent) => dynamic::string(&reader, extent.head(MAX_INTERPRETER))?,
            None => None,
        };
        let Dynamic { soname, needed, rpath, runpath, .. } = Dynamic::read(&reader, &segments)?;
        Ok(Self { interpreter, soname, needed, rpath, runpath })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn the_linkage_of_this_program() {
        let file = File::open("/proc/self/exe").unwrap();
        let size = file.metadata().unwrap().len();
        let linkage = Linkage::read(file, size).unwrap();
        assert!(linkage.interpreter.is_some_and(|path| path.contains("/ld-")), "built for glibc or musl");
        assert!(linkage.needed.iter().any(|name| name.starts_with("libc.")), "{:?}", linkage.needed);
    }

    #[test]
    fn a_text_has_none() {
        let file = File::open("/proc/self/status").unwrap();
        assert!(Linkage::read(file, 64).unwrap_err().is_foreign());
    }
}
