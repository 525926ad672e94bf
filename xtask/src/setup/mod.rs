//! `cargo xtask setup`: prepares a machine to build ctrace and run its tests.
//!
//! Owns the list of steps and how they are reported. Each step first checks whether its part is there, and
//! then does nothing. Never replaces the user's Rust toolchain, never needs nightly, and uses root only for
//! packages and Docker.

mod docker;
mod linker;
mod packages;
mod rust_src;

use std::time::Instant;

use anyhow::{Result, bail};

use crate::shell::RootAccess;

/// What to set up.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option, or what a command needs")]
pub(crate) struct SetupOptions {
    /// Also install what `cargo xtask bench` uses: nginx, wrk, bpftrace
    #[arg(long)]
    pub(crate) bench: bool,
    /// Also install what `cargo xtask vm` uses: QEMU and its tools
    #[arg(long)]
    pub(crate) vm: bool,
    /// Also what only the tests need: the container engines that the live suites start, and compilers.
    #[arg(skip = true)]
    pub(crate) engines: bool,
    /// Only list what is missing; change nothing, and exit with status 1 if something is missing
    #[arg(long)]
    pub(crate) check: bool,
}

/// A part of the setup.
pub(crate) trait SetupStep {
    /// The name of the part, in a few words.
    fn name(&self) -> String;
    /// Checks whether the part is there, without changing anything.
    fn state(&self) -> Result<State>;
    /// Installs the part.
    fn install(&self, machine: Host) -> Result<()>;
}

/// Whether a part is there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The part is there, at this place or in this version.
    There(String),
    /// The part is missing.
    Missing(Missing),
}

/// What is missing, and how a person can install it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    /// The missing files or packages.
    pub(crate) what: String,
    /// Commands to type if this program cannot install it.
    pub(crate) by_hand: Vec<String>,
    /// What installing it takes.
    pub(crate) needs: Needs,
}

/// What installing a part takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Only the user's own directories.
    User,
    /// apt-get, run as root.
    Packages,
}

/// What this program may do on the machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Host {
    /// How to become root.
    pub(crate) root: RootAccess,
    /// Whether packages can be installed with apt-get.
    pub(crate) apt: bool,
}

impl Host {
    fn detect() -> Self {
        Self { root: RootAccess::detect(), apt: crate::shell::find("apt-get").is_some() }
    }

    /// Why this machine cannot provide what a part takes.
    fn obstacle(self, needs: Needs) -> Option<&'static str> {
        match needs {
            Needs::Packages if !self.apt => Some("this machine has no apt-get"),
            Needs::Packages if self.root == RootAccess::None => Some("not root, and no sudo that works here"),
            Needs::Packages | Needs::User => None,
        }
    }
}

/// A step that could not be done.
#[derive(Debug)]
pub(crate) struct Undone {
    /// The step's name.
    pub(crate) name: String,
    /// Why.
    pub(crate) why: String,
    by_hand: Vec<String>,
}

/// The name of the Docker step. The demo works without it.
pub(crate) const DOCKER: &str = "Docker engine";
/// The name of the step for the other engines.
pub(crate) const ENGINES: &str = "container engines for the tests";
/// The name of the step for what boots other kernels.
pub(crate) const VM: &str = "programs for other kernels";
/// The steps that only the live suites need.
pub(crate) const LIVE: [&str; 2] = [DOCKER, ENGINES];
/// The steps without which most suites still run.
pub(crate) const OPTIONAL: [&str; 3] = [DOCKER, ENGINES, VM];

fn steps(options: SetupOptions) -> Vec<Box<dyn SetupStep>> {
    let mut steps: Vec<Box<dyn SetupStep>> = vec![
        Box::new(packages::COMPILER),
        Box::new(rust_src::RustSource),
        Box::new(linker::Llvm),
        Box::new(linker::BpfLinker),
        Box::new(packages::TESTS),
        Box::new(docker::DockerSetup),
    ];
    if options.engines {
        // After Docker, because its packages include most of these.
        steps.push(Box::new(packages::ENGINES));
        steps.push(Box::new(packages::LANGUAGES));
        steps.push(Box::new(packages::WATCHERS));
        steps.push(Box::new(packages::ORACLE));
    }
    if options.bench {
        steps.push(Box::new(packages::BENCH));
    }
    if options.vm {
        steps.push(Box::new(packages::VM));
    }
    steps
}

/// Does every step that is not done yet, and returns those that failed.
pub(crate) fn prepare(options: SetupOptions) -> Result<Vec<Undone>> {
    let machine = Host::detect();
    println!("setup");
    let mut undone = Vec::new();
    for step in steps(options) {
        let name = step.name();
        let missing = match step.state()? {
            State::There(where_) => {
                println!("  {name}: ok, already there ({where_})");
                continue;
            }
            State::Missing(missing) => missing,
        };
        println!("  {name}: missing: {}", missing.what);
        let obstacle = if options.check { Some("only checked") } else { machine.obstacle(missing.needs) };
        let why = match obstacle {
            Some(obstacle) => obstacle.to_owned(),
            None => match install(step.as_ref(), machine) {
                Ok(()) => continue,
                Err(error) => format!("{error:#}"),
            },
        };
        println!("  {name}: not done: {why}");
        undone.push(Undone { name, why, by_hand: missing.by_hand });
    }
    Ok(undone)
}

fn install(step: &dyn SetupStep, machine: Host) -> Result<()> {
    let begin = Instant::now();
    step.install(machine)?;
    match step.state()? {
        State::There(_) => println!("  {}: ok, {:.1} s", step.name(), begin.elapsed().as_secs_f64()),
        State::Missing(missing) => bail!("installed, and yet not there: {}", missing.what),
    }
    Ok(())
}

/// Runs the command. A step that could not be done is an error that says what to type.
pub(crate) fn run(options: SetupOptions) -> Result<()> {
    require(&prepare(options)?)
}

/// Fails, naming the commands to type, unless the list is empty.
pub(crate) fn require<'a>(undone: impl IntoIterator<Item = &'a Undone>) -> Result<()> {
    let lines: Vec<String> = undone.into_iter().map(describe).collect();
    if lines.is_empty() {
        return Ok(());
    }
    bail!("setup is not complete; to complete it by hand:\n{}", lines.join("\n"))
}

fn describe(undone: &Undone) -> String {
    let commands: Vec<String> = undone.by_hand.iter().map(|line| format!("      {line}")).collect();
    format!("  {} ({}):\n{}", undone.name, undone.why, commands.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_need_apt_and_root() {
        let check = |apt, root, needs, possible: bool| {
            assert_eq!(Host { root, apt }.obstacle(needs).is_none(), possible, "{root:?} {needs:?}");
        };
        check(true, RootAccess::Root, Needs::Packages, true);
        check(true, RootAccess::Sudo, Needs::Packages, true);
        check(true, RootAccess::None, Needs::Packages, false);
        check(false, RootAccess::Root, Needs::Packages, false);
        check(false, RootAccess::None, Needs::User, true);
    }

    #[test]
    fn an_incomplete_setup_tells_what_to_type() {
        let undone = Undone {
            name: "LLVM 22".to_owned(),
            why: "this machine has no apt-get".to_owned(),
            by_hand: vec!["apt-get install llvm-22-dev".to_owned()],
        };
        let message = require([&undone]).map_or_else(|error| error.to_string(), |()| String::new());
        assert!(
            message.ends_with("LLVM 22 (this machine has no apt-get):\n      apt-get install llvm-22-dev")
        );
        assert!(require([]).is_ok());
    }

    #[test]
    fn steps_have_different_names() {
        let mut names: Vec<String> =
            steps(SetupOptions { bench: true, vm: true, engines: true, check: false })
                .iter()
                .map(|step| step.name())
                .collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(OPTIONAL.iter().all(|live| names.iter().any(|name| name == live)));
    }
}
