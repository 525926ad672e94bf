//! `cargo xtask demo`: ctrace doing its main job.
//!
//! Owns what is run and shown; the traced programs come from the tests' package. Building is done as the
//! user, only the demonstration itself runs as root. Never leaves anything behind.

use std::io::{IsTerminal, stdout};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use ctrace_tests::{Demo, DemoProtocol, program};

use crate::shell::{self, RootAccess};
use crate::{build, setup, workspace};

/// What is traced.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Show {
    /// Use a process in its own namespaces instead of a container
    #[arg(long)]
    namespaces: bool,
}

/// Runs the command.
pub(crate) fn run() -> Result<()> {
    let undone = setup::prepare(setup::SetupOptions::default())?;
    let (docker, other): (Vec<_>, Vec<_>) = undone.iter().partition(|step| step.name == setup::DOCKER);
    setup::require(other)?;
    println!("build");
    build::release()?;
    for name in ["tls-server", "tls-client"] {
        program(name)?;
    }

    let root = RootAccess::detect();
    if root == RootAccess::None {
        bail!(
            "ctrace loads BPF programs, which takes root, and there is neither root nor a sudo that works \
             here"
        );
    }
    println!("demo");
    let mut show = root.command(&std::env::current_exe()?.to_string_lossy(), &[]);
    show.arg("demo-show");
    for step in docker {
        println!(
            "  without Docker ({}): a process in namespaces of its own takes the container's place",
            step.why
        );
        show.arg("--namespaces");
    }
    let status = show.status().with_context(|| format!("cannot run `{}`", shell::shown(&show)))?;
    if !status.success() {
        bail!("the demo ended with {status}");
    }
    Ok(())
}

/// The part that runs as root.
pub(crate) fn show(options: Show) -> Result<()> {
    let mut demo = if options.namespaces {
        println!("  starting a TLS server in PID and mount namespaces of its own, and a client");
        Demo::start_in_namespaces(DemoProtocol::Http2)?
    } else {
        println!(
            "  starting the container `web` (FROM scratch: a TLS server, its libraries, no shell), and a \
             client"
        );
        Demo::start(DemoProtocol::Http2)?
    };
    let [option, target] = demo.selector();
    let color = if stdout().is_terminal() { "always" } else { "never" };

    println!("\n  its requests, as text for a person:");
    shell::run(ctrace("requests", &option, &target)?.args(["--duration", "4s", "--color", color]))?;

    println!("\n  another client's, byte for byte:");
    demo.speak(DemoProtocol::Http1)?;
    shell::run(ctrace("ssl", &option, &target)?.args(["--duration", "2s", "--color", color]))?;

    println!("\n  as JSON Lines, for a pipeline:");
    let mut json = ctrace("ssl", &option, &target)?;
    json.args(["--duration", "2s", "-o", "json"]);
    println!("    $ {}", shell::shown(&json));
    let output = json.stderr(Stdio::inherit()).output().context("cannot run ctrace")?;
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    if !output.status.success() {
        bail!("ctrace ended with {}", output.status);
    }
    let calls = text.lines().filter(|line| line.contains(r#""type":"ssl""#)).count();
    if calls == 0 {
        bail!("ctrace ran, but saw no TLS call");
    }
    drop(demo);
    println!("\n  {calls} calls in 2 s; what was started is removed again");
    Ok(())
}

fn ctrace(subcommand: &str, option: &str, target: &str) -> Result<std::process::Command> {
    let mut command = shell::command(&workspace::ctrace()?.to_string_lossy());
    command.args([subcommand, option, target]);
    Ok(command)
}
