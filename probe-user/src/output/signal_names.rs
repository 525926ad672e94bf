//! Names of signals and of reasons why a program cannot be executed, as signal(7) and errno(3) have them.

/// Signals in the order of their numbers on x86-64 and arm64, from 1.
const SIGNALS: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// What execve(2) and execveat(2) fail with.
const ERRORS: [(i32, &str); 22] = [
    (1, "EPERM"),
    (2, "ENOENT"),
    (4, "EINTR"),
    (5, "EIO"),
    (7, "E2BIG"),
    (8, "ENOEXEC"),
    (9, "EBADF"),
    (11, "EAGAIN"),
    (12, "ENOMEM"),
    (13, "EACCES"),
    (14, "EFAULT"),
    (16, "EBUSY"),
    (20, "ENOTDIR"),
    (21, "EISDIR"),
    (22, "EINVAL"),
    (23, "ENFILE"),
    (24, "EMFILE"),
    (26, "ETXTBSY"),
    (36, "ENAMETOOLONG"),
    (40, "ELOOP"),
    (80, "ELIBBAD"),
    (116, "ESTALE"),
];

/// The name of a signal; `SIG40` for one without.
pub(super) fn signal(number: u8) -> String {
    let name = usize::from(number).checked_sub(1).and_then(|index| SIGNALS.get(index));
    name.map_or_else(|| format!("SIG{number}"), |name| (*name).to_owned())
}

/// The name of an error; `errno 999` for one without.
pub(super) fn error(number: i32) -> String {
    let name = ERRORS.iter().find(|(known, _)| *known == number);
    name.map_or_else(|| format!("errno {number}"), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(
            [signal(9), signal(15), signal(31), signal(40)],
            ["SIGKILL", "SIGTERM", "SIGSYS", "SIG40"]
        );
        assert_eq!([error(2), error(13), error(999)], ["ENOENT", "EACCES", "errno 999"]);
    }
}
