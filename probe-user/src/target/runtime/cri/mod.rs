//! Any runtime below kubelet: the Container Runtime Interface over gRPC (containerd's plugin, CRI-O, cri-dockerd).

mod messages;

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use self::messages::{Container, Containers, Empty, Sandbox, Sandboxes, Status, StatusOf, Version};
use super::grpc::{Cause, Client};
use super::socket::Endpoint;
use super::spec::Spec;
use super::wire::Peer;
use super::{Answer, CONTAINERS, Details, Listed, MountPoint, Runtime, Snapshot, Source, Told, labels, wire};
use crate::event::Pod;

const NAME: &str = "cri";
/// containerd keeps its plugin's containers in this namespace.
const NAMESPACE: &str = "k8s.io";

pub(super) const RUNTIME: Runtime = Runtime {
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
    ask: |endpoint, _| Box::pin(async move { wire::within(&endpoint, told(&endpoint)).await }),
    describe,
};

async fn told(endpoint: &Arc<Endpoint>) -> Result<Told, Cause> {
    let client = Client::connect(endpoint).await?;
    let version: Version = client.call("/runtime.v1.RuntimeService/Version", None, Empty {}).await?;
    let containers = client.call("/runtime.v1.RuntimeService/ListContainers", None, Empty {});
    let sandboxes = client.call("/runtime.v1.RuntimeService/ListPodSandbox", None, Empty {});
    let (containers, sandboxes): (Containers, Sandboxes) = tokio::try_join!(containers, sandboxes)?;
    let runtime = name(&version.runtime_name);
    let source = Source { endpoint: Arc::clone(endpoint), namespace: None };
    let common =
        Listed { runtime, within: client.peer.within.clone(), sources: vec![source], ..Listed::default() };
    let pods: HashMap<&str, Arc<Pod>> =
        sandboxes.items.iter().filter_map(|sandbox| Some((sandbox.id.as_str(), pod(sandbox)?))).collect();
    let containers = containers.containers.into_iter().map(|container| {
        let pod = pods.get(container.sandbox.as_str()).cloned();
        listed(container, pod, common.clone())
    });
    let sandboxes = sandboxes.items.iter().map(|sandbox| of_sandbox(sandbox, common.clone()));
    let containers = containers.chain(sandboxes).filter(|one| !one.id.is_empty()).take(CONTAINERS).collect();
    Ok(Told { runtime, version: version.runtime_version, containers })
}

/// The runtime behind the interface, as people know it.
fn name(told: &str) -> &'static str {
    match told {
        "containerd" => "containerd",
        "cri-o" => "cri-o",
        "docker" => "docker",
        _ => NAME,
    }
}

fn listed(container: Container, pod: Option<Arc<Pod>>, common: Listed) -> Listed {
    let state = match container.state {
        0 => "created",
        1 => "running",
        2 => "exited",
        _ => "unknown",
    };
    let image = container.image.unwrap_or_default();
    let images = [image.user_specified, image.image];
    let labels = labels::bounded(container.labels);
    Listed {
        id: container.id,
        names: container
            .metadata
            .map(|metadata| metadata.name)
            .filter(|name| !name.is_empty())
            .into_iter()
            .collect(),
        image: images.into_iter().find(|image| !image.is_empty()),
        is_running: state == "running",
        state: state.to_owned(),
        pod: pod.or_else(|| labels::pod(&labels)),
        labels: Arc::new(labels),
        ..common
    }
}

/// The process that holds a pod's namespaces is in a container without a name.
fn of_sandbox(sandbox: &Sandbox, common: Listed) -> Listed {
    let is_running = sandbox.state == 0;
    let labels = labels::bounded(sandbox.labels.clone());
    Listed {
        id: sandbox.id.clone(),
        is_running,
        state: if is_running { "running" } else { "exited" }.to_owned(),
        pod: pod(sandbox),
        labels: Arc::new(labels),
        ..common
    }
}

fn pod(sandbox: &Sandbox) -> Option<Arc<Pod>> {
    let told = sandbox.metadata.clone().filter(|told| !told.name.is_empty())?;
    let known = |text: String| Some(text).filter(|text| !text.is_empty());
    Some(Arc::new(Pod { name: told.name, namespace: known(told.namespace), uid: known(told.uid) }))
}

fn describe(source: Source, id: String) -> Answer<Details> {
    Box::pin(async move {
        let answer = async {
            let client = Client::connect(&source.endpoint).await?;
            let question = StatusOf { id: id.clone(), verbose: true };
            let status = client.call("/runtime.v1.RuntimeService/ContainerStatus", None, question.clone());
            let status: Status = match status.await {
                // A pod's own container is not one of its containers.
                Err(error) if error.code() == tonic::Code::NotFound => {
                    client.call("/runtime.v1.RuntimeService/PodSandboxStatus", None, question).await?
                }
                other => other?,
            };
            Ok::<_, Cause>(details(status, &client.peer))
        };
        wire::within(&source.endpoint, answer).await
    })
}

/// The verbose part of a status, JSON under the key `info`: no standard, and the same in containerd and CRI-O as
/// far as it is read.
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
    // The configuration also has what the runtime itself mounts: /etc/hosts, /dev/shm.
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
