//! Where a loader searches for a library: lists of directories, and what stands for others in them.
//!
//! Pure: opens nothing. The rules are those of ld.so(8), and of musl's ldso/dynlink.c.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Limit of the directories in one list.
const MAX_DIRECTORIES: usize = 256;
/// Length limit of a directory (`PATH_MAX`): no longer path can be opened.
const MAX_PATH: usize = 4096;

/// Directories that no loader searches by itself, but where many images have libraries: those that were built
/// in the image, or that come with a language's distribution.
pub(super) const LOCAL: [&str; 4] =
    ["/usr/local/lib", "/usr/local/lib64", "/usr/local/lib/x86_64-linux-gnu", "/opt/conda/lib"];

/// A loader, by the path of the interpreter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LoaderKind {
    /// That of glibc.
    Glibc,
    /// That of musl, with the file that lists its directories.
    Musl {
        /// Such as `/etc/ld-musl-x86_64.path`, relative to the directory above the loader's.
        path_file: PathBuf,
    },
}

impl LoaderKind {
    pub(super) fn of(interpreter: &str) -> Self {
        let path = Path::new(interpreter);
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        match name.strip_prefix("ld-musl-").and_then(|rest| rest.split('.').next()) {
            Some(machine) => {
                let above = path.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
                Self::Musl { path_file: above.join(format!("etc/ld-musl-{machine}.path")) }
            }
            None => Self::Glibc,
        }
    }

    /// The directories that are searched last.
    pub(super) fn default_directories(&self) -> &'static [&'static str] {
        match self {
            // Debian and its relatives have the first two, the others the next two.
            Self::Glibc => &[
                "/lib/x86_64-linux-gnu",
                "/usr/lib/x86_64-linux-gnu",
                "/lib64",
                "/usr/lib64",
                "/lib",
                "/usr/lib",
            ],
            Self::Musl { .. } => &["/lib", "/usr/local/lib", "/usr/lib"],
        }
    }

    /// The subdirectories of a directory that may have a build for this processor, the best first, and the
    /// directory itself.
    pub(super) fn subdirectories(&self) -> &'static [&'static str] {
        match self {
            Self::Glibc => {
                &["glibc-hwcaps/x86-64-v4", "glibc-hwcaps/x86-64-v3", "glibc-hwcaps/x86-64-v2", ""]
            }
            Self::Musl { .. } => &[""],
        }
    }
}

/// The directories of a list such as `LD_LIBRARY_PATH`, `DT_RUNPATH` or musl's file. `origin` is the
/// directory of the file that has the list. What is relative, or empty, is below `working`. What is too long
/// is left out.
pub fn directories(list: &OsStr, origin: &Path, working: Option<&Path>) -> Vec<PathBuf> {
    let entries = list.as_bytes().split(|byte| matches!(byte, b':' | b';' | b'\n')).take(MAX_DIRECTORIES);
    let mut found = Vec::new();
    for entry in entries {
        for expanded in expand(entry, origin) {
            let path = Path::new(OsStr::from_bytes(&expanded));
            let path = match working {
                _ if path.is_absolute() => path.to_owned(),
                Some(working) => working.join(path),
                None => continue,
            };
            if path.as_os_str().len() < MAX_PATH {
                found.push(path);
            }
        }
    }
    found
}

/// Replaces `$ORIGIN`, `$LIB` and `$PLATFORM`, also in braces. `$LIB` differs between distributions, so it
/// gives more than one.
fn expand(entry: &[u8], origin: &Path) -> Vec<Vec<u8>> {
    const LIB: [&[u8]; 3] = [b"lib/x86_64-linux-gnu", b"lib64", b"lib"];
    let with = |lib: &[u8]| {
        let origin = origin.as_os_str().as_bytes();
        let values = [(&b"ORIGIN"[..], origin), (b"LIB", lib), (b"PLATFORM", b"x86_64")];
        let (mut text, mut rest) = (Vec::new(), entry);
        while let Some((first, tail)) = rest.split_first().filter(|_| text.len() < MAX_PATH) {
            let variable = (*first == b'$').then(|| variable(tail, &values)).flatten();
            if let Some((value, after)) = variable {
                text.extend(value);
                rest = after;
            } else {
                text.push(*first);
                rest = tail;
            }
        }
        text
    };
    let mut all: Vec<Vec<u8>> = LIB.into_iter().map(with).collect();
    all.dedup();
    all
}

/// The value of the variable at the start of `text`, and what follows it.
fn variable<'a>(text: &'a [u8], values: &[(&[u8], &'a [u8])]) -> Option<(&'a [u8], &'a [u8])> {
    values.iter().find_map(|(name, value)| {
        let rest = match text.strip_prefix(b"{") {
            Some(braced) => braced.strip_prefix(*name)?.strip_prefix(b"}")?,
            None => text.strip_prefix(*name)?,
        };
        Some((*value, rest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaders_are_told_by_their_names() {
        let check = |interpreter: &str, path_file: Option<&str>| {
            let expected = match path_file {
                Some(path_file) => LoaderKind::Musl { path_file: path_file.into() },
                None => LoaderKind::Glibc,
            };
            assert_eq!(LoaderKind::of(interpreter), expected);
        };
        check("/lib64/ld-linux-x86-64.so.2", None);
        check("/lib/ld-musl-x86_64.so.1", Some("/etc/ld-musl-x86_64.path"));
        check("/opt/musl/lib/ld-musl-x86_64.so.1", Some("/opt/musl/etc/ld-musl-x86_64.path"));
        check("ld-musl-", Some("/etc/ld-musl-.path"));
        check("", None);
    }

    #[test]
    fn lists_are_expanded() {
        let check = |list: &str, expected: &[&str]| {
            let found = directories(OsStr::new(list), Path::new("/opt/app/bin"), Some(Path::new("/srv")));
            assert_eq!(found, expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{list}");
        };
        check("/a:/b;/c\n/d", &["/a", "/b", "/c", "/d"]);
        check("$ORIGIN/../lib", &["/opt/app/bin/../lib"]);
        check("${ORIGIN}:/x$ORIGIN", &["/opt/app/bin", "/x/opt/app/bin"]);
        check("/usr/$LIB", &["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"]);
        check("/a/$PLATFORM/$OTHER$", &["/a/x86_64/$OTHER$"]);
        check("", &["/srv/"]);
        check("lib", &["/srv/lib"]);
        assert!(directories(OsStr::new("lib"), Path::new("/"), None).is_empty());
        check(&"/long".repeat(MAX_PATH), &[]);
        check(&"/$ORIGIN".repeat(MAX_PATH), &[]);
    }
}
