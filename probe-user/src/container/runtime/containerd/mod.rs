//! containerd: its own API over gRPC.

mod messages;
mod store;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::endpoint::RuntimeEndpoint;
use super::grpc::{Cause, Client};
use super::oci_spec::Spec;
use super::{
    Answer, CONTAINERS, ContainerInfo, ContainerQuery, Details, Gaps, InfoSource, Overlay, RuntimeClient,
    RuntimeReply, Snapshot, labels, merge, transport,
};
use messages::{
    Container, ContainerId, Containers, Empty, Filters, Images, Mounts, Namespaces, OneContainer, OneTask,
    SnapshotKey, Task, Tasks, Version,
};
use store::ContainerdStore;

const NAME: &str = "containerd";
/// Limit of the namespaces that are asked.
const NAMESPACES: usize = 64;
/// Time limit for the list of tasks. Without it, a shim that hangs would cost the names too.
const TASKS: Duration = Duration::from_secs(1);
/// Time limit for the list of images.
const IMAGES: Duration = Duration::from_secs(1);
/// The label in which nerdctl keeps the name of a container.
const NERDCTL: &str = "nerdctl/name";
/// The label that the CRI plugin sets on a pod's sandbox.
const SANDBOX: (&str, &str) = ("io.cri-containerd.kind", "sandbox");

/// containerd alone, and as part of k3s and RKE2, MicroK8s, k0s, and Docker.
pub(super) const RUNTIME: RuntimeClient = RuntimeClient {
    name: NAME,
    protocol: NAME,
    sockets: &[
        "/run/containerd/containerd.sock",
        "/run/k3s/containerd/containerd.sock",
        "/var/snap/microk8s/common/run/containerd.sock",
        "/run/k0s/containerd.sock",
        "/run/docker/containerd/containerd.sock",
    ],
    user_socket: None,
    variable: Some("CONTAINERD_ADDRESS"),
    query: |endpoint, query| {
        Box::pin(async move { transport::within(&endpoint, list(&endpoint, &query)).await })
    },
    describe,
};

async fn list(endpoint: &Arc<RuntimeEndpoint>, query: &ContainerQuery) -> Result<RuntimeReply, Cause> {
    let client = Client::connect(endpoint).await?;
    let version: Version =
        client.call("/containerd.services.version.v1.Version/Version", None, Empty {}).await?;
    let namespaces: Namespaces =
        client.call("/containerd.services.namespaces.v1.Namespaces/List", None, Empty {}).await?;
    let mut containers = Vec::new();
    for namespace in namespaces.namespaces.into_iter().take(NAMESPACES) {
        let listed = list_namespace(&client, endpoint, &namespace.name, query).await?;
        containers.extend(listed.into_iter().take(CONTAINERS.saturating_sub(containers.len())));
    }
    Ok(RuntimeReply { runtime: NAME, version: version.version, containers })
}

async fn list_namespace(
    client: &Client,
    endpoint: &Arc<RuntimeEndpoint>,
    namespace: &str,
    query: &ContainerQuery,
) -> Result<Vec<ContainerInfo>, Cause> {
    // A container that matches one of them is listed, and without a filter each.
    let filters = query.ids().into_iter().flatten().map(|id| format!("id=={id}")).collect();
    let filters = Filters { filters };
    let all = client.call("/containerd.services.containers.v1.Containers/List", Some(namespace), filters);
    let tasks = async {
        match query {
            ContainerQuery::All => tasks(client, namespace).await,
            ContainerQuery::Facts | ContainerQuery::FactsOf(_) => None,
        }
    };
    let (all, tasks, images) = tokio::join!(all, tasks, images(client, namespace));
    let all: Containers = all?;
    let images = ContainerdStore::new(images);
    let has_tasks = tasks.is_some();
    let tasks: HashMap<String, Task> = tasks
        .into_iter()
        .flat_map(|tasks| tasks.tasks)
        .map(|task| (task.container_id().to_owned(), task))
        .collect();
    let namespace: Arc<str> = namespace.into();
    let listed = |container: Container| {
        let task = tasks.get(&container.id);
        let state = match task {
            Some(task) => state(task.status),
            None if has_tasks => "stopped",
            None => "unknown",
        };
        let source = InfoSource { endpoint: Arc::clone(endpoint), namespace: Some(Arc::clone(&namespace)) };
        ContainerInfo {
            is_running: matches!(state, "running" | "paused" | "pausing"),
            state: state.to_owned(),
            pid: client.peer.pid(task.map(|task| i64::from(task.pid))),
            sources: vec![source],
            ..listed(container, &namespace, client.peer.within.clone(), &images)
        }
    };
    Ok(all.containers.into_iter().filter(|container| !container.id.is_empty()).map(listed).collect())
}

/// The images of a namespace. None if they cannot be listed in time.
async fn images(client: &Client, namespace: &str) -> Option<Images> {
    let images = client.call("/containerd.services.images.v1.Images/List", Some(namespace), Empty {});
    match tokio::time::timeout(IMAGES, images).await {
        Ok(Ok(images)) => Some(images),
        Ok(Err(error)) => {
            tracing::debug!("containerd: could not list the images of namespace {namespace:?}: {error}");
            None
        }
        Err(_) => {
            tracing::debug!(
                "containerd: could not list the images of namespace {namespace:?} within {IMAGES:?}"
            );
            None
        }
    }
}

/// The tasks of a namespace. None if they cannot be listed in time.
async fn tasks(client: &Client, namespace: &str) -> Option<Tasks> {
    let tasks = client.call("/containerd.services.tasks.v1.Tasks/List", Some(namespace), Empty {});
    match tokio::time::timeout(TASKS, tasks).await {
        Ok(Ok(tasks)) => Some(tasks),
        Ok(Err(error)) => {
            tracing::debug!("containerd: could not list the tasks of namespace {namespace:?}: {error}");
            None
        }
        Err(_) => {
            tracing::debug!(
                "containerd: could not list the tasks of namespace {namespace:?} within {TASKS:?}"
            );
            None
        }
    }
}

fn listed(
    container: Container,
    namespace: &str,
    within: Option<Arc<str>>,
    images: &ContainerdStore,
) -> ContainerInfo {
    let Container { id, labels, image, spec, created, .. } = container;
    let count = labels.len();
    let labels = labels::bounded(labels);
    let spec = spec.and_then(|spec| Spec::parse(&spec.value));
    let started = spec.as_ref().and_then(Spec::image).map(str::to_owned);
    let image_names = images.names(&image, started.clone(), created);
    let cgroup = match within {
        // The cgroup is below another container's, at a path that only that container can say.
        Some(_) => None,
        None => merge::own_cgroup(&id, || {
            let path = spec.and_then(|spec| spec.cgroup());
            path.unwrap_or_else(|| format!("/{namespace}/{id}"))
        }),
    };
    ContainerInfo {
        names: name(&id, &labels).into_iter().collect(),
        image: image_names.shown(started.as_deref().or(Some(&image))),
        image_names,
        pod: labels::pod(&labels),
        gaps: Gaps::of_labels(count, &labels),
        labels: Arc::new(labels),
        runtime: NAME,
        within,
        cgroup,
        id,
        ..ContainerInfo::default()
    }
}

/// The name that nerdctl or the kubelet gave the container. An id that somebody chose is a name itself.
fn name(id: &str, labels: &BTreeMap<String, String>) -> Option<String> {
    let (kind, sandbox) = SANDBOX;
    if labels.get(kind).is_some_and(|value| value == sandbox) {
        return None;
    }
    let given = labels.get(NERDCTL).map(String::as_str).or_else(|| labels::name_in_pod(labels));
    given.map(str::to_owned).or_else(|| (!crate::proc::cgroup::is_id(id)).then(|| id.to_owned()))
}

/// Names of the values of `containerd.v1.types.Status`.
fn state(status: i32) -> &'static str {
    match status {
        1 => "created",
        2 => "running",
        3 => "stopped",
        4 => "paused",
        5 => "pausing",
        _ => "unknown",
    }
}

impl Task {
    fn container_id(&self) -> &str {
        if self.container.is_empty() { &self.id } else { &self.container }
    }
}

fn describe(source: InfoSource, id: String) -> Answer<Details> {
    Box::pin(async move { transport::within(&source.endpoint, details(&source, id)).await })
}

async fn details(source: &InfoSource, id: String) -> Result<Details, Cause> {
    let client = Client::connect(&source.endpoint).await?;
    let namespace = source.namespace();
    let one: OneContainer = client
        .call("/containerd.services.containers.v1.Containers/Get", namespace, ContainerId { id: id.clone() })
        .await?;
    let container = one.container.unwrap_or_default();
    let task = client.call("/containerd.services.tasks.v1.Tasks/Get", namespace, ContainerId { id });
    // A container without a task does not run.
    let task: Option<OneTask> = tokio::time::timeout(TASKS, task).await.ok().and_then(Result::ok);
    let pid = task.and_then(|task| task.process).map(|task| i64::from(task.pid));
    let (snapshotter, key) = (container.snapshotter, container.snapshot_key);
    let question = SnapshotKey { snapshotter: snapshotter.clone(), key: key.clone() };
    let mounts: Result<Mounts, _> =
        client.call("/containerd.services.snapshots.v1.Snapshots/Mounts", namespace, question).await;
    let spec = container.spec.and_then(|spec| Spec::parse(&spec.value));
    let has_snapshot = !snapshotter.is_empty() && !key.is_empty();
    Ok(Details {
        runtimes: vec![NAME],
        init: client.peer.pid(pid),
        driver: Some(snapshotter.clone()).filter(|name| !name.is_empty()),
        overlay: mounts.ok().and_then(overlay),
        snapshot: has_snapshot.then(|| Snapshot {
            snapshotter,
            key,
            namespace: namespace.unwrap_or_default().to_owned(),
        }),
        mounts: spec.map(Spec::into_mounts).unwrap_or_default(),
    })
}

/// The root file system, if it is an overlay. A single layer without an upper directory is a bind mount.
fn overlay(mounts: Mounts) -> Option<Overlay> {
    let mount = mounts.mounts.into_iter().find(|mount| mount.kind == "overlay")?;
    Some(Overlay::of_options(mount.options.iter().map(String::as_str)))
}

#[cfg(test)]
mod tests;
