//! PHP: the setting `opcache.huge_code_pages`, by `-d`, in php.ini or in a file of its scan directory (PHP's
//! manual, "The configuration file").
//!
//! PHP searches the directories that it was built with. These are texts in its file, which tells them from
//! those of other versions and of other programs (cli, fpm, apache2) that the same root has.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::contains;
use crate::proc::start_arguments::StartArguments;
use crate::rootfs::{ForeignFile, Mounts, TargetRoot};

/// A part of the names of all files with PHP: php8.2, php-fpm, libphp.so, frankenphp.
pub(super) const NAME: &str = "php";

/// A text in every file with PHP.
pub(super) const TEXT: &[u8] = b"PHP_INI_SCAN_DIR";
const SETTING: &[u8] = b"opcache.huge_code_pages";

/// Limits of the directories, of the files of one, and of a file's bytes.
const DIRECTORIES: usize = 64;
const FILES: usize = 128;
const BYTES: u64 = 256 * 1024;

/// Where builds of PHP have their configuration, besides directories below `/etc`.
const USUAL: [&str; 4] = ["/usr/local/etc/php", "/usr/local/lib", "/etc", "/opt/bitnami/php/etc"];

/// The setting by which a program is asked to copy its code, if it is PHP.
pub(super) fn request(
    started: &StartArguments,
    file: &ForeignFile,
    (root, mounts): (&TargetRoot, &Mounts),
) -> Option<String> {
    let name = file.name().file_name()?.to_string_lossy();
    if !name.contains(NAME) {
        return None;
    }
    let arguments: Vec<&[u8]> = started.arguments.iter().skip(1).map(Vec::as_slice).collect();
    let request = match given(&arguments) {
        Some(is_on) => is_on.then(|| "-d opcache.huge_code_pages=1".to_owned()),
        None => configured(started, file, &arguments, (root, mounts)),
    };
    request.filter(|_| contains(file, &[TEXT]).is_some_and(|found| found == [true]))
}

/// The last `-d` for the setting, and whether it switches it on.
fn given(arguments: &[&[u8]]) -> Option<bool> {
    let mut last = None;
    let mut following = arguments.iter().copied();
    while let Some(argument) = following.next() {
        let definition = match argument {
            b"-d" | b"--define" => following.next().unwrap_or_default(),
            _ => match argument.strip_prefix(b"--define=").or_else(|| argument.strip_prefix(b"-d")) {
                Some(definition) => definition,
                None => continue,
            },
        };
        last = setting(definition).or(last);
    }
    last
}

/// The value of an option with a value, such as `-c`.
fn option<'a>(arguments: &[&'a [u8]], short: &[u8]) -> Option<&'a [u8]> {
    let mut following = arguments.iter().copied();
    while let Some(argument) = following.next() {
        if argument == short {
            return following.next();
        }
        if let Some(value) = argument.strip_prefix(short).filter(|value| !value.is_empty()) {
            return Some(value);
        }
    }
    None
}

/// A file that switches the setting on, if none after it switches it off.
fn configured(
    started: &StartArguments,
    file: &ForeignFile,
    arguments: &[&[u8]],
    surroundings: (&TargetRoot, &Mounts),
) -> Option<String> {
    let root = surroundings.0;
    let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
    let named = [option(arguments, b"-c"), started.variable("PHPRC")];
    let named = named.into_iter().flatten().map(path);
    let scanned = started.variable("PHP_INI_SCAN_DIR").unwrap_or_default();
    let scanned = scanned.split(|byte| *byte == b':').filter(|one| !one.is_empty()).map(path);
    // What is named overrides what is built in, and files to scan come last.
    let mut directories = built_in(file, root);
    directories.extend(named.chain(scanned));
    let mut files = Vec::new();
    for directory in directories.iter().take(DIRECTORIES) {
        // It may also be the file itself.
        files.push(directory.clone());
        // php.ini itself comes before the files of the scan directories.
        for inside in [directory.clone(), directory.join("conf.d"), directory.join("php.d")] {
            let is_ini = |name: &OsStr| name.as_bytes().ends_with(b".ini");
            let mut inis = root.names(&inside, FILES, is_ini).unwrap_or_default();
            inis.sort();
            files.extend(inis.into_iter().map(|name| inside.join(name)));
        }
    }
    let mut last = None;
    for path in files {
        match read(&path, surroundings).as_deref().and_then(ini) {
            Some(true) => last = Some(path),
            Some(false) => last = None,
            None => {}
        }
    }
    last.map(|path| format!("opcache.huge_code_pages=1 in {}", path.display()))
}

/// The directories of configuration that the file was built with.
fn built_in(file: &ForeignFile, root: &TargetRoot) -> Vec<PathBuf> {
    let mut candidates: BTreeSet<PathBuf> = USUAL.iter().map(PathBuf::from).collect();
    let below = |directory: &Path| {
        let names =
            root.names(directory, DIRECTORIES, |name| name != "." && name != "..").unwrap_or_default();
        names.into_iter().map(|name| directory.join(name)).collect::<Vec<_>>()
    };
    let of_php = |name: &OsStr| name.as_bytes().starts_with(NAME.as_bytes());
    for name in root.names(Path::new("/etc"), DIRECTORIES, of_php).unwrap_or_default() {
        // `/etc/php81` of Alpine, `/etc/php/8.2/fpm` of Debian.
        let directory = Path::new("/etc").join(name);
        for version in below(&directory) {
            candidates.extend(below(&version));
        }
        candidates.insert(directory);
    }
    let candidates: Vec<PathBuf> = candidates.into_iter().take(FILES).collect();
    let texts: Vec<&[u8]> = candidates.iter().map(|path| path.as_os_str().as_bytes()).collect();
    let found = contains(file, &texts).unwrap_or_default();
    candidates.into_iter().zip(found).filter_map(|(path, is_there)| is_there.then_some(path)).collect()
}

fn read(path: &Path, (root, mounts): (&TargetRoot, &Mounts)) -> Option<Vec<u8>> {
    let (file, _) = root.open(path, mounts).ok()?;
    let mut bytes = Vec::new();
    file.file().ok()?.take(BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The last line for the setting in a file, and whether it switches it on.
pub(super) fn ini(text: &[u8]) -> Option<bool> {
    text.split(|byte| matches!(byte, b'\n' | b'\r')).filter_map(setting).next_back()
}

/// Whether `opcache.huge_code_pages=…` switches it on. Without a value it does. None for other settings.
fn setting(line: &[u8]) -> Option<bool> {
    let line = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let value = line.trim_ascii().strip_prefix(SETTING)?.trim_ascii_start();
    let Some(value) = value.strip_prefix(b"=") else { return value.is_empty().then_some(true) };
    let value = value.trim_ascii();
    let value =
        value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value).trim_ascii();
    let is_word = [&b"on"[..], b"yes", b"true"].iter().any(|word| value.eq_ignore_ascii_case(word));
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    Some(is_word || digits.into_iter().any(|digit| *digit != b'0'))
}
