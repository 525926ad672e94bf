//! Pods through the Container Runtime Interface, as kubelet creates them: containerd's CRI plugin over gRPC.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use prost::Message;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

use super::containerd::{Containerd, Plugin};
use super::cri_api::{
    ContainerConfig, ContainerMetadata, ContainerStatusRequest, ContainerStatusResponse,
    CreateContainerRequest, Done, ExecSyncRequest, ExecSyncResponse, Id, ImageSpec, LinuxContainerConfig,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NODE, NamespaceOption,
    PodSandboxConfig, PodSandboxMetadata, RunPodSandboxRequest,
};
use super::daemon::{Daemon, wait_until};
use super::{Archive, Driver, Request, Started, TestPod, cgroups};

/// The containerd namespace in which the CRI plugin runs containers.
const NAMESPACE: &str = "k8s.io";
const TIMEOUT: Duration = Duration::from_mins(1);

/// The driver.
#[derive(Debug)]
pub(super) struct Cri {
    runtime: tokio::runtime::Runtime,
    containerd: Containerd,
}

impl Cri {
    /// Starts containerd and imports the image of the pods' sandboxes.
    pub(super) fn start() -> Result<Self> {
        let containerd = Containerd::start(Plugin::Cri)?;
        containerd.import(NAMESPACE, &Archive::tls()?)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, containerd })
    }

    /// Makes one call. The plugin is ready later than its daemon and says so; then we try again.
    fn call<Q, A>(&self, method: &str, request: &Q) -> Result<A>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let answer = wait_until("CRI plugin", TIMEOUT, || match self.try_call(method, request.clone()) {
            Err(error) if format!("{error:#}").contains("server is not initialized yet") => Ok(None),
            answer => answer.map(Some),
        });
        answer.with_context(|| format!("the CRI call {method}"))
    }

    /// Connects anew each time, because the daemon may have been killed since the last call.
    fn try_call<Q, A>(&self, method: &str, request: Q) -> Result<A>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let path = PathAndQuery::try_from(format!("/runtime.v1.RuntimeService/{method}"))?;
        let address = format!("unix://{}", self.containerd.address());
        let endpoint = Endpoint::from_shared(address)?.timeout(TIMEOUT);
        self.runtime.block_on(async {
            let mut client = tonic::client::Grpc::new(endpoint.connect().await?);
            client.ready().await?;
            let answer = client.unary(tonic::Request::new(request), path, ProstCodec::default()).await?;
            Ok(answer.into_inner())
        })
    }

    fn start_in(&self, sandbox: &Id, config: &PodSandboxConfig, request: &Request<'_>) -> Result<Started> {
        let pod = config.metadata.clone().unwrap_or_default();
        let created: Id = self.call(
            "CreateContainer",
            &CreateContainerRequest {
                pod_sandbox_id: sandbox.id.clone(),
                config: Some(container(request, &pod)),
                sandbox_config: Some(config.clone()),
            },
        )?;
        let Done {} = self.call("StartContainer", &created)?;
        let status: ContainerStatusResponse = self.call(
            "ContainerStatus",
            &ContainerStatusRequest { container_id: created.id.clone(), verbose: true },
        )?;
        let info = status.info.get("info").context("ContainerStatus has no info")?;
        let info: Value = serde_json::from_str(info)?;
        let pid = info.get("pid").and_then(Value::as_u64).context("ContainerStatus has no process")?;
        let pod = TestPod { name: pod.name, namespace: pod.namespace, sandbox: sandbox.id.clone() };
        // `logs` searches by the container's id.
        symlink(self.log(request.name), self.log(&created.id))?;
        Ok(Started { id: created.id, pid: u32::try_from(pid)?, pod: Some(pod) })
    }

    fn remove_sandbox(&self, id: &str) -> Result<()> {
        let id = Id { id: id.to_owned() };
        let Done {} = self.call("StopPodSandbox", &id)?;
        let Done {} = self.call("RemovePodSandbox", &id)?;
        Ok(())
    }

    fn log(&self, name: &str) -> String {
        self.containerd.at(&log_name(name))
    }
}

fn log_name(name: &str) -> String {
    format!("{name}.log")
}

/// The hash in the names of pods, by which they look as if a Deployment had created them.
const TEMPLATE_HASH: &str = "5d8c9f7b6d";

/// A pod of the class that kubelet calls best effort. It uses the machine's network, because another network
/// needs a CNI plugin.
fn pod(name: &str, directory: String) -> PodSandboxConfig {
    let digest = format!("{:x}", Sha256::digest(name));
    let part = |from: usize, to: usize| digest.get(from..to).unwrap_or_default();
    let uid = format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32));
    let metadata = PodSandboxMetadata {
        name: format!("{name}-{TEMPLATE_HASH}-x2x4z"),
        namespace: format!("{name}-namespace"),
        uid: uid.clone(),
    };
    let mut labels = kubernetes_labels(&metadata);
    labels.insert("pod-template-hash".to_owned(), TEMPLATE_HASH.to_owned());
    labels.insert("ctrace.pod".to_owned(), name.to_owned());
    PodSandboxConfig {
        labels,
        metadata: Some(metadata),
        log_directory: directory,
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: cgroup_of_pod(&uid),
            security_context: Some(LinuxSandboxSecurityContext { namespace_options: Some(network()) }),
        }),
    }
}

fn container(request: &Request<'_>, pod: &PodSandboxMetadata) -> ContainerConfig {
    let mut labels = kubernetes_labels(pod);
    labels.insert("io.kubernetes.container.name".to_owned(), request.name.to_owned());
    labels.extend(request.labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: request.name.to_owned() }),
        image: Some(ImageSpec { image: request.image.to_owned() }),
        command: request.command.iter().map(|word| (*word).to_owned()).collect(),
        labels,
        log_path: log_name(request.name),
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext { namespace_options: Some(network()) }),
        }),
    }
}

/// The labels that kubelet sets on every pod and container.
fn kubernetes_labels(pod: &PodSandboxMetadata) -> HashMap<String, String> {
    let labels = [("name", &pod.name), ("namespace", &pod.namespace), ("uid", &pod.uid)];
    labels.map(|(key, value)| (format!("io.kubernetes.pod.{key}"), value.clone())).into()
}

fn network() -> NamespaceOption {
    NamespaceOption { network: NODE }
}

fn cgroup_of_pod(uid: &str) -> String {
    format!("/kubepods/besteffort/pod{uid}")
}

impl Driver for Cri {
    fn runtime(&self) -> &'static str {
        "cri"
    }

    fn product(&self) -> &'static str {
        self.containerd.product()
    }

    fn socket(&self) -> Option<String> {
        self.containerd.socket()
    }

    fn daemon(&self) -> Option<&Daemon> {
        self.containerd.daemon()
    }

    fn load(&self, archive: &Archive) -> Result<String> {
        self.containerd.import(NAMESPACE, archive)
    }

    fn run(&self, request: &Request<'_>) -> Result<Started> {
        let config = pod(request.name, self.containerd.at(""));
        let sandbox: Id =
            self.call("RunPodSandbox", &RunPodSandboxRequest { config: Some(config.clone()) })?;
        let started = self.start_in(&sandbox, &config, request);
        started.inspect_err(|_| drop(self.remove_sandbox(&sandbox.id)))
    }

    fn exec(&self, id: &str, command: &[&str]) -> Result<String> {
        let request = ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.iter().map(|word| (*word).to_owned()).collect(),
            timeout: i64::try_from(TIMEOUT.as_secs())?,
        };
        let answer: ExecSyncResponse = self.call("ExecSync", &request)?;
        let stderr = String::from_utf8_lossy(&answer.stderr);
        ensure!(answer.exit_code == 0, "{command:?} ended with {}: {stderr}", answer.exit_code);
        Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
    }

    fn logs(&self, id: &str) -> Result<String> {
        let text = fs::read_to_string(self.log(id)).unwrap_or_default();
        // TIME STREAM TAG TEXT
        let texts: Vec<&str> = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
        Ok(texts.join("\n"))
    }

    fn remove(&self, container: &Started) -> Result<()> {
        let pod = container.pod.as_ref().context("a container without a pod")?;
        let text = fs::read_to_string(format!("/proc/{}/cgroup", container.pid)).unwrap_or_default();
        let removed = self.remove_sandbox(&pod.sandbox);
        let path = text.lines().find_map(|line| line.strip_prefix("0::"));
        if let Some((parent, _)) = path.and_then(|path| path.rsplit_once('/')) {
            cgroups::remove(parent);
        }
        removed
    }
}
