//! Running other programs: what is shown, what is captured, what runs as root.
//!
//! Owns the environment of child processes. Never decides what to run.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::{env, iter};

use anyhow::{Context, Result, bail};

/// A command whose `PATH` includes cargo's directory of installed programs. rustup's proxies add it, other
/// cargos do not.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", search_path());
    command
}

/// The cargo that started this program.
pub(crate) fn cargo() -> Command {
    command(&env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
}

/// `PATH` with cargo's directory of installed programs and the system directories that an ordinary user's may
/// lack.
fn search_path() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = iter::once(cargo_home().join("bin"))
        .chain(env::split_paths(&path))
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    env::join_paths(dirs).unwrap_or(path)
}

/// Cargo's own directory.
pub(crate) fn cargo_home() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into()));
    env::var_os("CARGO_HOME").map_or_else(|| home().join(".cargo"), PathBuf::from)
}

/// The path of a program, if it is in `PATH`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&search_path()).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Prints a command, runs it with its output on the terminal, and fails if it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    println!("    $ {}", shown(command));
    let status = command.status().with_context(|| format!("cannot run `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Prints a command and runs it with its output in a file; if it fails, the end of that file is shown.
pub(crate) fn run_logged(command: &mut Command, log: &Path) -> Result<()> {
    println!("    $ {}", shown(command));
    let output = output(command.stdin(Stdio::null()))?;
    let text = [output.stdout, output.stderr].concat();
    std::fs::write(log, &text).with_context(|| format!("cannot write {}", log.display()))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&text);
        let skipped = text.lines().count().saturating_sub(20);
        let tail: Vec<&str> = text.lines().skip(skipped).collect();
        bail!("`{}` failed: {}\n{}", shown(command), output.status, tail.join("\n"));
    }
    Ok(())
}

/// The standard output of a command. If it fails, the error includes its standard error.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = output(command.stdin(Stdio::null()))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}: {}", shown(command), output.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a command succeeds, without showing anything.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    output(command.stdin(Stdio::null())).is_ok_and(|output| output.status.success())
}

fn output(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("cannot run `{}`", shown(command)))
}

/// A command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let variables = command.get_envs().filter(|(name, _)| *name != "PATH").filter_map(|(name, value)| {
        Some(format!("{}={}", name.to_string_lossy(), quoted(&value?.to_string_lossy())))
    });
    let program = command.get_program().to_string_lossy();
    let program =
        program.strip_prefix('/').and_then(|path| path.rsplit('/').next()).unwrap_or(&program).to_owned();
    let args = command.get_args().map(|arg| quoted(&arg.to_string_lossy()));
    variables.chain(iter::once(program)).chain(args).collect::<Vec<_>>().join(" ")
}

/// A word, quoted for a shell.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%$".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// How this user becomes root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RootAccess {
    /// The user is root.
    Root,
    /// With `sudo`, which may ask for a password.
    Sudo,
    /// Not at all: there is no sudo, or it would ask for a password and there is no terminal.
    None,
}

impl RootAccess {
    /// Detects it without asking the user anything.
    pub(crate) fn detect() -> Self {
        if rustix::process::geteuid().is_root() {
            Self::Root
        } else if find("sudo").is_none() {
            Self::None
        } else if rustix::termios::isatty(std::io::stdin()) || succeeds(command("sudo").args(["-n", "true"]))
        {
            Self::Sudo
        } else {
            Self::None
        }
    }

    /// A command that runs as root with the environment of this process and some more variables. If the user
    /// cannot become root it runs as the user, and fails where it needs more.
    pub(crate) fn command(self, program: &str, variables: &[(&str, &str)]) -> Command {
        match self {
            Self::Root | Self::None => {
                let mut command = command(program);
                command.envs(variables.iter().copied());
                command
            }
            Self::Sudo => {
                let mut command = command("sudo");
                // sudo replaces PATH even with -E, so it is passed on through env.
                let path = search_path();
                command.args(["-E", "env"]).arg(format!("PATH={}", path.to_string_lossy()));
                command.args(variables.iter().map(|(name, value)| format!("{name}={value}"))).arg(program);
                command
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let check = |command: &mut Command, expected| assert_eq!(shown(command), expected);
        check(Command::new("/usr/bin/cargo").args(["build", "-p", "x"]), "cargo build -p x");
        check(Command::new("echo").args(["a b", "it's", ""]), r"echo 'a b' 'it'\''s' ''");
        check(command("ls").env("A", "1 2"), "A='1 2' ls");
    }

    #[test]
    fn sudo_keeps_the_path_and_the_variables() {
        let command = RootAccess::Sudo.command("apt-get", &[("DEBIAN_FRONTEND", "noninteractive")]);
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        assert_eq!(command.get_program(), "sudo");
        assert_eq!(
            args.iter().map(|arg| arg.split('=').next()).collect::<Vec<_>>(),
            [Some("-E"), Some("env"), Some("PATH"), Some("DEBIAN_FRONTEND"), Some("apt-get")]
        );
    }
}
