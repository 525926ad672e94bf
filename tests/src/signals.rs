//! Makes sure that programs of the tests receive signals, however the tests were started.
//!
//! A shell ignores SIGINT and SIGQUIT for what it starts in the background, and `nohup` ignores SIGHUP. Every
//! program that is executed inherits an ignored signal, so Ctrl-C would end none of them, and a test would
//! wait for ever.

use std::fs;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Once};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use signal_hook::flag;

/// The signals with which tests end programs. The standard library itself resets SIGPIPE, and blocked
/// signals.
const SIGNALS: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];

/// From now on programs are started with the default actions of these signals. This process still ignores
/// what it ignored, but by means of a handler: executing a program resets a handler, and does not reset an
/// ignored signal.
pub(crate) fn default_in_children() -> Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| result = handle_ignored());
    result
}

fn handle_ignored() -> Result<()> {
    let status = fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let ignored = ignored(&status)?;
    for signal in SIGNALS.into_iter().filter(|signal| ignored & mask(*signal) != 0) {
        flag::register(signal.as_raw(), Arc::new(AtomicBool::new(false)))
            .with_context(|| format!("cannot handle {signal:?}"))?;
    }
    Ok(())
}

/// The set of ignored signals in a /proc/PID/status.
fn ignored(status: &str) -> Result<u64> {
    let set = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).context("no SigIgn")?;
    u64::from_str_radix(set.trim(), 16).context("SigIgn is no set of signals")
}

fn mask(signal: Signal) -> u64 {
    1 << (signal.as_raw() - 1)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use anyhow::{Context as _, Result, ensure};

    use super::{SIGNALS, ignored, mask};
    use crate::Child;

    #[test]
    fn children_ignore_no_signal() -> Result<()> {
        let mut child = Child::start(Command::new("cat").arg("/proc/self/status"))?;
        child.wait(Duration::from_secs(20))?;
        let (status, _) = child.output()?;
        let ignored = ignored(&String::from_utf8(status)?)?;
        let found: Vec<_> = SIGNALS.into_iter().filter(|signal| ignored & mask(*signal) != 0).collect();
        ensure!(found.is_empty(), "ignored: {found:?}");
        Ok(())
    }

    #[test]
    fn children_ignore_no_signal_when_the_tests_run_in_the_background() -> Result<()> {
        let script =
            "trap '' HUP INT QUIT TERM; exec \"$0\" --exact signals::tests::children_ignore_no_signal";
        let output =
            Command::new("sh").args(["-c", script]).arg(std::env::current_exe()?).output().context("sh")?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success() && said.contains("1 passed"), "{said}");
        Ok(())
    }
}
