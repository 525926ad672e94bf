//! Names of signals and of reasons why a program cannot be executed, as signal(7) and errno(3) have them.

use nix::errno::Errno;
use nix::sys::signal::Signal;

/// The name of a signal, or `SIG40` for a signal without a name.
pub(super) fn signal(number: u8) -> String {
    Signal::try_from(i32::from(number))
        .map_or_else(|_| format!("SIG{number}"), |signal| signal.as_str().to_owned())
}

/// The name of an error, or `errno 999` for an error without a name.
pub(super) fn error(number: i32) -> String {
    match Errno::from_raw(number) {
        Errno::UnknownErrno => format!("errno {number}"),
        error => format!("{error:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(
            [signal(9), signal(16), signal(29), signal(31), signal(0), signal(40)],
            ["SIGKILL", "SIGSTKFLT", "SIGIO", "SIGSYS", "SIG0", "SIG40"]
        );
        // The errors of execve(2) and execveat(2).
        for (number, name) in [
            (1, "EPERM"),
            (2, "ENOENT"),
            (7, "E2BIG"),
            (8, "ENOEXEC"),
            (11, "EAGAIN"),
            (13, "EACCES"),
            (26, "ETXTBSY"),
            (36, "ENAMETOOLONG"),
            (40, "ELOOP"),
            (80, "ELIBBAD"),
            (116, "ESTALE"),
            (999, "errno 999"),
            (0, "errno 0"),
        ] {
            assert_eq!(error(number), name);
        }
    }
}
