//! `/etc/ld.so.cache`: the libraries that ldconfig(8) has found, by soname.
//!
//! Owns the parsing of glibc's format "1.1", which all versions since 2.2 read (sysdeps/generic/dl-cache.h).
//! The file is a target's, so no number in it is trusted, and no text is read that was not asked for.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use memchr::{memchr, memmem};

/// Size limit of the file. A desktop's has about 200 KiB.
pub(super) const MAX_BYTES: u64 = 16 << 20;
/// Limit of the entries that are used. A desktop has about 4000.
const MAX_ENTRIES: usize = 1 << 16;
/// Limit of the paths for one name: a library may have builds for several processors.
const MAX_PATHS: usize = 8;
/// Limit of the length of a name, and of a path.
const MAX_NAME: usize = 255;
const MAX_PATH: usize = 4096;
/// Limit of all names and paths together. A desktop's are 300 KiB.
const MAX_TEXT: usize = 16 << 20;

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
/// The sizes of the header and of an entry.
const HEADER: usize = 48;
const ENTRY: usize = 24;
/// `FLAG_X8664_LIB64 | FLAG_ELF_LIBC6`: a library for x86-64 programs.
const X86_64: u32 = 0x0303;

/// The parsed file.
#[derive(Debug)]
pub struct LdCache {
    /// The paths of each library, in the order of the file.
    libraries: BTreeMap<String, Vec<PathBuf>>,
}

impl LdCache {
    /// None if the file is in another format.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        // The file may begin with a table in the older format.
        let bytes = bytes.get(memmem::find(bytes, MAGIC)?..)?;
        let count = usize::try_from(word(bytes, MAGIC.len())?).ok()?.min(MAX_ENTRIES);
        let mut libraries: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        let mut room = MAX_TEXT;
        for entry in bytes.get(HEADER..).unwrap_or_default().chunks_exact(ENTRY).take(count) {
            let Some((name, path)) = texts(bytes, entry) else { continue };
            // Entries may share a text, so that the result could be much larger than the file.
            let Some(rest) = room.checked_sub(name.len() + path.len()) else { break };
            room = rest;
            let paths = libraries.entry(name.to_owned()).or_default();
            if paths.len() < MAX_PATHS {
                paths.push(PathBuf::from(OsStr::from_bytes(path)));
            }
        }
        Some(Self { libraries })
    }

    /// The paths of a library, in the order of the file.
    pub fn paths(&self, name: &str) -> &[PathBuf] {
        self.libraries.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// The names for which `wanted` holds, at most `limit`.
    pub fn names(&self, limit: usize, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        self.libraries.keys().filter(|name| wanted(name)).take(limit).cloned().collect()
    }
}

/// The name and the path of an entry. None if it is for other programs, or damaged.
fn texts<'a>(bytes: &'a [u8], entry: &[u8]) -> Option<(&'a str, &'a [u8])> {
    if word(entry, 0)? & 0xffff != X86_64 {
        return None;
    }
    let text = |at, limit| {
        let rest = bytes.get(usize::try_from(word(entry, at)?).ok()?..)?;
        let rest = rest.get(..limit).unwrap_or(rest);
        rest.get(..memchr(0, rest)?)
    };
    Some((std::str::from_utf8(text(4, MAX_NAME)?).ok()?, text(8, MAX_PATH)?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}

#[cfg(test)]
pub(super) mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    /// A file with these entries: flags, name, path.
    pub(in crate::discovery::loader) fn image(entries: &[(u32, &str, &str)]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(u32::try_from(entries.len()).unwrap().to_le_bytes());
        bytes.resize(HEADER, 0);
        let mut texts = Vec::new();
        let begin = HEADER + entries.len() * ENTRY;
        let mut text = |text: &str| {
            let at = u32::try_from(begin + texts.len()).unwrap();
            texts.extend(text.bytes().chain([0]));
            at.to_le_bytes()
        };
        for (flags, name, path) in entries {
            bytes.extend(flags.to_le_bytes());
            bytes.extend(text(name));
            bytes.extend(text(path));
            bytes.extend([0; 12]);
        }
        bytes.extend(texts);
        bytes
    }

    #[test]
    fn libraries_are_found_by_name() {
        let entries = [
            (X86_64, "libssl.so.3", "/usr/lib/libssl.so.3"),
            (X86_64, "libssl.so.3", "/usr/lib/glibc-hwcaps/x86-64-v3/libssl.so.3"),
            (3, "libssl.so.3", "/usr/lib32/libssl.so.3"),
            (X86_64, "libssl.so", "/usr/lib/libssl.so"),
            (X86_64, "libz.so.1", "/usr/lib/libz.so.1"),
        ];
        let older = [b"ld.so-1.7.0\0".as_slice(), &[0; 20], &image(&entries)].concat();
        for bytes in [image(&entries), older] {
            let cache = LdCache::parse(&bytes).unwrap();
            let paths = cache.paths("libssl.so.3");
            assert_eq!(paths, [entries[0].2, entries[1].2].map(PathBuf::from));
            assert!(cache.paths("libssl").is_empty());
            assert_eq!(cache.names(9, |name| name.starts_with("libs")).len(), 2);
            assert_eq!(cache.names(1, |name| name.starts_with("libs")).len(), 1);
        }
    }

    #[test]
    fn damage_ends_in_less_and_never_in_a_panic() {
        assert!(LdCache::parse(b"something else").is_none());
        let whole = image(&[(X86_64, "libz.so.1", "/usr/lib/libz.so.1"); 3]);
        for length in 0..whole.len() {
            let Some(cache) = LdCache::parse(whole.get(..length).unwrap()) else { continue };
            assert!(cache.paths("libz.so.1").len() <= 3 && cache.names(9, |_| true).len() <= 1);
        }
        let mut many = whole.clone();
        many.splice(MAGIC.len()..MAGIC.len() + 4, u32::MAX.to_le_bytes());
        assert_eq!(LdCache::parse(&many).unwrap().paths("libz.so.1").len(), 3);
        let mut far = whole;
        far.splice(HEADER + 4..HEADER + 12, [0xff; 8]);
        assert_eq!(LdCache::parse(&far).unwrap().paths("libz.so.1").len(), 2);
    }

    #[test]
    fn the_file_of_this_machine() {
        // Machines with musl have none.
        let Ok(bytes) = std::fs::read("/etc/ld.so.cache") else { return };
        let cache = LdCache::parse(&bytes).unwrap();
        assert!(!cache.paths("libc.so.6").is_empty());
    }
}
