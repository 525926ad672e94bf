//! What ctrace does in the process that it starts from its own executable, and that becomes the user's
//! command.
//!
//! Runs before anything else in the program: there are no threads, no event loop and no log. Never reads
//! standard input.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use nix::unistd::{Gid, Uid, initgroups, setgid, setgroups, setuid};
use rustix::process::getppid;

use crate::proc::passwd::{self, User};
use crate::stderr::say;

/// The name (`argv[0]`) of a process that will become the command.
pub(in crate::app) const LAUNCHER_NAME: &str = "ctrace-launch";

/// The shell that is meant if passwd(5) has an empty one.
const DEFAULT_SHELL: &str = "/bin/sh";

/// The exit statuses that shells use.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// For a command that was never started: 128 + SIGINT, as Ctrl-C is the usual reason.
const NOT_BEGUN: u8 = 130;

/// Runs as the helper that the process was started as. None if a user has started it.
pub fn run_helper(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    if arguments.next()? != LAUNCHER_NAME {
        return None;
    }
    let gate = arguments.next().and_then(|gate| StartBarrier::open(gate.to_str()?));
    Some(ExitCode::from(gate.map_or(NOT_BEGUN, |gate| launch(gate, arguments))))
}

/// The read end of a pipe whose write end ctrace holds.
struct StartBarrier(File);

impl StartBarrier {
    /// Opens the pipe through ctrace's file descriptor instead of inheriting it, so that the command does not
    /// inherit it either.
    fn open(name: &str) -> Option<Self> {
        let parent = getppid()?;
        let descriptor: u32 = name.parse().ok()?;
        let file = File::open(format!("/proc/{parent}/fd/{descriptor}")).ok()?;
        // The parent may have ended, and its id may have been reused.
        (getppid() == Some(parent)).then_some(Self(file))
    }

    /// Waits for the signal from ctrace. Returns false if ctrace has ended.
    fn wait(mut self) -> bool {
        loop {
            match self.0.read(&mut [0]) {
                Ok(count) => return count > 0,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}

/// Becomes the command when ctrace signals it to.
fn launch(gate: StartBarrier, mut words: impl Iterator<Item = OsString>) -> u8 {
    let Some(program) = words.next() else { return NOT_FOUND };
    let mut command = Command::new(&program);
    command.args(words);
    if let Some(user) = Invoker::find() {
        if let Err(error) = user.become_it() {
            say(&format_args!(
                "ctrace: the command cannot run as user {} who called sudo: {error}; to run it as root, \
                 unset SUDO_UID",
                user.uid
            ));
            return NOT_EXECUTABLE;
        }
        command.envs(user.environment());
    }
    if !gate.wait() {
        return NOT_BEGUN;
    }
    // `exec` also resets SIGPIPE to its default action, which this program ignores.
    let error = command.exec();
    let program = program.to_string_lossy();
    if error.kind() == io::ErrorKind::NotFound {
        let where_to =
            if program.contains('/') { "name a file that exists" } else { "name a command in PATH" };
        say(&format_args!(
            "ctrace: the command {program:?} is not there, or its interpreter is not: {where_to}"
        ));
        return NOT_FOUND;
    }
    say(&format_args!(
        "ctrace: the command {program:?} cannot be executed: {error}; is it an executable file?"
    ));
    NOT_EXECUTABLE
}

/// The user who called sudo.
struct Invoker {
    uid: Uid,
    gid: Option<Gid>,
    user: Option<User>,
}

impl Invoker {
    /// None if ctrace was not started through sudo, or if root called sudo.
    fn find() -> Option<Self> {
        let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
        if !Uid::effective().is_root() {
            return None;
        }
        let uid = number("SUDO_UID").filter(|uid| *uid != 0)?;
        let user = passwd::user(uid);
        Some(Self { uid: Uid::from_raw(uid), gid: number("SUDO_GID").map(Gid::from_raw), user })
    }

    /// Drops root for good. Groups first, because only root may set them.
    fn become_it(&self) -> io::Result<()> {
        let gid = self.gid.or_else(|| Some(Gid::from_raw(self.user.as_ref()?.gid)));
        let gid = gid.ok_or_else(|| io::Error::other("neither SUDO_GID nor /etc/passwd has its group"))?;
        match &self.user {
            Some(user) => initgroups(&CString::new(user.name.as_bytes())?, gid)?,
            None => setgroups(&[gid])?,
        }
        setgid(gid)?;
        setuid(self.uid)?;
        Ok(())
    }

    /// The variables that sudo had set for root.
    fn environment(&self) -> Vec<(&'static str, OsString)> {
        let Some(user) = &self.user else { return Vec::new() };
        vec![
            ("HOME", user.home.clone()),
            ("SHELL", if user.shell.is_empty() { DEFAULT_SHELL.into() } else { user.shell.clone() }),
            ("USER", user.name.clone()),
            ("LOGNAME", user.name.clone()),
        ]
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_user_starts_no_part() {
        for words in [&[][..], &["ctrace"], &["ctrace", "ssl"], &["/usr/bin/ctrace-launch", "3", "true"]] {
            assert!(run_helper(words.iter().map(Into::into)).is_none(), "{words:?}");
        }
    }

    #[test]
    fn a_pipe_that_is_not_there_is_no_gate() {
        for name in ["", "-1", "x", "4294967295", "../self/fd/0"] {
            assert!(StartBarrier::open(name).is_none(), "{name:?}");
        }
    }

    #[test]
    fn the_end_of_the_pipe_is_not_a_word() {
        let (reader, mut writer) = io::pipe().unwrap();
        io::Write::write_all(&mut writer, b"\n").unwrap();
        assert!(StartBarrier(File::from(std::os::fd::OwnedFd::from(reader))).wait());
        let (reader, writer) = io::pipe().unwrap();
        drop(writer);
        assert!(!StartBarrier(File::from(std::os::fd::OwnedFd::from(reader))).wait());
    }
}
