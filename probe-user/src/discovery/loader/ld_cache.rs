//! `/etc/ld.so.cache`: the libraries that ldconfig(8) has found, by soname.
//!
//! Owns the parsing of glibc's format "1.1", which all versions since 2.2 read (sysdeps/generic/dl-cache.h).
//! The file is a target's, so no number in it is trusted, and no text is read that was not asked for.

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

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
/// The sizes of the header and of an entry.
const HEADER: usize = 48;
const ENTRY: usize = 24;
/// `FLAG_X8664_LIB64 | FLAG_ELF_LIBC6`: a library for x86-64 programs.
const X86_64: u32 = 0x0303;

/// The parsed file.
#[derive(Debug)]
pub(super) struct LdCache {
    /// From the header on. Offsets of texts are relative to its start.
    bytes: Vec<u8>,
    entries: usize,
}

impl LdCache {
    /// None if the file is in another format.
    pub(super) fn parse(mut bytes: Vec<u8>) -> Option<Self> {
        // The file may begin with a table in the older format.
        let start = memmem::find(&bytes, MAGIC)?;
        bytes.drain(..start);
        let entries = usize::try_from(word(&bytes, MAGIC.len())?).ok()?;
        Some(Self { bytes, entries: entries.min(MAX_ENTRIES) })
    }

    /// The paths of a library, in the order of the file.
    pub(super) fn paths(&self, name: &str) -> Vec<PathBuf> {
        let is_it = |key: usize| {
            let text = self.bytes.get(key..).unwrap_or_default();
            text.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
        };
        let entries = self.entries().filter(|(key, _)| is_it(*key));
        entries.filter_map(|(_, value)| self.text(value, MAX_PATH)).map(path).take(MAX_PATHS).collect()
    }

    /// The names for which `wanted` holds, at most `limit`.
    pub(super) fn names(&self, limit: usize, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let names = self.entries().filter_map(|(key, _)| std::str::from_utf8(self.text(key, MAX_NAME)?).ok());
        names.filter(|name| wanted(name)).take(limit).map(str::to_owned).collect()
    }

    /// The offsets of name and path of each entry for x86-64.
    fn entries(&self) -> impl Iterator<Item = (usize, usize)> {
        let entries = self.bytes.get(HEADER..).unwrap_or_default().chunks_exact(ENTRY).take(self.entries);
        entries.filter(|entry| word(entry, 0).is_some_and(|flags| flags & 0xffff == X86_64)).filter_map(
            |entry| {
                let offset = |at| usize::try_from(word(entry, at)?).ok();
                Some((offset(4)?, offset(8)?))
            },
        )
    }

    fn text(&self, offset: usize, limit: usize) -> Option<&[u8]> {
        let rest = self.bytes.get(offset..)?;
        let rest = rest.get(..limit).unwrap_or(rest);
        rest.get(..memchr(0, rest)?)
    }
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
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
            let cache = LdCache::parse(bytes).unwrap();
            let paths = cache.paths("libssl.so.3");
            assert_eq!(paths, [entries[0].2, entries[1].2].map(PathBuf::from));
            assert!(cache.paths("libssl").is_empty());
            assert_eq!(cache.names(9, |name| name.starts_with("libs")).len(), 3);
            assert_eq!(cache.names(1, |name| name.starts_with("libs")).len(), 1);
        }
    }

    #[test]
    fn damage_ends_in_less_and_never_in_a_panic() {
        assert!(LdCache::parse(b"something else".to_vec()).is_none());
        let whole = image(&[(X86_64, "libz.so.1", "/usr/lib/libz.so.1"); 3]);
        for length in 0..whole.len() {
            let cut = whole.get(..length).unwrap().to_vec();
            let found = LdCache::parse(cut).map(|cache| (cache.paths("libz.so.1"), cache.names(9, |_| true)));
            assert!(found.is_none_or(|(paths, names)| paths.len() <= 3 && names.len() <= 3));
        }
        let mut many = whole.clone();
        many.splice(MAGIC.len()..MAGIC.len() + 4, u32::MAX.to_le_bytes());
        assert_eq!(LdCache::parse(many).unwrap().paths("libz.so.1").len(), 3);
        let mut far = whole;
        far.splice(HEADER + 4..HEADER + 12, [0xff; 8]);
        assert_eq!(LdCache::parse(far).unwrap().paths("libz.so.1").len(), 2);
    }

    #[test]
    fn the_file_of_this_machine() {
        // Machines with musl have none.
        let Ok(bytes) = std::fs::read("/etc/ld.so.cache") else { return };
        let cache = LdCache::parse(bytes).unwrap();
        assert!(!cache.paths("libc.so.6").is_empty());
    }
}
