//! Why a file of a target could not be opened, in words.

use std::io;
use std::path::PathBuf;

use rustix::fs::FileType;

use crate::proc::without_right;

/// A file of a target could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Process gone, or not ours.
    #[error("could not open the root directory of process {pid} (/proc/{pid}/root){}", without_right(source))]
    Root {
        /// The process.
        pid: u32,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No such file, or not ours.
    #[error("could not open {path:?} of process {pid}")]
    Open {
        /// The process.
        pid: u32,
        /// Inside the process's root.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A FIFO, device, directory, … is never opened.
    #[error("{path:?} of process {pid} is not a regular file ({kind:?}): not opened")]
    NotRegular {
        /// The process.
        pid: u32,
        /// Inside the process's root.
        path: PathBuf,
        /// What it is.
        kind: FileType,
    },
    /// Reached by name, and it is not what the process mapped.
    #[error(
        "{path:?} of process {pid} is not the file that is mapped any more; the mapped one can be opened \
         with \
         CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE only"
    )]
    Changed {
        /// The process.
        pid: u32,
        /// Inside the process's root.
        path: PathBuf,
    },
}

impl OpenError {
    /// Why not, without the names of file and process, which are told beside it.
    pub fn why(&self) -> String {
        match self {
            Self::Root { source, .. } => {
                format!("its root directory could not be opened{}: {source}", without_right(source))
            }
            Self::Open { source, .. } => format!("could not be opened: {source}"),
            Self::NotRegular { kind, .. } => format!("not a regular file ({kind:?}): not opened"),
            Self::Changed { .. } => "not the file that is mapped any more; that one can be opened with \
                CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE only"
                .to_owned(),
        }
    }
}
