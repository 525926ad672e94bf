//! What decides where a dynamic loader searches, whatever a target has put there: `/etc/ld.so.cache`, the
//! environment of a program that starts, and lists of directories.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Result, ensure};
use ctrace::discovery::loader::{LdCache, directories};
use ctrace::proc::execve::{LoaderVariables, Memory};

/// What the file begins with.
const CACHE: &[u8] = b"glibc-ld.so.cache1.1";
/// Where the memory begins. An input has pointers into it at a few bytes' cost.
const BEGIN: u64 = 0x10;
/// Limits that the results must keep.
const MOST_NAMES: usize = 4;
const MOST_PATHS: usize = 8;
const LONGEST_PATH: usize = 4096;
const LONGEST_VARIABLE: usize = 65 * 1024;
const MOST_DIRECTORIES: usize = 3 * 256;

/// Reads an input, of which the first byte says what it is. A result beyond the limits is a finding.
pub fn run(input: &[u8]) -> Result<()> {
    let Some((kind, bytes)) = input.split_first() else { return Ok(()) };
    match kind % 3 {
        0 => cache(bytes),
        1 => environment(bytes),
        _ => list(bytes),
    }
}

fn cache(bytes: &[u8]) -> Result<()> {
    let Some(cache) = LdCache::parse(&[CACHE, bytes].concat()) else { return Ok(()) };
    let names = cache.names(MOST_NAMES, |_| true);
    ensure!(names.len() <= MOST_NAMES, "{names:?}");
    for name in names {
        let paths = cache.paths(&name);
        ensure!(paths.len() <= MOST_PATHS, "{name}: {paths:?}");
        ensure!(paths.iter().all(|path| path.as_os_str().len() <= LONGEST_PATH), "{name}: {paths:?}");
    }
    Ok(())
}

struct Image<'a>(&'a [u8]);

impl Memory for Image<'_> {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Option<usize> {
        let rest = self.0.get(usize::try_from(address.checked_sub(BEGIN)?).ok()?..)?;
        let length = rest.len().min(bytes.len());
        bytes.get_mut(..length)?.copy_from_slice(rest.get(..length)?);
        Some(length)
    }
}

fn environment(bytes: &[u8]) -> Result<()> {
    let mut found = LoaderVariables::default();
    found.read(&Image(bytes), BEGIN);
    for value in [found.library_path, found.preload].into_iter().flatten() {
        ensure!(value.len() <= LONGEST_VARIABLE, "a value of {} bytes", value.len());
    }
    Ok(())
}

fn list(bytes: &[u8]) -> Result<()> {
    let found = directories(OsStr::from_bytes(bytes), Path::new("/origin"), Some(Path::new("/working")));
    ensure!(found.len() <= MOST_DIRECTORIES, "{} directories", found.len());
    for directory in found {
        ensure!(directory.is_absolute(), "{} is relative", directory.display());
        ensure!(directory.as_os_str().len() <= LONGEST_PATH, "{} bytes", directory.as_os_str().len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_input_is_taken() -> Result<()> {
        for kind in 0..3 {
            run(&[kind])?;
            run(&[&[kind][..], &[0xff; 300]].concat())?;
            run(&[&[kind][..], b"$ORIGIN/$LIB:".repeat(2000).as_slice()].concat())?;
        }
        // The machine's own file, and memory with one variable.
        run(&[&[0][..], std::fs::read("/etc/ld.so.cache")?.get(CACHE.len()..).unwrap_or_default()].concat())?;
        run(b"\x01\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0LD_PRELOAD=x.so\0")
    }
}
