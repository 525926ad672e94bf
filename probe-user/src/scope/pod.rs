//! Pods by their names, and by the names of what has created them.
//!
//! Kubernetes names a pod after its owner, and its labels show which part of the name the owner's is. Without
//! these labels a name proves nothing: a pod may be called like another owner's. Pure.

use std::collections::BTreeMap;
use std::fmt;

use crate::event::Pod;
use crate::glob::Glob;
use crate::terminal::escaped;

type Labels = BTreeMap<String, String>;

/// The label of the pods of a Deployment: a hash that is also a part of the name of their `ReplicaSet`.
const TEMPLATE_HASH: &str = "pod-template-hash";
/// The label of the pods of a `StatefulSet`: their own name.
const STATEFUL_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// The label of the pods of a `DaemonSet`, and of a `StatefulSet`.
const REVISION_HASH: &str = "controller-revision-hash";
/// The labels of the pods of a Job: its name. The first one is there since Kubernetes 1.27.
const JOB_NAMES: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

/// Pods: `web-0`, `web-*`, `prod/web-0`, `deploy/web`, `prod/deploy/web`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName {
    /// The Kubernetes namespace, if the user gave it.
    pub namespace: Option<String>,
    /// Whose name it is.
    pub kind: PodNameKind,
    /// The name, or a pattern with `*` and `?`.
    pub name: Glob,
}

/// Whose name selects a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodNameKind {
    /// The pod's own.
    #[default]
    Pod,
    /// That of its Deployment.
    Deployment,
    /// That of its `ReplicaSet`, which a Deployment has created.
    ReplicaSet,
    /// That of its `StatefulSet`.
    StatefulSet,
    /// That of its `DaemonSet`.
    DaemonSet,
    /// That of its Job.
    Job,
    /// That of the `CronJob` that has created its Job.
    CronJob,
}

/// The kinds as kubectl names them, the usual name first.
const KINDS: [(PodNameKind, &[&str]); 7] = [
    (PodNameKind::Pod, &["pod", "pods", "po"]),
    (PodNameKind::Deployment, &["deploy", "deployment", "deployments"]),
    (PodNameKind::ReplicaSet, &["rs", "replicaset", "replicasets"]),
    (PodNameKind::StatefulSet, &["sts", "statefulset", "statefulsets"]),
    (PodNameKind::DaemonSet, &["ds", "daemonset", "daemonsets"]),
    (PodNameKind::Job, &["job", "jobs"]),
    (PodNameKind::CronJob, &["cronjob", "cronjobs", "cj"]),
];

impl PodNameKind {
    /// The kind with this name.
    pub fn parse(text: &str) -> Option<Self> {
        KINDS.iter().find(|(_, names)| names.contains(&text)).map(|(kind, _)| *kind)
    }
}

impl PodName {
    /// Whether a pod has the name. None if that depends on its labels, and these were not reported.
    pub(super) fn matches(&self, pod: &Pod) -> Option<bool> {
        if self.namespace.is_some() && self.namespace != pod.namespace {
            return Some(false);
        }
        if self.kind == PodNameKind::Pod {
            return Some(self.name.matches(&pod.name));
        }
        let owner = owner(self.kind, &pod.name, pod.labels.as_deref()?);
        Some(owner.is_some_and(|owner| self.name.matches(owner)))
    }
}

/// The name of what has created a pod, if that is of this kind.
fn owner<'a>(kind: PodNameKind, pod: &'a str, labels: &'a Labels) -> Option<&'a str> {
    let label = |key: &str| labels.get(key).map(String::as_str).filter(|value| !value.is_empty());
    let without_last = |name: &'a str| name.rsplit_once('-').map(|(owner, _)| owner);
    let replica_set = || {
        let set = without_last(pod)?;
        let deployment = set.strip_suffix(label(TEMPLATE_HASH)?)?.strip_suffix('-')?;
        Some((set, deployment))
    };
    let job = || JOB_NAMES.into_iter().find_map(label);
    match kind {
        PodNameKind::Pod => Some(pod),
        PodNameKind::ReplicaSet => replica_set().map(|(set, _)| set),
        PodNameKind::Deployment => replica_set().map(|(_, deployment)| deployment),
        PodNameKind::StatefulSet => label(STATEFUL_NAME).filter(|name| *name == pod).and_then(without_last),
        PodNameKind::DaemonSet => {
            let is_one = label(REVISION_HASH).is_some() && label(STATEFUL_NAME).is_none();
            without_last(pod).filter(|_| is_one)
        }
        PodNameKind::Job => job(),
        // A CronJob names its Jobs after the minute in which each is due.
        PodNameKind::CronJob => job().and_then(|job| {
            let (owner, minute) = job.rsplit_once('-')?;
            minute.bytes().all(|byte| byte.is_ascii_digit()).then_some(owner)
        }),
    }
}

impl fmt::Display for PodName {
    /// As the user wrote it, escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{}/", escaped(namespace))?;
        }
        let kind = KINDS.iter().find(|(kind, _)| *kind == self.kind && self.kind != PodNameKind::Pod);
        if let Some(name) = kind.and_then(|(_, names)| names.first()) {
            write!(f, "{name}/")?;
        }
        write!(f, "{}", escaped(self.name.text()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn check(kind: &str, wanted: &str, pod: &str, labels: Option<&[(&str, &str)]>, expected: Option<bool>) {
        let labels = labels.map(|all| {
            Arc::new(all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
        });
        let pod = Pod { name: pod.to_owned(), labels, ..Pod::default() };
        let kind = PodNameKind::parse(kind).unwrap_or_default();
        let name = PodName { namespace: None, kind, name: Glob::new(wanted) };
        assert_eq!(name.matches(&pod), expected, "{name} of {pod:?}");
    }

    #[test]
    fn pods_by_their_owners() {
        let hash: &[_] = &[("pod-template-hash", "5d8c9f7b6d")];
        let (yes, no) = (Some(true), Some(false));
        check("deploy", "web", "web-5d8c9f7b6d-x2x4z", Some(hash), yes);
        check("deployment", "we*", "web-5d8c9f7b6d-x2x4z", Some(hash), yes);
        check("deploy", "web", "web-front-5d8c9f7b6d-x2x4z", Some(hash), no);
        check("deploy", "web", "web-x2x4z", Some(hash), no);
        check("deploy", "web", "web-5d8c9f7b6d-x2x4z", Some(&[]), no);
        check("deploy", "web", "web-5d8c9f7b6d-x2x4z", None, None);
        check("rs", "web-5d8c9f7b6d", "web-5d8c9f7b6d-x2x4z", Some(hash), yes);
        let stateful: &[_] =
            &[("statefulset.kubernetes.io/pod-name", "db-0"), ("controller-revision-hash", "db-1")];
        check("sts", "db", "db-0", Some(stateful), yes);
        check("ds", "db", "db-0", Some(stateful), no);
        check("sts", "db", "db-1", Some(stateful), no);
        let daemon: &[_] = &[("controller-revision-hash", "6c")];
        check("ds", "node-agent", "node-agent-x2x4z", Some(daemon), yes);
        check("deploy", "node-agent", "node-agent-x2x4z", Some(daemon), no);
        let job: &[_] = &[("job-name", "report-29012345")];
        check("job", "report-29012345", "report-29012345-x2x4z", Some(job), yes);
        check("cronjob", "report", "report-29012345-x2x4z", Some(job), yes);
        check("cronjob", "report", "report-x-x2x4z", Some(&[("job-name", "report-x")]), no);
    }

    #[test]
    fn pods_by_their_own_names() {
        check("pod", "web-0", "web-0", None, Some(true));
        check("pod", "web-*", "web-0", None, Some(true));
        check("pod", "web", "web-0", None, Some(false));
    }
}
