//! The display of a selector, for messages.
//!
//! Owns the wording. Names are untrusted (they may come from a script), so they are escaped.

use std::fmt;

use super::{ContainerName, Criteria, InnerPid, Properties, Selector};
use crate::terminal::escaped;

impl fmt::Display for Selector {
    /// `container web, pid 12; only comm nginx; not image caddy`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chosen = self.containers.words();
        chosen.extend(self.pids.iter().map(|pid| format!("pid {pid}")));
        chosen.extend(self.inner_pids.iter().map(|inner| format!("pid {inner}")));
        if self.all {
            chosen.push("all processes".to_owned());
        }
        let only = self.processes.words();
        let mut not = self.exclude.words();
        not.extend(self.exclude_processes.words());
        let only = match (chosen.is_empty(), only.is_empty()) {
            (_, true) => None,
            (true, false) => Some(format!("all processes with {}", only.join(", "))),
            (false, false) => Some(format!("only {}", only.join(", "))),
        };
        let chosen = (!chosen.is_empty()).then(|| chosen.join(", "));
        let not = (!not.is_empty()).then(|| format!("not {}", not.join(", ")));
        f.write_str(&chosen.into_iter().chain(only).chain(not).collect::<Vec<_>>().join("; "))
    }
}

impl Criteria {
    fn words(&self) -> Vec<String> {
        let names = self.names.iter().map(|name| format!("container {name}"));
        let images = self.images.iter().map(|image| format!("image {}", escaped(image)));
        let labels = self.labels.iter().map(|(key, value)| match value {
            Some(value) => format!("label {}={}", escaped(key), escaped(value)),
            None => format!("label {}", escaped(key)),
        });
        let services = self.services.iter().map(|name| format!("compose service {}", escaped(name)));
        let pods = self.pods.iter().map(|pod| format!("pod {pod}"));
        let namespaces = self.namespaces.iter().map(|name| format!("namespace {}", escaped(name)));
        names.chain(images).chain(labels).chain(services).chain(pods).chain(namespaces).collect()
    }
}

impl Properties {
    fn words(&self) -> Vec<String> {
        let comms = self.comms.iter().map(|comm| format!("comm {}", escaped(comm)));
        let executables = self.executables.iter().map(|path| format!("exe {}", escaped(path)));
        let uids = self.uids.iter().map(|uid| format!("uid {uid}"));
        comms.chain(executables).chain(uids).collect()
    }
}

impl fmt::Display for ContainerName {
    /// As the user wrote it, escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.runtime {
            Some(runtime) => write!(f, "{}://{}", escaped(runtime), escaped(&self.name)),
            None => write!(f, "{}", escaped(&self.name)),
        }
    }
}

impl fmt::Display for InnerPid {
    /// As the user wrote it, escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.container, self.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::glob::Glob;
    use crate::scope::{PodName, PodNameKind};

    #[test]
    fn everything_in_the_users_words() {
        let name = |runtime: Option<&str>, name: &str| ContainerName {
            runtime: runtime.map(str::to_owned),
            name: name.to_owned(),
        };
        let criteria = Criteria {
            names: vec![name(None, "web"), name(Some("docker"), "\x1b[2J")],
            images: vec!["nginx:1".to_owned()],
            labels: vec![("tier".to_owned(), Some("a\n".to_owned())), ("x".to_owned(), None)],
            services: vec!["api".to_owned()],
            pods: vec![PodName {
                namespace: Some("prod".to_owned()),
                kind: PodNameKind::Deployment,
                name: Glob::new("web"),
            }],
            namespaces: vec!["prod".to_owned()],
        };
        let properties = Properties {
            comms: vec!["nginx".to_owned()],
            executables: vec!["/x".to_owned()],
            uids: vec![33],
        };
        let selector = Selector {
            all: true,
            containers: criteria,
            pids: vec![12],
            inner_pids: vec![InnerPid { container: name(Some("docker"), "web"), pid: 1 }],
            processes: properties.clone(),
            exclude: Criteria { images: vec!["caddy".to_owned()], ..Criteria::default() },
            exclude_processes: Properties { uids: vec![0], ..Properties::default() },
            runtime_sockets: Vec::new(),
        };
        assert_eq!(
            selector.to_string(),
            "container web, container docker://\\x1b[2J, image nginx:1, label tier=a\\n, label x, \
             compose service api, pod prod/deploy/web, namespace prod, pid 12, pid docker://web:1, all processes; \
             only comm nginx, exe /x, uid 33; not image caddy, uid 0"
        );
        let selector = Selector { processes: properties, ..Selector::default() };
        assert_eq!(selector.to_string(), "all processes with comm nginx, exe /x, uid 33");
    }
}
