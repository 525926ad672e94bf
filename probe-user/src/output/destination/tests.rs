//! What `--output` may name.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use rustix::fs::{CWD, FileType, mknodat};
use tempfile::TempDir;

use super::*;

/// A directory with a file that holds something and that everybody may read.
fn with_file() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    (directory, path)
}

fn fifo(directory: &TempDir) -> PathBuf {
    let path = directory.path().join("fifo");
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    path
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Opens as somebody who trusts the owner of this process's files.
fn open(path: &Path) -> Result<Option<Destination>, DestinationError> {
    Named { path, owners: &[geteuid().as_raw()] }.open()
}

impl Destination {
    fn into_claimed(self) -> File {
        self.claim().unwrap();
        self.into_file()
    }
}

/// That a path is refused, and the file of `with_file` is what it was.
fn check_refused(path: &Path, owners: &[u32], file: &Path, said: &str) {
    let error = Named { path, owners }.open().unwrap_err().to_string();
    assert!(error.contains(said) && error.contains("--output"), "{error}");
    assert!(error.contains(path.file_name().unwrap().to_str().unwrap()), "{error}");
    assert_eq!((fs::read(file).unwrap(), mode(file)), (b"old".to_vec(), 0o644), "{path:?}");
}

#[test]
fn a_file_is_its_owners_alone_before_it_is_empty() {
    let (_directory, path) = with_file();
    let destination = open(&path).unwrap().unwrap();
    assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"old".to_vec(), 0o644), "not before it is claimed");
    let mut file = destination.into_claimed();
    file.write_all(b"new").unwrap();
    assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"new".to_vec(), 0o600));
}

#[test]
fn a_new_file_is_its_owners_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new");
    open(&path).unwrap().unwrap().into_claimed().write_all(b"new").unwrap();
    assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"new".to_vec(), 0o600));
}

#[test]
fn a_file_of_somebody_else_is_left_as_it_is() {
    let (_directory, path) = with_file();
    let other = geteuid().as_raw() + 1;
    check_refused(&path, &[other], &path, &format!("belongs to user {}", geteuid().as_raw()));
    assert!(Named { path: &path, owners: &[other, geteuid().as_raw()] }.open().unwrap().is_some());
}

#[test]
fn a_fifo_of_somebody_else_gets_nothing() {
    let (directory, file) = with_file();
    let path = fifo(&directory);
    // Read or not.
    check_refused(&path, &[], &file, "belongs to user");
    let _reader = rustix::fs::open(&path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
    check_refused(&path, &[], &file, "belongs to user");
}

#[test]
fn links_are_not_followed() {
    let (directory, file) = with_file();
    let owners = [geteuid().as_raw()];
    let link = directory.path().join("link");
    symlink(&file, &link).unwrap();
    check_refused(&link, &owners, &file, "is a link");
    let dangling = directory.path().join("dangling");
    symlink(directory.path().join("not-there"), &dangling).unwrap();
    check_refused(&dangling, &owners, &file, "is a link");
    assert!(!directory.path().join("not-there").exists());
    let hard = directory.path().join("hard");
    fs::hard_link(&file, &hard).unwrap();
    check_refused(&hard, &owners, &file, "one of 2 names");
}

#[test]
fn what_takes_no_records_is_told() {
    let (directory, file) = with_file();
    let owners = [geteuid().as_raw()];
    check_refused(directory.path(), &owners, &file, "cannot open");
    check_refused(&directory.path().join("no/such"), &owners, &file, "cannot open");
    let socket = directory.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    check_refused(&socket, &owners, &file, "cannot open");
    let error = open(Path::new("/no\x1b[2J/\u{202e}file")).unwrap_err().to_string();
    assert!(!error.contains(['\x1b', '\u{202e}']) && error.contains("file"), "{error}");
}

#[test]
fn a_fifo_without_a_reader_is_not_waited_for() {
    let (directory, _) = with_file();
    let path = fifo(&directory);
    assert!(open(&path).unwrap().is_none());
    let reader = rustix::fs::open(&path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
    let mut file = open(&path).unwrap().unwrap().into_claimed();
    assert!(may_wait(&file).unwrap());
    assert_eq!(mode(&path), 0o644, "it is no file");
    file.write_all(b"new").unwrap();
    let mut read = [0; 3];
    File::from(reader).read_exact(&mut read).unwrap();
    assert_eq!(&read, b"new");
}

#[test]
fn devices_are_left_as_they_are() {
    let before = mode(Path::new("/dev/null"));
    let mut file = Destination::open(Path::new("/dev/null")).unwrap().unwrap().into_claimed();
    file.write_all(b"new").unwrap();
    assert!(!may_wait(&file).unwrap(), "it is never full");
    assert_eq!(mode(Path::new("/dev/null")), before);
}

#[test]
fn names_of_descriptors() {
    let check = |path: &str, expected| assert_eq!(descriptor(Path::new(path)), expected, "{path}");
    check("/dev/stdout", Some(1));
    check("/dev/stderr", Some(2));
    check("/dev/fd/63", Some(63));
    check("/proc/self/fd/3", Some(3));
    check("/dev//fd/./3", Some(3));
    check("/dev/fd/x", None);
    check("/dev/fd/-1", None);
    check("/dev/fd/+1", None);
    check("/dev/fd/4294967296", None);
    check("/dev/fd/3/x", None);
    check("/dev/fd", None);
    check("/dev/null", None);
    check("/proc/1/fd/1", None);
    check("out", None);
    check("/", None);
}

#[test]
fn descriptors_that_ctrace_was_started_with() {
    // As the shell leaves it: open after exec.
    let (mut reader, writer) = io::pipe().unwrap();
    let name = format!("/dev/fd/{}", writer.as_raw_fd());
    let refused = |name: &str| {
        let error = Destination::open(Path::new(name)).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("not open for writing"), "{error}");
    };
    refused(&name);
    rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty()).unwrap();
    let mut file = Destination::open(Path::new(&name)).unwrap().unwrap().into_claimed();
    file.write_all(b"new").unwrap();
    let mut read = [0; 3];
    reader.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"new");
    rustix::io::fcntl_setfd(&reader, rustix::io::FdFlags::empty()).unwrap();
    refused(&format!("/dev/fd/{}", reader.as_raw_fd()));
    refused("/dev/fd/999999");
}

#[test]
fn a_file_of_a_descriptor_is_written_to_where_it_is() {
    let (_directory, path) = with_file();
    let shells = fs::OpenOptions::new().append(true).open(&path).unwrap();
    rustix::io::fcntl_setfd(&shells, rustix::io::FdFlags::empty()).unwrap();
    let name = format!("/proc/self/fd/{}", shells.as_raw_fd());
    let mut file = Destination::open(Path::new(&name)).unwrap().unwrap().into_claimed();
    file.write_all(b" new").unwrap();
    assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"old new".to_vec(), 0o644));
}
