//! The machine, kernel, versions and date of the measurements. Reads them, and never measures.

use std::{fs, thread};

use anyhow::Result;
use ctrace_tests::{ctrace_binary, library, program};

use super::process::PROGRAM;
use super::report::BenchReport;
use crate::shell;

/// Adds the list.
pub(super) fn describe(report: &mut BenchReport) -> Result<()> {
    let date = first_line("date", &["-u", "+%Y-%m-%d %H:%M UTC"]);
    let ctrace = first_line(&ctrace_binary()?.to_string_lossy(), &["--version"]);
    let libssl = library(&program(PROGRAM)?, "libssl.so.3")?;
    let uname = rustix::system::uname();
    let lines = [
        format!("- measured: {date}"),
        format!("- machine: {} × {}, {}", thread::available_parallelism()?, processor(), memory()),
        format!("- kernel: {} {}", uname.release().to_string_lossy(), uname.machine().to_string_lossy()),
        format!("- library: {} ({})", libssl.display(), first_line("openssl", &["version"])),
        format!("- tracers: {ctrace}; {}", first_line("bpftrace", &["--version"])),
        format!("- load: {}; {}", first_line("nginx", &["-v"]), first_line("wrk", &["--version"])),
    ];
    report.paragraph(&lines.join("\n"));
    Ok(())
}

/// The first line that a program prints about itself, on either output.
fn first_line(name: &str, args: &[&str]) -> String {
    let output = shell::command(name).args(args).output();
    let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().next().unwrap_or_default().trim();
    let line = line.split(" Copyright").next().unwrap_or(line);
    if line.is_empty() { format!("{name}: not installed") } else { line.to_owned() }
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name =
        text.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
    let machine = if text.contains(" hypervisor") { "a virtual machine's " } else { "" };
    format!("{machine}{}", name.map_or("processor", |(_, name)| name))
}

fn memory() -> String {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.split_whitespace().nth(1).and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
    format!("{:.0} GiB of memory", kib / 1024.0 / 1024.0)
}
