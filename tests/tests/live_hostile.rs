//! Containers that try to mislead, block or deface ctrace. Needs root, BPF and Docker.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{
    Child, Ctrace, ImageTree, OutputLines, Server, TestContainer, TestImage, images, library, program,
    require_live,
};
use rustix::fs::{CWD, FileType, Mode, mknodat};

const MOVE: &[&str] = &["--up", "5,20000", "--down", "100000,1"];

fn libssl() -> Result<String> {
    let path = library(&program("tls-server")?, "libssl.so.3")?;
    Ok(path.to_str().context("path of libssl")?.to_owned())
}

/// The shared tree with libssl at another path.
fn moved(to: &str) -> Result<ImageTree> {
    let from = libssl()?;
    Ok(images::tls_tree()?.without(Path::new(&from)).file(Path::new(&from), to))
}

/// Checks that a trace of the container has both sides of a connection in it, and returns the library paths
/// in the records.
fn check_traced(server: &Server) -> Result<Vec<String>> {
    let ctrace = Ctrace::json(&["--container", server.container.name()])?;
    let client = server.client(MOVE)?;
    let transfers = [server.transfers(1)?, client].concat();
    let trace = ctrace.finish()?;
    trace.check_complete()?;
    trace.streams(|_| true)?.check(&transfers)?;
    Ok(trace.records()?.into_iter().map(|record| record.library.path).collect())
}

#[test]
fn a_path_with_a_space_and_a_newline() -> Result<()> {
    require_live()?;
    let image = TestImage::build("odd-path", &moved("/odd dir\nof libs/libssl.so.3")?)?;
    let docker = ["--env", "LD_LIBRARY_PATH=/odd dir\nof libs"];
    let server = Server::start_in(&image, "odd-path", &docker, &["/tls-server"])?;
    let paths = check_traced(&server)?;
    ensure!(paths.iter().all(|path| path == "/odd dir\nof libs/libssl.so.3"), "{:?}", paths.first());
    Ok(())
}

#[test]
fn a_path_with_an_escape_sequence_does_not_reach_the_terminal() -> Result<()> {
    require_live()?;
    let image = TestImage::build("escape-path", &moved("/lib\u{1b}[31m/libssl.so.3")?)?;
    let docker = ["--env", "LD_LIBRARY_PATH=/lib\u{1b}[31m"];
    let server = Server::start_in(&image, "escape-path", &docker, &["/tls-server"])?;
    let ctrace = Ctrace::start(&["ssl", "-vv", "--container", server.container.name()])?;
    server.client(MOVE)?;
    let trace = ctrace.finish()?;
    ensure!(!trace.stdout.contains(&0x1b) && !trace.stderr.contains('\u{1b}'), "{}", trace.stderr);
    Ok(())
}

#[test]
fn a_library_behind_a_link_that_climbs_out_of_the_root() -> Result<()> {
    require_live()?;
    let path = libssl()?;
    let tree = moved("/opt/real/libssl.so.3")?.symlink("../../../../../../../../opt/real/libssl.so.3", &path);
    let server = Server::start_in(&TestImage::build("climbing", &tree)?, "climbing", &[], &["/tls-server"])?;
    let paths = check_traced(&server)?;
    ensure!(paths.iter().all(|path| path == "/opt/real/libssl.so.3"), "{:?}", paths.first());
    Ok(())
}

/// After the server has mapped libssl, the path leads to something else. Only the mapping counts.
fn check_replaced(label: &str, replace: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    require_live()?;
    let server = Server::start(label, &[])?;
    let path = server.container.path(&libssl()?);
    fs::remove_file(&path)?;
    replace(&path)?;
    let ctrace = Ctrace::json(&["--container", server.container.name()])?;
    server.client_outside(MOVE)?;
    let trace = ctrace.finish()?;
    trace.check_complete()?;
    trace.streams(|_| true)?.check(&server.transfers(1)?)
}

#[test]
fn a_path_that_became_a_link_out_of_the_container() -> Result<()> {
    check_replaced("link-out", |path| Ok(symlink("/proc/1/root/usr/lib/x86_64-linux-gnu/libssl.so.3", path)?))
}

#[test]
fn a_path_that_became_a_fifo() -> Result<()> {
    check_replaced("fifo", |path| Ok(mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0)?))
}

#[test]
fn a_path_that_became_another_library() -> Result<()> {
    check_replaced("replaced", |path| {
        fs::copy(library(&program("tls-server")?, "libcrypto.so.3")?, path)?;
        Ok(())
    })
}

#[test]
fn a_path_that_became_a_directory() -> Result<()> {
    check_replaced("directory", |path| Ok(fs::create_dir(path)?))
}

/// Files that look like libraries only in the kernel's list of mappings.
const BAD: &[&str] =
    &["/tmp/text/libssl.so.3", "/tmp/cut/libssl.so.3", "/tmp/huge/libssl.so.3", "/tmp/gone/libssl.so.3"];

/// Starts a process in the container that maps them all.
fn map_bad_files(container: &TestContainer) -> Result<Child> {
    for path in BAD {
        fs::create_dir_all(container.path(path).parent().context("parent")?)?;
    }
    let [text, cut, huge, gone] =
        ["text", "cut", "huge", "gone"].map(|name| container.path(&format!("/tmp/{name}/libssl.so.3")));
    File::create(&text)?.write_all(&b"This is no library.\n".repeat(1000))?;
    for path in [&cut, &huge, &gone] {
        fs::copy(library(&program("tls-server")?, "libssl.so.3")?, path)?;
    }
    // A sparse file, which claims a size without using any space.
    File::options().write(true).open(&huge)?.set_len(1 << 40)?;
    let command = [&["exec", container.id(), "/mapper"], BAD].concat();
    let mut mapper = Child::start_with_stdout(
        std::process::Command::new("docker").args(command),
        std::process::Stdio::piped(),
    )?;
    let mut lines = OutputLines::of(mapper.take_stdout().context("no output")?);
    lines.wait("line \"mapped\"", std::time::Duration::from_secs(20), |line| line == "mapped")?;
    File::options().write(true).open(&cut)?.set_len(5000)?;
    fs::remove_file(&gone)?;
    mknodat(CWD, &gone, FileType::Fifo, Mode::RUSR, 0)?;
    Ok(mapper)
}

#[test]
fn mapped_files_that_are_no_libraries_are_named() -> Result<()> {
    require_live()?;
    let container = TestContainer::start(&images::tls()?, "bad-files", &[], &["/idle"])?;
    let _mapper = map_bad_files(&container)?;
    let trace = Ctrace::run_to_end(&[
        "ssl",
        "-v",
        "--limit",
        "1",
        "--duration",
        "1s",
        "--container",
        container.name(),
    ])?;
    for path in ["/tmp/text/libssl.so.3", "/tmp/cut/libssl.so.3"] {
        ensure!(trace.stderr.contains(path), "{path} is not in: {}", trace.stderr);
    }
    Ok(())
}

#[test]
fn mapped_files_that_are_no_libraries_do_not_hide_one() -> Result<()> {
    require_live()?;
    let server = Server::start("bad-beside", &[])?;
    let _mapper = map_bad_files(&server.container)?;
    check_traced(&server).map(drop)
}

#[test]
fn text_output_is_escaped() -> Result<()> {
    require_live()?;
    let server = Server::start("escapes", &[])?;
    let ctrace = Ctrace::start(&["ssl", "--container", server.container.name()])?;
    let payload = r"before\x1b[31mred\x1b]0;title\x07\x9b2J\x08\x0d\x7f after";
    server.client(&["--comm", r"x\x1b[2J\x07\x0ay", "--text", payload])?;
    server.client(&["--text", r"\xe2\x80\xae reversed \xc2\x9b2J plain text"])?;
    let trace = ctrace.finish()?;
    ensure!(trace.status.success(), "{}", trace.stderr);
    let text = String::from_utf8_lossy(&trace.stdout).into_owned();
    let control =
        |c: char| (c.is_control() && c != '\n' && c != '\t') || ('\u{202a}'..='\u{202e}').contains(&c);
    ensure!(!text.contains(control), "{text:?}");
    ensure!(!trace.stderr.contains('\u{1b}'), "{:?}", trace.stderr);
    for part in ["before", "plain text"] {
        ensure!(text.contains(part), "{part} is not in {text}");
    }
    Ok(())
}

#[test]
fn json_keeps_escape_sequences_as_they_are() -> Result<()> {
    require_live()?;
    let server = Server::start("json-escapes", &[])?;
    let ctrace = Ctrace::json(&["--container", server.container.name()])?;
    server.client(&["--comm", r"x\x1b[2J\x0ay", "--text", r"a\x1b[31mb\x00\xff"])?;
    let trace = ctrace.finish()?;
    ensure!(!trace.stdout.contains(&0x1b), "a raw escape in JSON");
    let records = trace.records()?;
    ensure!(records.iter().any(|record| record.process.comm == "x\u{1b}[2J\ny"), "no such comm");
    let expected = b"a\x1b[31mb\x00\xff";
    let found = records.iter().map(ctrace_tests::JsonRecord::payload).collect::<Result<Vec<_>>>()?;
    ensure!(found.iter().any(|payload| payload == expected), "no such payload");
    Ok(())
}
