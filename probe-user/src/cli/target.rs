//! What to trace, as options: the same for every command that traces.
//!
//! Owns the options, and the syntax of their values. What they mean on this machine is [`crate::target`]'s.

use std::ffi::OsString;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::target::{ContainerName, Criteria, PodName, Properties, RuntimeSocket, Selector, runtime, users};

/// The largest pid of Linux (`PID_MAX_LIMIT` of linux/threads.h).
const PID_MAX: i64 = 4_194_304;

pub(super) const MEANING: &str = "\
What is traced:
  The same option again widens:    --image nginx --image caddy      either
  Another of containers narrows:   --image nginx --namespace prod   both at once
  --pid adds processes:            --container web --pid 2543       the container, and the process
  --comm, --exe, --uid narrow:     --container web --comm nginx     of the container only nginx;
                                   --comm curl                      of the whole machine only curl
  --exclude-* takes away:          --all --exclude-container db     any match is enough
  Containers and processes that start later and match are traced as well.";

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
#[command(next_help_heading = "What to trace (all repeatable)")]
#[group(required = true, multiple = true, id = "target")]
struct ChosenArgs {
    /// A container: its name, its id, or a unique prefix of either; docker://NAME if two runtimes have one
    #[arg(short, long = "container", value_name = "NAME|ID", group = "target", value_parser = container)]
    containers: Vec<ContainerName>,
    /// Containers of an image: as its runtime shows it, without tag or registry too
    #[arg(long = "image", value_name = "IMAGE", group = "target", value_parser = NonEmptyStringValueParser::new())]
    images: Vec<String>,
    /// Containers with a label
    #[arg(long = "label", value_name = "KEY[=VALUE]", group = "target", value_parser = label)]
    labels: Vec<(String, Option<String>)>,
    /// Containers of a service of Docker Compose or Podman Compose
    #[arg(long = "compose-service", value_name = "NAME", group = "target", value_parser = NonEmptyStringValueParser::new())]
    services: Vec<String>,
    /// Containers of a pod
    #[arg(long = "pod", value_name = "[NS/]NAME", group = "target", value_parser = pod)]
    pods: Vec<PodName>,
    /// Containers of a Kubernetes namespace
    #[arg(long = "namespace", value_name = "NS", group = "target", value_parser = NonEmptyStringValueParser::new())]
    namespaces: Vec<String>,
    /// A process and its descendants; of a PID namespace's first process, the whole namespace
    #[arg(short, long = "pid", value_name = "PID", group = "target", value_parser = clap::value_parser!(u32).range(1..=PID_MAX))]
    pids: Vec<u32>,
    /// Processes of this name, as the kernel has it: at most 15 bytes, the rest is ignored
    #[arg(long = "comm", value_name = "NAME", group = "target", value_parser = NonEmptyStringValueParser::new())]
    comms: Vec<String>,
    /// Processes with this executable: its path as they see it, or its file name
    #[arg(long = "exe", value_name = "PATH|NAME", group = "target", value_parser = executable)]
    executables: Vec<String>,
    /// Processes of a user of the host: the effective id, or a name of /etc/passwd
    #[arg(long = "uid", value_name = "UID|USER", group = "target", value_parser = user)]
    uids: Vec<u32>,
    /// Every process on the machine
    #[arg(short, long, group = "target")]
    all: bool,
    /// A command to start, with everything that it starts, from its first call on; its standard output stays its own
    #[arg(last = true, value_name = "COMMAND", group = "target")]
    command: Vec<OsString>,
}

impl TargetArgs {
    /// The command to start; empty if there is none.
    pub(super) fn command(&self) -> &[OsString] {
        &self.chosen.command
    }
}

#[derive(Args, Debug)]
#[command(next_help_heading = "What not to trace (all repeatable)")]
#[group(skip)]
struct ExcludedArgs {
    /// Not this container
    #[arg(long = "exclude-container", value_name = "NAME|ID", value_parser = container)]
    exclude_containers: Vec<ContainerName>,
    /// No container of this image
    #[arg(long = "exclude-image", value_name = "IMAGE", value_parser = NonEmptyStringValueParser::new())]
    exclude_images: Vec<String>,
    /// No container with this label
    #[arg(long = "exclude-label", value_name = "KEY[=VALUE]", value_parser = label)]
    exclude_labels: Vec<(String, Option<String>)>,
    /// No container of this service
    #[arg(long = "exclude-compose-service", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    exclude_services: Vec<String>,
    /// No container of this pod
    #[arg(long = "exclude-pod", value_name = "[NS/]NAME", value_parser = pod)]
    exclude_pods: Vec<PodName>,
    /// No container of this Kubernetes namespace
    #[arg(long = "exclude-namespace", value_name = "NS", value_parser = NonEmptyStringValueParser::new())]
    exclude_namespaces: Vec<String>,
    /// No process of this name
    #[arg(long = "exclude-comm", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    exclude_comms: Vec<String>,
    /// No process with this executable
    #[arg(long = "exclude-exe", value_name = "PATH|NAME", value_parser = executable)]
    exclude_executables: Vec<String>,
    /// No process of this user
    #[arg(long = "exclude-uid", value_name = "UID|USER", value_parser = user)]
    exclude_uids: Vec<u32>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Container runtimes")]
#[group(skip)]
struct RuntimeArgs {
    /// Ask a runtime here instead of where it usually listens (repeatable): docker=/run/user/1000/docker.sock
    #[arg(long = "runtime-socket", value_name = "RUNTIME=ADDRESS", value_parser = runtime_socket)]
    runtime_sockets: Vec<RuntimeSocket>,
}

impl From<TargetArgs> for Selector {
    fn from(args: TargetArgs) -> Self {
        let TargetArgs { chosen, excluded, runtimes } = args;
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
            pids: chosen.pids,
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

/// `web`, `docker://web`.
fn container(text: &str) -> Result<ContainerName, String> {
    let (runtime, name) = match text.split_once("://") {
        Some((runtime, name)) => (Some(known_runtime(runtime)?.to_owned()), name),
        None => (None, text),
    };
    if name.is_empty() {
        return Err("a name, an id or the beginning of either is needed".to_owned());
    }
    Ok(ContainerName { runtime, name: name.to_owned() })
}

fn known_runtime(name: &str) -> Result<&'static str, String> {
    let found = runtime::ALL.iter().map(|runtime| runtime.name).find(|known| *known == name);
    found.ok_or_else(|| {
        let known: Vec<&str> = runtime::ALL.iter().map(|runtime| runtime.name).collect();
        format!("no runtime is called {name:?}; there are {}", known.join(", "))
    })
}

/// `tier`, `tier=web`. A value may be empty, and hold more `=`.
fn label(text: &str) -> Result<(String, Option<String>), String> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (text, None),
    };
    if key.is_empty() {
        return Err("a label is KEY or KEY=VALUE".to_owned());
    }
    Ok((key.to_owned(), value))
}

/// `web-0`, `prod/web-0`.
fn pod(text: &str) -> Result<PodName, String> {
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace.to_owned()), name),
        None => (None, text),
    };
    if name.is_empty() || name.contains('/') || namespace.as_ref().is_some_and(String::is_empty) {
        return Err("a pod is NAME or NAMESPACE/NAME".to_owned());
    }
    Ok(PodName { namespace, name: name.to_owned() })
}

/// `/usr/sbin/nginx`, `nginx`. A path that is relative to nothing in particular would match nothing.
fn executable(text: &str) -> Result<String, String> {
    if text.is_empty() || text.ends_with('/') || (text.contains('/') && !text.starts_with('/')) {
        return Err("an executable is its whole path, from / on, or its file name alone".to_owned());
    }
    Ok(text.to_owned())
}

/// `1000`, `www-data`.
fn user(text: &str) -> Result<u32, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map_err(|_| "a user id is at most 4294967295".to_owned());
    }
    users::uid(text).map_err(|error| match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    })
}

/// `docker=/run/docker.sock`, `docker=tcp://127.0.0.1:2375`.
fn runtime_socket(text: &str) -> Result<RuntimeSocket, String> {
    let (runtime, address) = text.split_once('=').unwrap_or((text, ""));
    let runtime = known_runtime(runtime)?.to_owned();
    if address.is_empty() {
        return Err(format!("where {runtime} listens is needed: {runtime}=/path/of/its.sock"));
    }
    Ok(RuntimeSocket { runtime, address: address.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: std::fmt::Debug>(parse: fn(&str) -> Result<T, String>, text: &str, expected: &str) {
        let found = match parse(text) {
            Ok(value) => format!("{value:?}"),
            Err(error) => error,
        };
        assert!(found.contains(expected), "{text:?}: {found}");
    }

    #[test]
    fn containers() {
        check(container, "web", r#"ContainerName { runtime: None, name: "web" }"#);
        check(container, "docker://web", r#"runtime: Some("docker"), name: "web""#);
        check(container, "", "a name, an id");
        check(container, "docker://", "a name, an id");
        check(container, "dokcer://web", "no runtime is called \"dokcer\"; there are docker");
        check(container, "\x1b[2J://x", "no runtime is called \"\\u{1b}[2J\"");
    }

    #[test]
    fn labels_pods_executables() {
        check(label, "tier", r#"("tier", None)"#);
        check(label, "tier=web=1", r#"("tier", Some("web=1"))"#);
        check(label, "tier=", r#"("tier", Some(""))"#);
        check(label, "=web", "KEY=VALUE");
        check(label, "", "KEY=VALUE");
        check(pod, "web-0", r#"namespace: None, name: "web-0""#);
        check(pod, "prod/web-0", r#"namespace: Some("prod"), name: "web-0""#);
        for wrong in ["", "/", "prod/", "/web", "a/b/c"] {
            check(pod, wrong, "NAMESPACE/NAME");
        }
        check(executable, "/usr/sbin/nginx", "/usr/sbin/nginx");
        check(executable, "nginx", "nginx");
        for wrong in ["", "/", "sbin/nginx", "./nginx", "/usr/"] {
            check(executable, wrong, "whole path");
        }
    }

    #[test]
    fn users_and_sockets() {
        check(user, "0", "0");
        check(user, "root", "0");
        check(user, "4294967296", "at most");
        check(user, "no such user", "no user is called \"no such user\"");
        check(user, "", "no user is called \"\"");
        check(runtime_socket, "docker=/x", r#"runtime: "docker", address: "/x""#);
        check(runtime_socket, "docker=tcp://h:1?a=b", r#"address: "tcp://h:1?a=b""#);
        check(runtime_socket, "docker", "docker=/path/of/its.sock");
        check(runtime_socket, "docker=", "docker=/path/of/its.sock");
        check(runtime_socket, "/run/docker.sock", "no runtime is called");
    }
}
