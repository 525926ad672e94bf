//! What cannot be opened, and TLS of which only a part is understood, is told: once for each file, also if it
//! comes when the trace runs. Needs root, BPF, and a user's file system (FUSE).

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{count_lines, program, require_bpf, trace_shell};

/// The user and the group of nobody.
const NOBODY: u32 = 65534;
/// A command in namespaces of its user's own.
const IN_USER_NAMESPACE: &str = "unshare --user --map-root-user --mount";
/// A command as nobody.
const AS_NOBODY: &str = "setpriv --reuid=65534 --regid=65534 --clear-groups";

/// Which of several places is patched.
#[derive(Clone, Copy, Debug)]
enum Occurrence {
    All,
    Last,
}

/// A copy of a program in which one text is replaced by another one of its length.
fn patched(name: &str, to: &Path, (from, into): (&str, &str), which: Occurrence) -> Result<PathBuf> {
    ensure!(from.len() == into.len(), "{from} and {into} have different lengths");
    let mut bytes = fs::read(program(name)?)?;
    let mut places: Vec<usize> = bytes
        .windows(from.len())
        .enumerate()
        .filter(|(_, window)| *window == from.as_bytes())
        .map(|(place, _)| place)
        .collect();
    ensure!(places.len() > 1 || matches!(which, Occurrence::All) && !places.is_empty(), "{from}: {places:?}");
    if matches!(which, Occurrence::Last) {
        places.drain(..places.len() - 1);
    }
    for place in places {
        let place = bytes.get_mut(place..place + into.len()).context("no place")?;
        place.copy_from_slice(into.as_bytes());
    }
    let path = to.join(name);
    fs::write(&path, bytes)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// Runs a program twice while ctrace traces the shell that starts it, and checks that one line says why it is
/// not seen.
fn check(program: &Path, reason: &str) -> Result<()> {
    check_script(&format!("for i in 1 2; do sleep 1.5 | {}; done\n", program.display()), reason)
}

fn check_script(script: &str, reason: &str) -> Result<()> {
    let trace = trace_shell(&["ssl"], script)?;
    ensure!(trace.code() == Some(0), "{}", trace.stderr);
    ensure!(count_lines(&trace.stderr, reason) == 1, "not once: {reason}\n{}", trace.stderr);
    Ok(())
}

/// Runs a program twice in a file system (FUSE) that nobody's commands have mounted at `seen`, and checks
/// that ctrace says once that it could not open it. The commands create `visible` if root can.
fn check_fuse(commands: &str) -> Result<()> {
    require_bpf()?;
    let directory = tempfile::Builder::new().prefix("ctrace-fuse").tempdir_in("/tmp")?;
    let at = |name: &str| directory.path().join(name);
    for name in ["real", "seen"] {
        fs::create_dir(at(name))?;
    }
    fs::copy(program("half-tls")?, at("real/half-tls"))?;
    for path in [directory.path().to_owned(), at("real"), at("seen")] {
        chown(path, Some(NOBODY), Some(NOBODY))?;
    }
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    // Some machines keep the device for root, so nobody gets one in a mount namespace.
    let script = format!(
        "cd {} && mknod fuse c 10 229 && chmod 666 fuse && unshare --mount sh -c '
            mount --bind fuse /dev/fuse
            {commands}'\n",
        directory.path().display()
    );
    check_script(&script, "half-tls: could not be opened: Permission denied")?;
    ensure!(fs::read_to_string(at("said"))? == "ready\nready\n", "bindfs: `cargo xtask setup` installs it");
    ensure!(!at("visible").exists(), "root can read the file: this test shows nothing");
    Ok(())
}

/// It is in a file system of nobody's, which not even root may enter.
#[test]
fn a_file_that_only_its_user_may_open() -> Result<()> {
    check_fuse(&format!(
        "{AS_NOBODY} bindfs --no-allow-other real seen
        cat seen/half-tls > /dev/null && touch visible
        for i in 1 2; do sleep 1.5 | {AS_NOBODY} seen/half-tls >> said; done
        umount -l seen"
    ))
}

/// It is in a file system that was mounted in a user namespace, as rootless engines do. Everybody there may
/// open it, and nobody outside.
#[test]
fn a_file_of_a_user_namespace() -> Result<()> {
    check_fuse(&format!(
        "{AS_NOBODY} {IN_USER_NAMESPACE} sh -c \"
            bindfs -f -o allow_other real seen &
            sleep 1; echo \\$\\$ > inside
            for i in 1 2; do sleep 1.5 | seen/half-tls >> said; done
            kill \\$!; wait\" &
        while [ ! -s inside ]; do sleep 0.1; done
        cat /proc/$(cat inside)/root$PWD/seen/half-tls > /dev/null && touch visible
        wait"
    ))
}

/// Files that root may open are traced in any namespace.
#[test]
fn programs_in_a_user_namespace_are_traced() -> Result<()> {
    require_bpf()?;
    let programs = [program("tls-go")?, program("tls-gnutls")?];
    let runs = programs.map(|program| {
        format!(
            "{{ sleep 1.5; echo; }} | {AS_NOBODY} {IN_USER_NAMESPACE} {} --up 5 --down 7\n",
            program.display()
        )
    });
    let trace = trace_shell(&["ssl"], &runs.concat())?;
    trace.check_complete()?;
    for library in ["tls-go", "libgnutls.so.30"] {
        let records = trace.records()?;
        let lengths =
            records.iter().filter(|record| record.library.name == library).map(|record| record.call.length);
        // Each side reports what it moves.
        ensure!(lengths.sum::<u64>() == 2 * (5 + 7), "{library}: {}", trace.stderr);
    }
    Ok(())
}

/// A Go program with the function table of Go 1.2 to 1.15, which lists the functions that ctrace probes. It
/// is only mapped: Go itself would not find its way in such a table.
fn program_of_old_go(directory: &Path) -> Result<PathBuf> {
    const FUNCTIONS: [&str; 2] = ["crypto/tls.(*Conn).Write", "crypto/tls.(*Conn).Read"];
    let path = patched("tls-go", directory, ("go1.19", "go1.15"), Occurrence::All)?;
    let symbols = Command::new("nm").arg(&path).output()?;
    let symbols = String::from_utf8(symbols.stdout)?;
    let address = |name: &str| -> Result<u64> {
        let line = symbols.lines().find(|line| line.ends_with(&format!(" {name}"))).context("no symbol")?;
        Ok(u64::from_str_radix(line.split(' ').next().unwrap_or_default(), 16)?)
    };
    let (records, names) = (64_u64, 160_u32);
    let mut table = b"\xfb\xff\xff\xff\0\0\x01\x08".to_vec();
    table.extend(2_u64.to_le_bytes());
    for (number, name) in (0..).zip(FUNCTIONS) {
        table.extend([address(name)?, records + number * 48].map(u64::to_le_bytes).concat());
    }
    table.extend((address(FUNCTIONS[1])? + 1000).to_le_bytes());
    for (number, name) in (0..).zip(FUNCTIONS) {
        table.resize(usize::try_from(records + number * 48)?, 0);
        table.extend(address(name)?.to_le_bytes());
        table.extend((names + u32::try_from(number)? * 32).to_le_bytes());
    }
    for (number, name) in (0..).zip(FUNCTIONS) {
        table.resize(usize::try_from(names + number * 32)?, 0);
        table.extend(name.bytes());
    }
    table.push(0);
    let mut bytes = fs::read(&path)?;
    let magic = b"\xf0\xff\xff\xff\0\0\x01\x08";
    let begin = bytes.windows(magic.len()).position(|window| window == magic).context("no table")?;
    bytes.get_mut(begin..begin + table.len()).context("no room")?.copy_from_slice(&table);
    fs::write(&path, bytes)?;
    Ok(path)
}

#[test]
fn go_that_is_too_old() -> Result<()> {
    require_bpf()?;
    let directory = tempfile::tempdir()?;
    let (old, mapper) = (program_of_old_go(directory.path())?, program("mapper")?);
    let (old, mapper) = (old.display(), mapper.display());
    let script = format!("for i in 1 2; do {mapper} {old} & sleep 1.5; kill $!; done; true\n");
    check_script(&script, "its arguments are on the stack (Go 1.16 or older)")
}

#[test]
fn functions_that_are_not_certain() -> Result<()> {
    require_bpf()?;
    let directory = tempfile::tempdir()?;
    let texts = ("ssl_write_internal\0", "ssl_write_interna1\0");
    let doubtful = patched("tls-openssl-stripped", directory.path(), texts, Occurrence::All)?;
    check(&doubtful, "--guess attaches anyway")
}

#[test]
fn a_version_of_rustls_whose_functions_are_not_found() -> Result<()> {
    require_bpf()?;
    let directory = tempfile::tempdir()?;
    let bytes = fs::read(program("tls-rustls")?)?;
    let begin = b"/rustls-0.";
    let path = bytes.windows(40).find(|window| window.starts_with(begin)).context("no path of rustls")?;
    let path = String::from_utf8_lossy(path).into_owned();
    let version = path.trim_start_matches("/rustls-").split('/').next().context("no version")?;
    // One of its paths is of another version, as if another crate had brought that.
    let (own, other) =
        (format!("/rustls-{version}/src/"), format!("/rustls-{}/src/", version.replacen("0.23", "0.24", 1)));
    let two = patched("tls-rustls", directory.path(), (&own, &other), Occurrence::Last)?;
    check(&two, "it contains 2 versions of rustls")
}
