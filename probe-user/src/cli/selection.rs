//! The options that select what to trace: the same for every tracing command.
//!
//! Their values are parsed in [`super::choice`]; what they match on this machine is decided in
//! [`crate::scope`].

use std::ffi::OsString;

use clap::builder::NonEmptyStringValueParser;
use clap::error::ErrorKind;
use clap::{ArgMatches, Args, Command, FromArgMatches};

use super::choice::{Pid, container, executable, label, pid, pod, runtime_socket, user};
use crate::container::runtime::RuntimeSocket;
use crate::scope::{ContainerName, Criteria, PodName, Properties, Selector};

/// The first process of the machine, from which all others descend.
const FIRST: Pid = Pid::OfHost(1);

/// The group of options of which at least one is required.
const GROUP: &str = "target";

/// Headings of the options in `--help`.
const TRACED: &str = "What to trace (all repeatable)";
const NOT_TRACED: &str = "What not to trace (all repeatable)";

pub(super) const MEANING: &str = "\
What is traced:
  The same option again widens:    --image nginx --image caddy      either image
  Other container options narrow:  --image nginx --namespace prod   both must match
  --pid adds processes:            --container web --pid 2543       the container, and the process
  --comm, --exe, --uid narrow:     --container web --comm nginx     only nginx in the container;
                                   --comm curl                      only curl on the whole machine
  --exclude-* takes away:          --all --exclude-container db     one match is enough
  Containers and processes that match and start later are traced as well.";

#[derive(Args, Debug)]
#[group(skip)]
pub(super) struct TargetArgs {
    #[command(flatten)]
    chosen: ChosenArgs,
    #[command(flatten)]
    excluded: ExcludedArgs,
    #[command(flatten)]
    runtimes: RuntimeArgs,
}

#[derive(Args, Debug)]
#[command(next_help_heading = TRACED)]
#[group(required = true, multiple = true, id = "target")]
struct ChosenArgs {
    /// A container: its name, its id, or a unique prefix of either; docker://NAME if two runtimes have the
    /// name
    #[arg(short, long = "container", value_name = "NAME|ID", group = "target", value_parser = container)]
    containers: Vec<ContainerName>,
    /// Containers of an image: its name as the runtime shows it, or without tag or registry
    #[arg(long = "image", value_name = "IMAGE", group = "target", value_parser = NonEmptyStringValueParser::new())]
    images: Vec<String>,
    /// Containers with a label, or whose pod has it
    #[arg(long = "label", value_name = "KEY[=VALUE]", group = "target", value_parser = label)]
    labels: Vec<(String, Option<String>)>,
    /// Containers of a Docker Compose or Podman Compose service
    #[arg(long = "compose-service", value_name = "NAME", group = "target", value_parser = NonEmptyStringValueParser::new())]
    services: Vec<String>,
    /// Containers of a pod: its name, web-* for all with that prefix, or its owner such as deploy/web or
    /// sts/db (also rs, ds, job, cronjob)
    #[arg(long = "pod", value_name = "[NS/][OWNER/]NAME", group = "target", value_parser = pod)]
    pods: Vec<PodName>,
    /// Containers of a Kubernetes namespace
    #[arg(long = "namespace", value_name = "NS", group = "target", value_parser = NonEmptyStringValueParser::new())]
    namespaces: Vec<String>,
    /// A process and its descendants; for an init, its whole PID namespace; web:1 is process 1 inside of
    /// container web
    #[arg(short, long = "pid", value_name = "[CONTAINER:]PID", group = "target", value_parser = pid)]
    pids: Vec<Pid>,
    /// Processes with this name (comm): the kernel keeps 15 bytes, so the rest is ignored
    #[arg(long = "comm", value_name = "NAME", group = "target", value_parser = NonEmptyStringValueParser::new())]
    comms: Vec<String>,
    /// Processes with this executable or script: its path as they see it, or its file name
    #[arg(long = "exe", value_name = "PATH|NAME", group = "target", value_parser = executable)]
    executables: Vec<String>,
    /// Processes of a user of the host: the effective user id, or a name in /etc/passwd
    #[arg(long = "uid", value_name = "UID|USER", group = "target", value_parser = user)]
    uids: Vec<u32>,
    /// Every process on the machine
    #[arg(short, long, group = "target")]
    all: bool,
    /// A command to start, and to trace with all its descendants from its first call on; its standard output
    /// is left alone
    #[arg(last = true, value_name = "COMMAND", group = "target")]
    command: Vec<OsString>,
}

impl TargetArgs {
    /// Why the options contradict each other in a way that clap cannot detect.
    pub(super) fn conflict(&self) -> Option<String> {
        let ChosenArgs { containers, images, labels, services, pods, namespaces, pids, .. } = &self.chosen;
        let of_containers = [
            containers.is_empty(),
            images.is_empty(),
            labels.is_empty(),
            services.is_empty(),
            pods.is_empty(),
            namespaces.is_empty(),
        ];
        if of_containers == [true; 6] || !pids.contains(&FIRST) {
            return None;
        }
        let name = containers.first().map_or_else(|| "CONTAINER".to_owned(), ToString::to_string);
        Some(format!(
            "--pid 1 is the first process of this machine, and adds everything that runs here to the \
             containers; for the first process of a container, use --pid {name}:1"
        ))
    }

    /// The command to start; empty if there is none.
    pub(super) fn command(&self) -> &[OsString] {
        &self.chosen.command
    }
}

#[derive(Args, Debug)]
#[command(next_help_heading = NOT_TRACED)]
#[group(skip)]
#[expect(
    clippy::struct_field_names,
    reason = "a field's name is the id of its argument, which must be unique"
)]
struct ExcludedArgs {
    /// A container
    #[arg(long = "exclude-container", value_name = "NAME|ID", value_parser = container)]
    exclude_containers: Vec<ContainerName>,
    /// Containers of an image
    #[arg(long = "exclude-image", value_name = "IMAGE", value_parser = NonEmptyStringValueParser::new())]
    exclude_images: Vec<String>,
    /// Containers with a label
    #[arg(long = "exclude-label", value_name = "KEY[=VALUE]", value_parser = label)]
    exclude_labels: Vec<(String, Option<String>)>,
    /// Containers of a Docker Compose or Podman Compose service
    #[arg(long = "exclude-compose-service", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    exclude_services: Vec<String>,
    /// Containers of a pod
    #[arg(long = "exclude-pod", value_name = "[NS/][OWNER/]NAME", value_parser = pod)]
    exclude_pods: Vec<PodName>,
    /// Containers of a Kubernetes namespace
    #[arg(long = "exclude-namespace", value_name = "NS", value_parser = NonEmptyStringValueParser::new())]
    exclude_namespaces: Vec<String>,
    /// Processes with this name
    #[arg(long = "exclude-comm", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    exclude_comms: Vec<String>,
    /// Processes with this executable or script
    #[arg(long = "exclude-exe", value_name = "PATH|NAME", value_parser = executable)]
    exclude_executables: Vec<String>,
    /// Processes of a user of the host
    #[arg(long = "exclude-uid", value_name = "UID|USER", value_parser = user)]
    exclude_uids: Vec<u32>,
}

/// The same for commands that need no selection: without one, they cover everything.
#[derive(Debug)]
pub(super) struct AnyTargetArgs(TargetArgs);

impl Args for AnyTargetArgs {
    fn augment_args(command: Command) -> Command {
        without_command(TargetArgs::augment_args(command))
    }

    fn augment_args_for_update(command: Command) -> Command {
        without_command(TargetArgs::augment_args_for_update(command))
    }
}

/// Removes the command, because commands that do not trace start nothing, and adapts the headings.
fn without_command(command: Command) -> Command {
    command
        .mut_group(GROUP, |group| group.required(false))
        .mut_arg("command", |argument| argument.hide(true))
        .mut_args(|argument| match argument.get_help_heading() {
            Some(TRACED) => argument.help_heading("What to list (all repeatable)"),
            Some(NOT_TRACED) => argument.help_heading("What not to list (all repeatable)"),
            _ => argument,
        })
}

impl FromArgMatches for AnyTargetArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let args = TargetArgs::from_arg_matches(matches)?;
        if let Some(why) = args.conflict() {
            return Err(clap::Error::raw(ErrorKind::ArgumentConflict, format!("{why}\n")));
        }
        if args.command().is_empty() {
            return Ok(Self(args));
        }
        let why = "only tracing commands can start a command: ctrace ssl -- COMMAND\n";
        Err(clap::Error::raw(ErrorKind::UnknownArgument, why))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl From<AnyTargetArgs> for Selector {
    fn from(args: AnyTargetArgs) -> Self {
        let chosen = Self::from(args.0);
        let nothing =
            chosen.containers.is_empty() && chosen.processes == Properties::default() && !chosen.has_pids();
        Self { all: chosen.all || nothing, ..chosen }
    }
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Container runtimes")]
#[group(skip)]
pub(super) struct RuntimeArgs {
    /// Ask a runtime at this address instead of its usual one (repeatable): docker=/run/user/1000/docker.sock
    #[arg(long = "runtime-socket", value_name = "RUNTIME=ADDRESS", value_parser = runtime_socket)]
    pub(super) runtime_sockets: Vec<RuntimeSocket>,
}

impl From<TargetArgs> for Selector {
    fn from(args: TargetArgs) -> Self {
        let TargetArgs { chosen, excluded, runtimes } = args;
        let (mut pids, mut inner_pids) = (Vec::new(), Vec::new());
        for pid in chosen.pids {
            match pid {
                Pid::OfHost(pid) => pids.push(pid),
                Pid::Inner(inner) => inner_pids.push(inner),
            }
        }
        Self {
            all: chosen.all,
            containers: Criteria {
                names: chosen.containers,
                images: chosen.images,
                labels: chosen.labels,
                services: chosen.services,
                pods: chosen.pods,
                namespaces: chosen.namespaces,
            },
            pids,
            inner_pids,
            processes: Properties { comms: chosen.comms, executables: chosen.executables, uids: chosen.uids },
            exclude: Criteria {
                names: excluded.exclude_containers,
                images: excluded.exclude_images,
                labels: excluded.exclude_labels,
                services: excluded.exclude_services,
                pods: excluded.exclude_pods,
                namespaces: excluded.exclude_namespaces,
            },
            exclude_processes: Properties {
                comms: excluded.exclude_comms,
                executables: excluded.exclude_executables,
                uids: excluded.exclude_uids,
            },
            runtime_sockets: runtimes.runtime_sockets,
        }
    }
}
