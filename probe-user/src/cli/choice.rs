//! Parses the values of selection options: containers, processes, labels, pods, users, runtime sockets.
//!
//! The options themselves are in [`super::selection`]; what the values match on this machine is decided in
//! [`crate::scope`].

use crate::container::runtime;
use crate::container::runtime::RuntimeSocket;
use crate::glob::Glob;
use crate::proc::passwd;
use crate::scope::{ContainerName, InnerPid, PodName, PodNameKind};

/// The largest pid of Linux (`PID_MAX_LIMIT` of linux/threads.h).
const PID_MAX: u32 = 4_194_304;

/// A process: `2543` on the host, `web:1` inside of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pid {
    OfHost(u32),
    Inner(InnerPid),
}

/// `web`, `docker://web`.
pub(super) fn container(text: &str) -> Result<ContainerName, String> {
    let (runtime, name) = match text.split_once("://") {
        Some((runtime, name)) => (Some(runtime_name(runtime)?.to_owned()), name),
        None => (None, text),
    };
    if name.is_empty() {
        return Err("a container is a name, an id, or a unique prefix of either".to_owned());
    }
    Ok(ContainerName { runtime, name: name.to_owned() })
}

/// `2543`, `web:1`, `docker://web:1`.
pub(super) fn pid(text: &str) -> Result<Pid, String> {
    let number = |digits: &str| {
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let pid = digits.parse().ok().filter(|pid| is_number && (1..=PID_MAX).contains(pid));
        pid.ok_or_else(|| {
            format!("a process is a number from 1 to {PID_MAX}, or CONTAINER:NUMBER such as web:1")
        })
    };
    match text.rsplit_once(':') {
        Some((name, digits)) => {
            let pid = number(digits)?;
            Ok(Pid::Inner(InnerPid { container: container(name)?, pid }))
        }
        None => number(text).map(Pid::OfHost),
    }
}

fn runtime_name(name: &str) -> Result<&'static str, String> {
    let found = runtime::ALL.iter().map(|runtime| runtime.name).find(|own| *own == name);
    found.ok_or_else(|| {
        let names: Vec<&str> = runtime::ALL.iter().map(|runtime| runtime.name).collect();
        format!("unknown runtime {name:?}; the runtimes are {}", names.join(", "))
    })
}

/// `tier`, `tier=web`. The value may be empty, and may contain `=`.
pub(super) fn label(text: &str) -> Result<(String, Option<String>), String> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (text, None),
    };
    if key.is_empty() {
        return Err("a label is KEY or KEY=VALUE".to_owned());
    }
    Ok((key.to_owned(), value))
}

/// `web-0`, `web-*`, `prod/web-0`, `deploy/web`, `prod/deploy/web`.
pub(super) fn pod(text: &str) -> Result<PodName, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let (namespace, kind, name) = match *parts.as_slice() {
        [name] => (None, Some(PodNameKind::Pod), name),
        [first, name] => match PodNameKind::parse(first) {
            Some(kind) => (None, Some(kind), name),
            None => (Some(first), Some(PodNameKind::Pod), name),
        },
        [namespace, kind, name] => (Some(namespace), PodNameKind::parse(kind), name),
        _ => (None, None, ""),
    };
    let namespace = namespace.map(str::to_owned);
    match kind {
        Some(kind) if !name.is_empty() && namespace.as_ref().is_none_or(|name| !name.is_empty()) => {
            Ok(PodName { namespace, kind, name: Glob::new(name) })
        }
        _ => Err("a pod is NAME, NAMESPACE/NAME, OWNER/NAME or NAMESPACE/OWNER/NAME, where an owner is \
                  deploy, rs, sts, ds, job or cronjob"
            .to_owned()),
    }
}

/// `/usr/sbin/nginx`, `nginx`. A relative path is refused, because it would never match.
pub(super) fn executable(text: &str) -> Result<String, String> {
    if text.is_empty() || text.ends_with('/') || (text.contains('/') && !text.starts_with('/')) {
        return Err("give the absolute path of the executable, or its file name alone".to_owned());
    }
    Ok(text.to_owned())
}

/// `1000`, `www-data`.
pub(super) fn user(text: &str) -> Result<u32, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map_err(|_| "a user id is at most 4294967295".to_owned());
    }
    passwd::uid(text).map_err(|error| match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    })
}

/// `docker=/run/docker.sock`, `docker=tcp://127.0.0.1:2375`.
pub(super) fn runtime_socket(text: &str) -> Result<RuntimeSocket, String> {
    let (runtime, address) = text.split_once('=').unwrap_or((text, ""));
    let runtime = runtime_name(runtime)?.to_owned();
    if address.is_empty() {
        return Err(format!("the address of {runtime} is missing: write {runtime}=/path/of/its.sock"));
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
        check(container, "", "a container is a name, an id");
        check(container, "docker://", "a container is a name, an id");
        check(container, "dokcer://web", "unknown runtime \"dokcer\"; the runtimes are docker");
        check(container, "\x1b[2J://x", "unknown runtime \"\\u{1b}[2J\"");
    }

    #[test]
    fn processes_of_the_host_and_inside_of_containers() {
        check(pid, "2543", "OfHost(2543)");
        check(pid, "4194304", "OfHost(4194304)");
        check(
            pid,
            "web:1",
            r#"InnerPid { container: ContainerName { runtime: None, name: "web" }, pid: 1 }"#,
        );
        check(pid, "docker://web:1", r#"runtime: Some("docker"), name: "web" }, pid: 1"#);
        check(pid, "/default/a:b:7", r#"name: "/default/a:b" }, pid: 7"#);
        for wrong in
            ["", "0", "-1", "+1", "web", "4194305", "99999999999", "web:", "web:0", "docker://web", "web: 1"]
        {
            check(pid, wrong, "a process is a number from 1 to 4194304, or CONTAINER:NUMBER");
        }
        check(pid, ":1", "a container is a name, an id");
        check(pid, "dokcer://web:1", "unknown runtime \"dokcer\"");
    }

    #[test]
    fn labels_pods_executables() {
        check(label, "tier", r#"("tier", None)"#);
        check(label, "tier=web=1", r#"("tier", Some("web=1"))"#);
        check(label, "tier=", r#"("tier", Some(""))"#);
        check(label, "=web", "KEY=VALUE");
        check(label, "", "KEY=VALUE");
        check(pod, "web-0", r#"namespace: None, kind: Pod, name: Glob("web-0")"#);
        check(pod, "prod/web-*", r#"namespace: Some("prod"), kind: Pod, name: Glob("web-*")"#);
        check(pod, "deploy/web", r#"namespace: None, kind: Deployment, name: Glob("web")"#);
        check(pod, "prod/sts/db", r#"namespace: Some("prod"), kind: StatefulSet, name: Glob("db")"#);
        check(pod, "deploy/pod/web-0", r#"namespace: Some("deploy"), kind: Pod, name: Glob("web-0")"#);
        for wrong in ["", "/", "prod/", "/web", "a/b/c", "deploy/", "/deploy/x", "a/deploy/b/c"] {
            check(pod, wrong, "NAMESPACE/NAME");
        }
        check(executable, "/usr/sbin/nginx", "/usr/sbin/nginx");
        check(executable, "nginx", "nginx");
        for wrong in ["", "/", "sbin/nginx", "./nginx", "/usr/"] {
            check(executable, wrong, "absolute path");
        }
    }

    #[test]
    fn users_and_sockets() {
        check(user, "0", "0");
        check(user, "root", "0");
        check(user, "4294967296", "at most");
        check(user, "no such user", "no user \"no such user\"");
        check(user, "", "no user \"\"");
        check(runtime_socket, "docker=/x", r#"runtime: "docker", address: "/x""#);
        check(runtime_socket, "docker=tcp://h:1?a=b", r#"address: "tcp://h:1?a=b""#);
        check(runtime_socket, "docker", "docker=/path/of/its.sock");
        check(runtime_socket, "docker=", "docker=/path/of/its.sock");
        check(runtime_socket, "/run/docker.sock", "unknown runtime");
    }
}
