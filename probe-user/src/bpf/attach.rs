//! Hook → links: attaches the BPF programs of a hook.

use std::io;
use std::os::fd::AsFd as _;

use aya::Ebpf;
use aya::programs::ProgramError;
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeScope};
use aya::sys::SyscallError;
use rustix::io::Errno;

use super::lacking::Lacking;
use super::links::{Link, Links};
use super::loader::Uprobes;
use super::programs::{self, AttachPoint, BpfProgram, PROGRAMS};
use super::sys::{Moment, UprobePlace};
use super::uprobe_multi::MultiPrograms;
use super::{AttachWarmup, KernelReturns, Session, SessionError, loader, uprobe_multi, usdt_semaphore};
use crate::elf::FileOffset;
use crate::plan::return_probe::ReturnProbe;
use crate::plan::{Hook, ObjectHooks, ObjectId};

/// A hook whose programs are loaded.
#[derive(Clone, Copy)]
struct LoadedHook<'a> {
    /// Its index in the object.
    index: usize,
    hook: &'a Hook,
    /// The number of the hook: the upper half of its cookies.
    site: u32,
    /// The lower half of the cookie of its entry: the index of its spec if it has one.
    arguments: u32,
    /// For which calls the kernel probes its return, if the kernel does.
    kernel_returns: Option<KernelReturns>,
}

impl LoadedHook<'_> {
    /// Where a program of the hook runs.
    fn places(&self, program: &BpfProgram) -> Vec<UprobePlace> {
        let (hook, semaphore) = (self.hook, self.hook.semaphore);
        let place = |offset, arguments| {
            let cookie = probe_common::cookie(self.site, arguments);
            UprobePlace { offset, cookie, semaphore }
        };
        let is_session = self.kernel_returns == Some(KernelReturns::OfKeptCalls);
        match program.attach_point {
            AttachPoint::Exits(_) => {
                let spec = if hook.capture.is_some() { self.arguments } else { 0 };
                hook.exits.iter().map(|exit| place(exit.offset, exit.slot.pack(spec))).collect()
            }
            AttachPoint::Session(_) if !is_session => Vec::new(),
            AttachPoint::Uprobe(_) if is_session => Vec::new(),
            AttachPoint::Uretprobe(_) if self.kernel_returns != Some(KernelReturns::OfAllCalls) => Vec::new(),
            _ => vec![place(hook.offset, self.arguments)],
        }
    }
}

impl Session {
    /// Attaches the hooks of an object. The links last until [`Session::detach`] or the end of the session.
    ///
    /// Returns the hooks that could not be attached, by their index, with the reason. The first hook waits
    /// for the kernel (8 ms, more on a busy machine). Hooks that are attached right after it, for this object
    /// and for others, do not wait.
    pub fn attach(&mut self, object: &ObjectHooks) -> Vec<(usize, SessionError)> {
        self.attach_telling(object, |_| ())
    }

    /// Like [`Session::attach`], but also calls `progress` with the index of each hook that was tried.
    pub fn attach_telling(
        &mut self,
        object: &ObjectHooks,
        mut progress: impl FnMut(usize),
    ) -> Vec<(usize, SessionError)> {
        self.links.attaching();
        let mut failed = Vec::new();
        let mut loaded = Vec::new();
        for (index, hook) in object.hooks.iter().enumerate() {
            match self.load_hook(object, (index, hook)) {
                Ok(hook) => loaded.push(hook),
                Err(error) => {
                    failed.push((index, error));
                    progress(index);
                }
            }
        }
        match &mut self.uprobes {
            Uprobes::Multi(programs) => {
                let links = &mut self.links;
                failed.extend(ObjectLinker { programs, links, object }.attach(&loaded));
                for hook in &loaded {
                    progress(hook.index);
                }
            }
            Uprobes::Perf => {
                loaded.sort_by_key(|hook| hook.hook.program.opens());
                for hook in loaded {
                    if let Err(error) = self.attach_hook(object, &hook) {
                        failed.push((hook.index, error));
                    }
                    progress(hook.index);
                }
            }
        }
        failed.sort_by_key(|(index, _)| *index);
        self.links.attaching();
        failed
    }

    /// Starts the wait of [`Session::attach`] early, for something that may have to be attached soon. The
    /// result can be used from any thread.
    pub fn ahead(&self) -> AttachWarmup {
        self.links.ahead()
    }

    /// For which calls the kernel probes a return that it is asked to probe.
    pub fn kernel_returns(&self) -> KernelReturns {
        self.uprobes.kernel_returns()
    }

    /// Loads the programs of a hook, and writes what they read of a call.
    fn load_hook<'a>(
        &mut self,
        object: &ObjectHooks,
        (index, hook): (usize, &'a Hook),
    ) -> Result<LoadedHook<'a>, SessionError> {
        let arguments = match &hook.capture {
            Some(reading) => self.functions.number(&reading.spec)?,
            None => hook.cookie_args,
        };
        let site = object.sites.start.saturating_add(u32::try_from(index).unwrap_or(u32::MAX));
        let is_kernels = hook.return_probe == ReturnProbe::Kernel;
        let kernel_returns = is_kernels.then(|| self.uprobes.kernel_returns());
        let loaded = LoadedHook { index, hook, site, arguments, kernel_returns };
        for program in programs::of_hook(hook.program).filter(|program| !loaded.places(program).is_empty()) {
            loader::load_program(&mut self.ebpf, &mut self.uprobes, program)?;
        }
        Ok(loaded)
    }

    /// Attaches one hook by a link per place.
    fn attach_hook(&mut self, object: &ObjectHooks, hook: &LoadedHook<'_>) -> Result<(), SessionError> {
        let mut links: Vec<Link> = Vec::new();
        for program in programs::of_hook(hook.hook.program) {
            for place in hook.places(program) {
                match attach_uprobe(&mut self.ebpf, program, object, (hook.hook, place)) {
                    Ok(link) => links.push(link),
                    Err(error) => {
                        // A hook without all of its programs reports nothing, but still slows the target
                        // down.
                        self.links.discard(links);
                        return Err(error);
                    }
                }
            }
        }
        self.links.keep(object.id, links);
        Ok(())
    }

    /// Detaches the hooks of an object, and waits until that is done: a grace period of the kernel (some 50
    /// ms), or a tenth of a second for each link to a perf event.
    pub fn detach_now(&mut self, object: ObjectId) {
        self.links.remove_now(object);
    }

    /// Detaches the hooks of an object. This happens later, and does not block the caller.
    pub fn detach(&mut self, object: ObjectId) {
        self.links.remove(object);
    }
}

/// Attaches hooks of an object by one link per program.
struct ObjectLinker<'a> {
    programs: &'a mut MultiPrograms,
    links: &'a mut Links,
    object: &'a ObjectHooks,
}

/// Whether a program sees that connections are created. These are attached to last: a connection that was
/// seen from its creation on has all of its bytes then.
fn is_opening(program: &BpfProgram, hooks: &[LoadedHook<'_>]) -> bool {
    hooks.iter().any(|hook| program.is_of(hook.hook.program) && hook.hook.program.opens())
}

/// A link that the kernel has refused.
struct RefusedLink {
    program: &'static BpfProgram,
    source: io::Error,
}

impl RefusedLink {
    /// Whether another place might not be refused.
    fn is_of_place(&self) -> bool {
        let of_all = [Errno::PERM, Errno::ACCESS, Errno::MFILE, Errno::NFILE, Errno::NOMEM];
        !of_all.iter().any(|errno| self.source.raw_os_error() == Some(errno.raw_os_error()))
    }
}

impl ObjectLinker<'_> {
    /// Returns the hooks that could not be attached.
    ///
    /// The kernel does not say which place it refuses, and refuses all that are in the same link. So if it
    /// refuses one, the hooks are tried in halves.
    fn attach(&mut self, hooks: &[LoadedHook<'_>]) -> Vec<(usize, SessionError)> {
        let mut failed = Vec::new();
        let mut untried = vec![hooks];
        while let Some(hooks) = untried.pop() {
            let Err(refused) = self.link(hooks) else { continue };
            match hooks {
                [hook] if refused.is_of_place() => {
                    let offset = self.refused_offset(&refused, hook);
                    failed.push((hook.index, self.reason(&refused, hook, offset)));
                }
                [_, ..] if refused.is_of_place() => {
                    let (first, second) = hooks.split_at(hooks.len() / 2);
                    untried.extend([second, first]);
                }
                _ => {
                    let reason = |hook: &LoadedHook<'_>| self.reason(&refused, hook, hook.hook.offset);
                    failed.extend(hooks.iter().map(|hook| (hook.index, reason(hook))));
                }
            }
        }
        failed
    }

    /// Attaches all of the hooks, or none.
    fn link(&mut self, hooks: &[LoadedHook<'_>]) -> Result<(), RefusedLink> {
        let mut links = Vec::new();
        let mut programs: Vec<&BpfProgram> =
            PROGRAMS.iter().filter(|program| program.attach_point.is_in_files()).collect();
        programs.sort_by_key(|program| is_opening(program, hooks));
        for program in programs {
            let of_program = hooks.iter().filter(|hook| program.is_of(hook.hook.program));
            let places: Vec<UprobePlace> = of_program.flat_map(|hook| hook.places(program)).collect();
            if places.is_empty() {
                continue;
            }
            match self.link_places(program, &places) {
                Ok(link) => links.push(link),
                Err(source) => {
                    // A hook without all of its programs reports nothing, but still slows the target down.
                    self.links.discard(links);
                    return Err(RefusedLink { program, source });
                }
            }
        }
        self.links.keep(self.object.id, links);
        Ok(())
    }

    fn link_places(&mut self, program: &BpfProgram, places: &[UprobePlace]) -> io::Result<Link> {
        let moment = match program.attach_point {
            AttachPoint::Uretprobe(_) => Moment::Returned,
            _ => Moment::Reached,
        };
        let loaded = self.programs.program(program).map_err(io::Error::other)?;
        uprobe_multi::link(loaded, program.attach_type(), (&self.object.file.path(), moment), places)
    }

    /// Which place of a hook the kernel refuses.
    fn refused_offset(&mut self, refused: &RefusedLink, hook: &LoadedHook<'_>) -> FileOffset {
        let places = hook.places(refused.program);
        let found = places.iter().find(|place| match self.link_places(refused.program, &[**place]) {
            Ok(link) => {
                self.links.discard(vec![link]);
                false
            }
            Err(_) => true,
        });
        found.map_or(hook.hook.offset, |place| place.offset)
    }

    fn reason(&self, refused: &RefusedLink, hook: &LoadedHook<'_>, offset: FileOffset) -> SessionError {
        let io_error = match refused.source.raw_os_error() {
            Some(number) => io::Error::from_raw_os_error(number),
            None => io::Error::other(refused.source.to_string()),
        };
        let source = SyscallError { call: "bpf_link_create", io_error };
        let (path, function) = (&self.object.library.path, &hook.hook.function);
        SessionError::attach(path, function, offset, &Lacking::PROGRAMS, source.into())
    }
}

fn attach_uprobe(
    ebpf: &mut Ebpf,
    program: &BpfProgram,
    object: &ObjectHooks,
    (hook, place): (&Hook, UprobePlace),
) -> Result<Link, SessionError> {
    let UprobePlace { offset, cookie, semaphore } = place;
    let program = loader::uprobe(ebpf, program.name)?;
    let (path, function) = (&object.library.path, &hook.function);
    let failed = |source| SessionError::attach(path, function, offset, &Lacking::PERF_UPROBES, source);
    if let Some(counter) = semaphore {
        let fd = program.fd().map_err(failed)?.as_fd();
        let attached = usdt_semaphore::attach(fd, &object.file.path(), offset, counter, cookie);
        return attached
            .map(|link| Box::new(link) as Link)
            .map_err(|error| failed(ProgramError::IOError(error)));
    }
    let point =
        UProbeAttachPoint { location: UProbeAttachLocation::AbsoluteOffset(offset.0), cookie: Some(cookie) };
    let attached = program.attach(point, object.file.path(), UProbeScope::AllProcesses);
    attached.and_then(|id| program.take_link(id)).map(|link| Box::new(link) as Link).map_err(failed)
}
