//! What the user names with one word: a container or a process.

use crate::container::runtime::RuntimeSocket;
use crate::proc::process::Proc;
use crate::scope::{ContainerName, Criteria, InnerPid, Process, Selector};

/// The name of a container or process, as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetArg(pub String);

impl TargetArg {
    /// A number is a process, if there is one with that id. Otherwise it is a container, whose name or id may
    /// also consist of digits. `docker://web` is the container `web` of that runtime, and `web:1` is its
    /// process 1.
    pub(super) fn selector(&self, proc: &Proc, sockets: &[RuntimeSocket]) -> Selector {
        let empty = Selector { runtime_sockets: sockets.to_vec(), ..Selector::default() };
        let Self(text) = self;
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        if let Some(pid) = text.parse().ok().filter(|_| is_number)
            && proc.thread_group(pid).is_some()
        {
            return Selector { pids: vec![pid], ..empty };
        }
        // A container's name contains no colon, except in the `://` after a runtime.
        let is_pid = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if let Some((name, digits)) = text.rsplit_once(':').filter(|(_, digits)| is_pid(digits))
            && let Ok(pid) = digits.parse()
        {
            return Selector { inner_pids: vec![InnerPid { container: named(name), pid }], ..empty };
        }
        Selector { containers: Criteria { names: vec![named(text)], ..Criteria::default() }, ..empty }
    }
}

/// Parses `web` or `docker://web`.
fn named(text: &str) -> ContainerName {
    match text.split_once("://") {
        Some((runtime, name)) => ContainerName { runtime: Some(runtime.to_owned()), name: name.to_owned() },
        None => ContainerName { runtime: None, name: text.to_owned() },
    }
}

/// The process to inspect: the one that was named, or the first one of a container. That is the earliest
/// process whose parent is not in the container (there may be others, which entered it later: docker exec).
pub(super) fn first<'a>(selector: &Selector, processes: &'a [Process], proc: &Proc) -> Option<&'a Process> {
    if let Some(named) = processes.iter().find(|process| selector.pids.contains(&process.pid)) {
        return Some(named);
    }
    let is_inside = |pid: u32| processes.iter().any(|process| process.pid == pid);
    let from_outside = processes.iter().filter(|process| !proc.parent(process.pid).is_some_and(is_inside));
    from_outside.min_by_key(|process| (process.start_time, process.pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(text: &str) -> Selector {
        TargetArg(text.to_owned()).selector(&Proc::default(), &[])
    }

    #[test]
    fn a_number_is_a_process_if_there_is_one() {
        let own = std::process::id();
        assert_eq!(selector(&own.to_string()).pids, [own]);
        for text in ["4194304", "web", "12ab", "-1", "99999999999999999999"] {
            let selector = selector(text);
            let names: Vec<_> = selector.containers.names.iter().map(|name| name.name.as_str()).collect();
            assert_eq!((names.as_slice(), selector.pids.len()), ([text].as_slice(), 0));
        }
        let both = selector("podman://web").containers.names;
        for (text, runtime) in [("web:1", None), ("docker://web:1", Some("docker"))] {
            let container = ContainerName { runtime: runtime.map(str::to_owned), name: "web".into() };
            assert_eq!(selector(text).inner_pids, [InnerPid { container, pid: 1 }], "{text}");
        }
        assert_eq!(both, [ContainerName { runtime: Some("podman".into()), name: "web".into() }]);
    }

    #[test]
    fn the_first_process_is_the_earliest_from_outside() {
        let proc = Proc::default();
        let process = |pid, start_time| Process { pid, start_time, comm: String::new(), container: None };
        let all = [process(u32::MAX - 1, 5), process(u32::MAX - 2, 3)];
        let found = first(&Selector::default(), &all, &proc).map(|process| process.pid);
        assert_eq!(found, Some(u32::MAX - 2));
        let named = Selector { pids: vec![u32::MAX - 1], ..Selector::default() };
        assert_eq!(first(&named, &all, &proc).map(|process| process.pid), Some(u32::MAX - 1));
        assert_eq!(first(&named, &[], &proc), None);
    }
}
