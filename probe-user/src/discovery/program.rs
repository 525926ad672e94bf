//! Program → objects, before the program runs: everything that it will map at its start, and the TLS
//! libraries that it may load.
//!
//! Owns how a program is opened, and what is kept of its files. Which files these are, [`super::loader`]
//! finds.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::inspect_file::{self, InspectedProgram};
use super::loader::ProgramFile;
use super::{Discovery, Inspected};
use crate::plan::{ObjectHooks, Skipped, SkippedFile};
use crate::proc::Device;
use crate::proc::execve::LoaderVariables;
use crate::proc::start_arguments::StartArguments;
use crate::rootfs::{Mounts, OpenError, TargetRoot};

/// A program that a process is about to execute.
#[derive(Debug)]
pub enum ProgramStart {
    /// A file that ctrace itself will execute in a process, by its absolute path.
    Command {
        /// The process.
        pid: u32,
        /// The path.
        path: PathBuf,
        /// The command with its arguments.
        words: Vec<OsString>,
    },
    /// A file that the kernel has opened for a thread that waits in execve(2).
    Execve {
        /// The process.
        pid: u32,
        /// The thread.
        tid: u32,
        /// The file.
        file: OwnedFd,
    },
}

/// What was found for a program that has not started yet.
#[derive(Debug, Default)]
pub struct StartedProgram {
    /// The objects to attach to.
    pub objects: Vec<ObjectHooks>,
    /// The path of the executable. None if the file is no program, but a loader or a broken file.
    pub executable: Option<PathBuf>,
    /// If more hooks are requested than allowed: the message for the user.
    pub over_limit: Option<String>,
    /// What cannot be seen of it.
    pub blind_spots: Vec<Skipped>,
}

impl ProgramStart {
    /// The process.
    pub fn pid(&self) -> u32 {
        match self {
            Self::Command { pid, .. } | Self::Execve { pid, .. } => *pid,
        }
    }

    /// How the program is started.
    pub(super) fn start_arguments(&self) -> StartArguments {
        match self {
            Self::Command { words, .. } => StartArguments::of_command(words),
            Self::Execve { tid, .. } => StartArguments::of_execve(*tid),
        }
    }

    /// The process in whose root the program is searched for.
    fn root_pid(&self) -> u32 {
        match self {
            // The command has the root of ctrace, which can always be opened.
            Self::Command { .. } => std::process::id(),
            Self::Execve { pid, .. } => *pid,
        }
    }

    /// Opens the program, and finds out what its loader goes by.
    pub(super) fn open(
        &self,
        mounts: &Mounts,
    ) -> Result<(TargetRoot, ProgramFile, LoaderVariables), OpenError> {
        let root = TargetRoot::of(self.root_pid())?;
        let (program, variables) = match self {
            Self::Command { path, .. } => (root.open(path, mounts)?, LoaderVariables::own()),
            Self::Execve { tid, file, .. } => (root.reopen(file, mounts)?, LoaderVariables::of_execve(*tid)),
        };
        Ok((root, program, variables))
    }
}

impl Discovery {
    /// Inspects a program that a process is about to execute, with everything that it is linked with or may
    /// load. Returns the objects to attach to. None if it could not be inspected.
    pub async fn program(&mut self, start: ProgramStart) -> Option<StartedProgram> {
        if !self.probe.inspects_files() {
            return None;
        }
        let (pid, root) = (start.pid(), start.root_pid());
        let caches = (&self.files, &self.mounts, &self.loader);
        let found = inspect_file::program(start, caches, &self.probe, &self.on_uncached).await;
        let InspectedProgram { executable, files } = found?;
        let waiting = self.unversioned.len();
        let (mut ids, mut paths) = (Vec::new(), Vec::new());
        for (path, inode, found) in files {
            let verdict = self.in_process(pid, found);
            let shown = SkippedFile::Shown(Device::default(), inode);
            self.blind_spots_in((pid, root), (&path, shown), &verdict).await;
            self.resolve_left_behind((inode, &path), &verdict.objects);
            self.inspected.put(inode, Inspected::of(&verdict));
            ids.extend(verdict.objects);
            paths.push(path);
        }
        for waiting in self.unversioned.iter_mut().skip(waiting) {
            let is_it =
                |path: &&PathBuf| path.file_name().is_some_and(|name| name == waiting.version_in.as_str());
            waiting.place = paths.iter().find(is_it).map(|path| (root, path.clone()));
        }
        if executable.is_some() {
            self.users.expect(pid, &ids);
        } else {
            self.users.maps(pid, &ids);
        }
        let objects = self.found();
        let blind_spots = self.blind_spots.take();
        Some(StartedProgram { objects, executable, over_limit: self.over_limit.take(), blind_spots })
    }
}
