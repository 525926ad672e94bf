//! The records of `ctrace exec`: programs, failed executions, exits, forks.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use super::Plaintext;

/// The identity of an execution. It distinguishes programs that ran under the same process id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecId {
    /// The process that executed it.
    pub pid: u32,
    /// The time of the execution in nanoseconds after boot. If the program was running before it was traced,
    /// the start of its process.
    pub time: u64,
}

impl fmt::Display for ExecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.pid, self.time)
    }
}

/// The process that has forked another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ancestor {
    /// Its id in the initial PID namespace.
    pub pid: u32,
    /// Its name at the fork. None if it is unknown.
    pub comm: Option<Vec<u8>>,
    /// What it ran at the fork. None if it is unknown.
    pub id: Option<ExecId>,
}

/// What the process of a record runs, and where it comes from.
#[derive(Clone, Debug)]
pub struct ExecLineage<'a> {
    /// What the process runs. None if it is unknown.
    pub id: Option<ExecId>,
    /// The process that has forked it. None if it is unknown.
    pub parent: Option<Cow<'a, Ancestor>>,
    /// The number of its ancestors whose programs were reported.
    pub depth: u32,
}

/// The users of a process, in the initial user namespace. None stands for unknown ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessUsers {
    /// Real user id.
    pub real: Option<u32>,
    /// Effective user id.
    pub effective: Option<u32>,
    /// Real group id.
    pub group: Option<u32>,
}

/// Arguments, or an environment. The last string may be truncated.
#[derive(Clone, Debug, Default)]
pub struct ArgList<'a> {
    /// The strings as the program was given them. They contain any bytes but NUL.
    pub list: Vec<Plaintext<'a>>,
    /// How many strings the program was given. None if that is unknown.
    pub count: Option<u64>,
    /// Whether some are missing or the last one is truncated: by a limit, by a loss, or because they could
    /// not be read.
    pub truncated: bool,
}

/// A program was executed.
#[derive(Clone, Debug)]
pub struct Exec<'a> {
    /// The execution, and where it comes from.
    pub lineage: ExecLineage<'a>,
    /// The users of the process.
    pub users: ProcessUsers,
    /// The path as it was given. None if the program was already running.
    pub path: Option<Cow<'a, [u8]>>,
    /// The interpreter of a script, as the script names it.
    pub interpreter: Option<Cow<'a, [u8]>>,
    /// The arguments.
    pub arguments: ArgList<'a>,
    /// The requested variables of the environment. None if none were requested.
    pub environment: Option<ArgList<'a>>,
    /// The working directory, inside the root of the process.
    pub directory: Option<Cow<'a, [u8]>>,
    /// The terminal, such as `pts/0`.
    pub tty: Option<Cow<'a, str>>,
    /// Whether it was already running when it came into scope. Then everything is from /proc at that time.
    pub existing: bool,
}

/// A program could not be executed.
#[derive(Clone, Debug)]
pub struct ExecFailed<'a> {
    /// What the process runs, and where it comes from.
    pub lineage: ExecLineage<'a>,
    /// The users of the process.
    pub users: ProcessUsers,
    /// The path as it was given. None if it could not be read.
    pub path: Option<Cow<'a, [u8]>>,
    /// The arguments.
    pub arguments: ArgList<'a>,
    /// The reason, a number of errno(3).
    pub error: i32,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// By itself, with this status.
    Code(u8),
    /// By a signal.
    Signal {
        /// The number of the signal.
        number: u8,
        /// Whether memory was dumped.
        dumped: bool,
    },
}

impl ExitStatus {
    /// The meaning of a status as wait(2) returns it.
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
    /// What the process ran, and where it comes from.
    pub lineage: ExecLineage<'a>,
    /// How it ended. None if the kernel did not report that.
    pub ending: Option<ExitStatus>,
    /// How long it ran this program, or how long it existed if it has executed none.
    pub duration: Option<Duration>,
    /// Whether it has executed no program itself.
    pub forked: bool,
}

/// A process has forked another.
#[derive(Clone, Debug)]
pub struct Fork<'a> {
    /// What the forking process runs.
    pub lineage: ExecLineage<'a>,
    /// The id of the new process in the initial PID namespace.
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
