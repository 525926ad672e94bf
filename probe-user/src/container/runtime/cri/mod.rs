//! Any runtime below the kubelet: the Container Runtime Interface over gRPC (containerd's plugin, CRI-O,
//! cri-dockerd).

mod messages;
mod store;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::endpoint::RuntimeEndpoint;
use super::grpc::{Cause, Client};
use super::images::{Extent, ImageNames, is_id};
use super::oci_spec::Spec;
use super::transport::Peer;
use super::{
    Answer, CONTAINERS, ContainerInfo, ContainerQuery, Details, Gaps, InfoSource, MountPoint, RuntimeClient,
    RuntimeReply, Snapshot, labels, transport,
};
use crate::event::Pod;
use messages::{
    Container, Containers, Empty, Filter, Filtered, Sandbox, Sandboxes, Status, StatusOf, StoredImages,
    Version,
};
use store::CriStore;

const NAME: &str = "cri";
/// The namespace in which containerd keeps its plugin's containers.
const NAMESPACE: &str = "k8s.io";
/// Time limit for the list of images: names of containers are more important.
const IMAGES: Duration = Duration::from_secs(1);

pub(super) const RUNTIME: RuntimeClient = RuntimeClient {
    name: NAME,
    protocol: NAME,
    sockets: &[
        "/run/crio/crio.sock",
        "/run/containerd/containerd.sock",
        "/run/k3s/containerd/containerd.sock",
        "/var/snap/microk8s/common/run/containerd.sock",
        "/run/k0s/containerd.sock",
        "/run/cri-dockerd.sock",
    ],
    user_socket: None,
    variable: Some("CONTAINER_RUNTIME_ENDPOINT"),
    query: |endpoint, query| {
        Box::pin(async move { transport::within(&endpoint, list(&endpoint, &query)).await })
    },
    describe,
};

async fn list(endpoint: &Arc<RuntimeEndpoint>, query: &ContainerQuery) -> Result<RuntimeReply, Cause> {
    let client = Client::connect(endpoint).await?;
    let version: Version = client.call("/runtime.v1.RuntimeService/Version", None, Empty {}).await?;
    let both = async {
        match query.ids() {
            None => tokio::try_join!(containers(&client, None), sandboxes(&client, None)),
            Some(ids) => with_ids(&client, ids).await,
        }
    };
    let (both, images) = tokio::join!(both, images(&client));
    let (containers, sandboxes) = both?;
    let images = CriStore::new(images);
    let runtime = name(&version.runtime_name);
    let source = InfoSource { endpoint: Arc::clone(endpoint), namespace: None };
    let common = ContainerInfo {
        runtime,
        within: client.peer.within.clone(),
        sources: vec![source],
        ..ContainerInfo::default()
    };
    let pods: HashMap<&str, Arc<Pod>> =
        sandboxes.items.iter().filter_map(|sandbox| Some((sandbox.id.as_str(), pod(sandbox)?))).collect();
    let containers = containers.containers.into_iter().map(|container| {
        let pod = pods.get(container.sandbox.as_str()).cloned();
        listed(container, pod, &images, common.clone())
    });
    let sandboxes = sandboxes.items.iter().map(|sandbox| sandbox_info(sandbox, common.clone()));
    let containers = containers.chain(sandboxes).filter(|one| !one.id.is_empty()).take(CONTAINERS).collect();
    Ok(RuntimeReply { runtime, version: version.runtime_version, containers })
}

/// The containers with this id, or all.
async fn containers(client: &Client, id: Option<String>) -> Result<Containers, tonic::Status> {
    let filtered = Filtered { filter: id.map(|id| Filter { id }) };
    client.call("/runtime.v1.RuntimeService/ListContainers", None, filtered).await
}

/// The pods with this id, or all.
async fn sandboxes(client: &Client, id: Option<String>) -> Result<Sandboxes, tonic::Status> {
    let filtered = Filtered { filter: id.map(|id| Filter { id }) };
    client.call("/runtime.v1.RuntimeService/ListPodSandbox", None, filtered).await
}

/// The containers and pods with these ids, and the pods of these containers.
async fn with_ids(client: &Client, ids: &BTreeSet<String>) -> Result<(Containers, Sandboxes), tonic::Status> {
    let mut found = (Containers::default(), Sandboxes::default());
    for id in ids {
        let of_id = containers(client, Some(id.clone())).await?.containers;
        let mut pods = BTreeSet::from([id.clone()]);
        pods.extend(of_id.iter().map(|container| container.sandbox.clone()).filter(|id| !id.is_empty()));
        for pod in pods {
            if !found.1.items.iter().any(|sandbox| sandbox.id == pod) {
                found.1.items.extend(sandboxes(client, Some(pod)).await?.items);
            }
        }
        found.0.containers.extend(of_id);
    }
    Ok(found)
}

/// The images of the runtime. None if they cannot be listed in time, or are not served here.
async fn images(client: &Client) -> Option<StoredImages> {
    let images = client.call("/runtime.v1.ImageService/ListImages", None, Empty {});
    match tokio::time::timeout(IMAGES, images).await {
        Ok(Ok(images)) => Some(images),
        Ok(Err(error)) => {
            tracing::debug!("cri: could not list images: {error}");
            None
        }
        Err(_) => {
            tracing::debug!("cri: could not list images within {IMAGES:?}");
            None
        }
    }
}

/// The common name of the runtime behind the interface.
fn name(reported: &str) -> &'static str {
    match reported {
        "containerd" => "containerd",
        "cri-o" => "cri-o",
        "docker" => "docker",
        _ => NAME,
    }
}

fn listed(
    container: Container,
    pod: Option<Arc<Pod>>,
    images: &CriStore,
    common: ContainerInfo,
) -> ContainerInfo {
    let state = match container.state {
        0 => "created",
        1 => "running",
        2 => "exited",
        _ => "unknown",
    };
    let image = container.image.unwrap_or_default();
    let started = [image.user_specified, image.image];
    let image_names = images.names(&started, &[container.image_id, container.image_ref]);
    let started = started.iter().find(|name| !name.is_empty() && !is_id(name));
    let count = container.labels.len();
    let labels = labels::bounded(container.labels);
    ContainerInfo {
        id: container.id,
        names: container
            .metadata
            .map(|metadata| metadata.name)
            .filter(|name| !name.is_empty())
            .into_iter()
            .collect(),
        image: image_names.shown(started.map(String::as_str)),
        image_names,
        is_running: state == "running",
        state: state.to_owned(),
        pod: pod.or_else(|| labels::pod(&labels)),
        gaps: Gaps::of_labels(count, &labels),
        labels: Arc::new(labels),
        ..common
    }
}

/// The nameless container with the process that holds a pod's namespaces.
fn sandbox_info(sandbox: &Sandbox, common: ContainerInfo) -> ContainerInfo {
    let is_running = sandbox.state == 0;
    let labels = labels::bounded(sandbox.labels.clone());
    ContainerInfo {
        id: sandbox.id.clone(),
        // It has an image, but the interface does not report it.
        image_names: ImageNames::new(None, Extent::Part),
        is_running,
        state: if is_running { "running" } else { "exited" }.to_owned(),
        pod: pod(sandbox),
        gaps: Gaps::of_labels(sandbox.labels.len(), &labels),
        labels: Arc::new(labels),
        ..common
    }
}

fn pod(sandbox: &Sandbox) -> Option<Arc<Pod>> {
    let metadata = sandbox.metadata.clone().filter(|metadata| !metadata.name.is_empty())?;
    let non_empty = |text: String| Some(text).filter(|text| !text.is_empty());
    Some(Arc::new(Pod {
        name: metadata.name,
        namespace: non_empty(metadata.namespace),
        uid: non_empty(metadata.uid),
        labels: Some(Arc::new(labels::bounded(sandbox.labels.clone()))),
    }))
}

fn describe(source: InfoSource, id: String) -> Answer<Details> {
    Box::pin(async move {
        let answer = async {
            let client = Client::connect(&source.endpoint).await?;
            let question = StatusOf { id: id.clone(), verbose: true };
            let status = client.call("/runtime.v1.RuntimeService/ContainerStatus", None, question.clone());
            let status: Status = match status.await {
                // A pod's own container does not count as one of its containers.
                Err(error) if error.code() == tonic::Code::NotFound => {
                    client.call("/runtime.v1.RuntimeService/PodSandboxStatus", None, question).await?
                }
                other => other?,
            };
            Ok::<_, Cause>(details(status, &client.peer))
        };
        transport::within(&source.endpoint, answer).await
    })
}

/// The verbose part of a status, JSON under the key `info`. It is not standardised, but the fields that are
/// read here are the same in containerd and CRI-O.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Info {
    pid: Option<i64>,
    snapshotter: String,
    snapshot_key: String,
    runtime_spec: Option<Spec>,
}

fn details(status: Status, peer: &Peer) -> Details {
    let info: Info =
        status.info.get("info").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let Info { pid, snapshotter, snapshot_key: key, runtime_spec } = info;
    let has_snapshot = !snapshotter.is_empty() && !key.is_empty();
    let mounts = status.status.unwrap_or_default().mounts.into_iter().map(|mount| MountPoint {
        kind: "bind".to_owned(),
        name: None,
        source: mount.host_path,
        destination: mount.container_path,
        is_writable: !mount.readonly,
    });
    // The configuration also contains what the runtime itself mounts: /etc/hosts, /dev/shm.
    let all = runtime_spec.map(Spec::into_mounts).unwrap_or_default();
    Details {
        runtimes: vec![NAME],
        init: peer.pid(pid),
        driver: Some(snapshotter.clone()).filter(|name| !name.is_empty()),
        overlay: None,
        snapshot: has_snapshot.then(|| Snapshot { snapshotter, key, namespace: NAMESPACE.to_owned() }),
        mounts: if all.is_empty() { mounts.collect() } else { all },
    }
}

#[cfg(test)]
mod tests;
