//! What is known of the code of a process.

/// Whether the code of a process is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessCode {
    /// It maps a file that is attached to.
    Probed,
    /// It maps no such file.
    Unprobed,
    /// It has something that cannot be seen, which was reported.
    Reported,
    /// It has ended since it executed its program, before the files of that were inspected.
    EndedUninspected,
    /// It has ended, and nothing is known of it.
    Unknown,
}
