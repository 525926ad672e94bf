//! A virtual machine that runs one command under a kernel, and ends.
//!
//! Owns QEMU and the guest's environment: the host's files, read-only, two processors, no network but lo.
//! What the guest writes is lost with it. `init.sh` is its first process.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ctrace_tests::Child;
use tempfile::TempDir;

use super::kernel::Kernel;
use crate::shell;

const INIT: &str = include_str!("init.sh");

/// The directories of the guest's initial root.
const DIRECTORIES: [&str; 8] = ["bin", "modules", "lower", "rw", "new", "proc", "sys", "dev"];

/// Only errors, unless the log is wanted; none of the host's modules; no mitigations, which take most of an
/// emulated guest's speed.
const PARAMETERS: &str = "console=ttyS0 panic=-1 mitigations=off nokaslr audit=0 apparmor=0 loglevel=";

/// Whether the kernel's log is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConsoleLog {
    /// All of the log.
    Shown,
    /// Only its end, if the guest has crashed.
    Kept,
}

/// A machine that is not running.
#[derive(Debug)]
pub(super) struct VirtualMachine<'a> {
    kernel: &'a Kernel,
    log: ConsoleLog,
    directory: TempDir,
}

impl<'a> VirtualMachine<'a> {
    /// Creates a machine with its own directory for files.
    pub(super) fn new(kernel: &'a Kernel, log: ConsoleLog) -> Result<Self> {
        let directory = tempfile::tempdir().context("cannot create a temporary directory")?;
        Ok(Self { kernel, log, directory })
    }

    /// Runs a command as root with its output on the terminal, and fails if it fails.
    pub(super) fn run(&self, command: &[&str], timeout: Duration) -> Result<()> {
        self.make_initramfs(command)?;
        let mut guest = Child::start_with_stdout(&mut self.qemu(), Stdio::piped())?;
        let mut output = guest.take_stdout().context("QEMU has no output")?;
        let shown = std::thread::spawn(move || io::copy(&mut output, &mut io::stdout()));
        let ended = guest.wait(timeout);
        // This ends its output.
        guest.kill()?;
        let (_, stderr) = guest.output()?;
        // A closed terminal does not make a kernel fail the check.
        let _ = shown.join();
        let status = fs::read_to_string(self.file("status")).unwrap_or_default();
        if self.log == ConsoleLog::Shown || status.is_empty() {
            self.show_log();
        }
        match (status.trim(), ended) {
            ("0", _) => Ok(()),
            ("", Err(_)) => bail!("the guest was stopped, as it had not ended after {} s", timeout.as_secs()),
            ("", Ok(ended)) => bail!("the guest died; QEMU ended with {ended}: {}", stderr.join("\n")),
            (status, _) => bail!("the guest's command failed: exit status {status}"),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn show_log(&self) {
        let log = fs::read(self.file("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let wanted = if self.log == ConsoleLog::Shown { usize::MAX } else { 30 };
        let skipped = log.lines().count().saturating_sub(wanted);
        println!("the kernel's log:");
        log.lines().skip(skipped).for_each(|line| println!("    {}", line.trim_end()));
    }

    fn make_initramfs(&self, command: &[&str]) -> Result<()> {
        let root = self.file("initramfs");
        for directory in DIRECTORIES {
            fs::create_dir_all(root.join(directory))?;
        }
        let busybox = shell::find("busybox").context("busybox is not in PATH")?;
        fs::copy(busybox, root.join("bin/busybox"))?;
        for module in fs::read_dir(self.kernel.modules())? {
            let module = module?;
            fs::copy(module.path(), root.join("modules").join(module.file_name()))?;
        }
        fs::write(root.join("init"), INIT)?;
        fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
        let words: Vec<String> = command.iter().map(|word| shell::quoted(word)).collect();
        fs::write(root.join("command"), format!("exec {}\n", words.join(" ")))?;
        let script = "cd \"$1\" && find . | busybox cpio -o -H newc >\"$2\"";
        let mut cpio = shell::command("sh");
        cpio.args(["-c", script, "sh"]).arg(&root).arg(self.file("initramfs.cpio"));
        shell::read(&mut cpio).map(drop)
    }

    fn qemu(&self) -> Command {
        let accelerator = Accelerator::of_this_machine();
        let level = if self.log == ConsoleLog::Shown { 7 } else { 4 };
        let mut qemu = shell::command("qemu-system-x86_64");
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35"]);
        qemu.args(accelerator.options()).args(["-smp", "2", "-m", "2G"]);
        qemu.arg("-kernel").arg(self.kernel.image()).arg("-initrd").arg(self.file("initramfs.cpio"));
        qemu.args(["-append", &format!("{PARAMETERS}{level}")]);
        qemu.args(["-fsdev", "local,id=root,path=/,security_model=none,multidevs=remap,readonly=on"]);
        qemu.args(["-device", "virtio-9p-pci,fsdev=root,mount_tag=root"]);
        qemu.arg("-serial").arg(format!("file:{}", self.file("log").display()));
        qemu.args(["-device", "virtio-serial-pci"]);
        let status = self.file("status");
        for (name, path) in [("output", Path::new("/dev/stdout")), ("status", &status)] {
            qemu.arg("-chardev").arg(format!("file,id={name},path={}", path.display()));
            qemu.arg("-device").arg(format!("virtserialport,name={name},chardev={name}"));
        }
        qemu
    }
}

/// How a guest's instructions are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accelerator {
    Kvm,
    Emulation,
}

impl Accelerator {
    /// KVM if the hardware supports it. KVM in software below another hypervisor (PVM) is slower than
    /// emulation.
    fn of_this_machine() -> Self {
        let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
        if kvm && !Path::new("/sys/module/kvm_pvm").exists() { Self::Kvm } else { Self::Emulation }
    }

    fn options(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // One thread only: with more, a kernel that patches its own code can fail.
            Self::Emulation => ["-accel", "tcg,thread=single,tb-size=512", "-cpu", "max"],
        }
    }
}
