//! The records of `ctrace exec`: programs, failed attempts, ends of processes, forks.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use super::{Plaintext, ProcessContext, Thread};

/// An execution: what tells two programs apart that ran under the same process id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecId {
    /// The process that executed it.
    pub pid: u32,
    /// When, in nanoseconds after boot; for a program that ran before it was watched, when its process began.
    pub time: u64,
}

impl fmt::Display for ExecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.pid, self.time)
    }
}

/// Who has forked a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ancestor {
    /// Its id in the initial PID namespace.
    pub pid: u32,
    /// Its name when it forked; none when it is not known.
    pub comm: Option<Vec<u8>>,
    /// What it ran when it forked.
    pub id: Option<ExecId>,
}

/// Whose record it is.
#[derive(Clone, Debug)]
pub struct ExecContext<'a> {
    /// When it happened.
    pub time: Timestamp,
    /// Process and container.
    pub origin: Cow<'a, ProcessContext>,
    /// The thread.
    pub thread: Thread,
    /// What the process runs.
    pub id: Option<ExecId>,
    /// Who has forked it.
    pub parent: Option<Cow<'a, Ancestor>>,
    /// How many of the programs that it comes from are known.
    pub depth: u32,
}

/// Users of a process, in the initial user namespace; what is not known is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessUsers {
    /// Real user id.
    pub real: Option<u32>,
    /// Effective user id.
    pub effective: Option<u32>,
    /// Real group id.
    pub group: Option<u32>,
}

/// Arguments, or an environment. The last one may be cut.
#[derive(Clone, Debug, Default)]
pub struct ArgList<'a> {
    /// As the program was given them, of any bytes but NUL.
    pub list: Vec<Plaintext<'a>>,
    /// How many the program was given; none when it is not known.
    pub count: Option<u64>,
    /// Whether some are missing, or the last one is cut: by a limit, a loss, or because they could not be
    /// read.
    pub truncated: bool,
}

/// A program was executed.
#[derive(Clone, Debug)]
pub struct Exec<'a> {
    /// Who.
    pub actor: ExecContext<'a>,
    /// Its users.
    pub users: ProcessUsers,
    /// The path as it was given; none when the program ran already.
    pub path: Option<Cow<'a, [u8]>>,
    /// The interpreter of a script, as the script names it.
    pub interpreter: Option<Cow<'a, [u8]>>,
    /// Its arguments.
    pub arguments: ArgList<'a>,
    /// Variables of its environment that were asked for; none if none were.
    pub environment: Option<ArgList<'a>>,
    /// Its working directory, inside its root.
    pub directory: Option<Cow<'a, [u8]>>,
    /// Its terminal, such as `pts/0`.
    pub tty: Option<Cow<'a, str>>,
    /// Whether it ran already when it came into scope: everything is as /proc told it then.
    pub existing: bool,
}

/// A program could not be executed.
#[derive(Clone, Debug)]
pub struct ExecFailed<'a> {
    /// Who.
    pub actor: ExecContext<'a>,
    /// Its users.
    pub users: ProcessUsers,
    /// The path as it was given; none when it could not be read.
    pub path: Option<Cow<'a, [u8]>>,
    /// The arguments.
    pub arguments: ArgList<'a>,
    /// Why not: a number of errno(3).
    pub error: i32,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// By itself.
    Code(u8),
    /// By a signal.
    Signal {
        /// Its number.
        number: u8,
        /// Whether its memory was dumped.
        dumped: bool,
    },
}

impl ExitStatus {
    /// Of a status as wait(2) has it.
    pub fn of_status(status: u32) -> Self {
        let [low, high, ..] = status.to_le_bytes();
        match low & 0x7f {
            0 => Self::Code(high),
            number => Self::Signal { number, dumped: low & 0x80 != 0 },
        }
    }
}

/// A process has ended.
#[derive(Clone, Debug)]
pub struct Exit<'a> {
    /// Which.
    pub actor: ExecContext<'a>,
    /// How; none when the kernel did not tell.
    pub ending: Option<ExitStatus>,
    /// How long it ran this program, or was there if it has executed none.
    pub duration: Option<Duration>,
    /// Whether it has executed no program itself.
    pub forked: bool,
}

/// A process has made another.
#[derive(Clone, Debug)]
pub struct Fork<'a> {
    /// The one that was there.
    pub actor: ExecContext<'a>,
    /// The new one's id in the initial PID namespace.
    pub child: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        assert_eq!(ExitStatus::of_status(0), ExitStatus::Code(0));
        assert_eq!(ExitStatus::of_status(3 << 8), ExitStatus::Code(3));
        assert_eq!(ExitStatus::of_status(0xff00), ExitStatus::Code(255));
        assert_eq!(ExitStatus::of_status(9), ExitStatus::Signal { number: 9, dumped: false });
        assert_eq!(ExitStatus::of_status(0x8b), ExitStatus::Signal { number: 11, dumped: true });
    }

    #[test]
    fn ids_name_the_process_and_the_time() {
        assert_eq!(ExecId { pid: 7, time: 12_345 }.to_string(), "7.12345");
    }
}
