//! Errors of opening a file of a traced process.

use std::io;
use std::path::PathBuf;

use rustix::fs::FileType;

use crate::proc::without_right;

/// Why a file of a traced process could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The process has exited, or its root may not be accessed.
    #[error("could not open the root directory of process {pid} (/proc/{pid}/root){}", without_right(source))]
    Root {
        /// The process.
        pid: u32,
        /// The error of the system call.
        #[source]
        source: io::Error,
    },
    /// The file does not exist, or may not be accessed.
    #[error("could not open {path:?} of process {pid}")]
    Open {
        /// The process.
        pid: u32,
        /// The path inside the root of the process.
        path: PathBuf,
        /// The error of the system call.
        #[source]
        source: io::Error,
    },
    /// The file is a FIFO, device, directory or the like, which ctrace never opens.
    #[error("{path:?} of process {pid} is not a regular file ({kind:?}): not opened")]
    NotRegular {
        /// The process.
        pid: u32,
        /// The path inside the root of the process.
        path: PathBuf,
        /// The type of the file.
        kind: FileType,
    },
    /// The path no longer leads to the file that the process mapped.
    #[error(
        "{path:?} of process {pid} is no longer the file that is mapped; opening the mapped one requires \
         CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE"
    )]
    Changed {
        /// The process.
        pid: u32,
        /// The path inside the root of the process.
        path: PathBuf,
    },
}

impl OpenError {
    /// The reason alone, for messages that already name the file and the process.
    pub fn why(&self) -> String {
        match self {
            Self::Root { source, .. } => {
                format!("its root directory could not be opened{}: {source}", without_right(source))
            }
            Self::Open { source, .. } => format!("could not be opened: {source}"),
            Self::NotRegular { kind, .. } => format!("not a regular file ({kind:?}): not opened"),
            Self::Changed { .. } => "no longer the file that is mapped; opening the mapped one requires \
                CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE"
                .to_owned(),
        }
    }
}
