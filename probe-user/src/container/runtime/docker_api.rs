//! The Docker Engine API, which Podman's service speaks too. The only user of bollard.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bollard::errors::Error;
use bollard::models::{
    ContainerInspectResponse, ContainerSummary, ContainerSummaryStateEnum as State, MountPoint as Mount,
    SystemVersion,
};
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptions};
use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use http::header::{HOST, SERVER};
use http::{HeaderValue, Request, Uri};
use hyper::body::{Body, Incoming};
use serde::Deserialize;

use super::details::{Details, MountPoint, Overlay, layers};
use super::endpoint::RuntimeEndpoint;
use super::labels;
use super::transport::{self, BackgroundTasks, Peer};
use super::{
    Answer, CONTAINERS, ContainerInfo, ContainerQuery, Gaps, InfoSource, RuntimeReply, TIMEOUT,
    image_queries, images,
};
use crate::event;

pub(super) const PROTOCOL: &str = "engine";
pub(super) const PODMAN: &str = "podman";
const DOCKER: &str = "docker";
/// Podman's own list of containers, which includes pods and pids.
const LIBPOD: &str = "/v4.0.0/libpod/containers/json";

type Cause = Box<dyn std::error::Error + Send + Sync>;

pub(super) fn query(endpoint: Arc<RuntimeEndpoint>, query: ContainerQuery) -> Answer<RuntimeReply> {
    Box::pin(async move { transport::within(&endpoint, list(&endpoint, &query)).await })
}

pub(super) fn describe(source: InfoSource, id: String) -> Answer<Details> {
    Box::pin(async move {
        let endpoint = &source.endpoint;
        let answer = async {
            let engine = Engine::new(endpoint)?;
            let found = engine.docker.inspect_container(&id, None::<InspectContainerOptions>);
            let found = found.await.map_err(cause)?;
            Ok::<_, Cause>(details(found, source.runtime(), &engine.peer()))
        };
        transport::within(endpoint, answer).await
    })
}

async fn list(endpoint: &Arc<RuntimeEndpoint>, query: &ContainerQuery) -> Result<RuntimeReply, Cause> {
    let engine = Engine::new(endpoint)?;
    let filters = query.ids().map(|ids| HashMap::from([("id".to_owned(), ids.iter().cloned().collect())]));
    let options = ListContainersOptions { all: true, filters, ..ListContainersOptions::default() };
    let containers = engine.docker.list_containers(Some(options)).await.map_err(cause)?;
    let Identity { runtime, version } = identity(&engine).await.map_err(cause)?;
    let source = InfoSource { endpoint: Arc::clone(endpoint), namespace: None };
    let within = engine.peer().within;
    let of_image = |summary: &ContainerSummary| {
        let image = summary.image_id.clone().filter(|image| images::is_id(image))?;
        Some((summary.id.clone()?, image))
    };
    let image_ids: HashMap<String, String> =
        containers.iter().filter_map(of_image).take(CONTAINERS).collect();
    let listed =
        |summary| listed(summary, runtime).map(|one| ContainerInfo { within: within.clone(), ..one });
    let mut containers: Vec<ContainerInfo> =
        containers.into_iter().filter_map(listed).take(CONTAINERS).collect();
    for container in &mut containers {
        container.sources.push(source.clone());
    }
    let address = endpoint.address.to_string();
    image_queries::name_images(&engine.docker, &address, &mut containers, &image_ids).await;
    if runtime == PODMAN {
        match engine.libpod(query).await {
            Ok(own) => add_pods(&mut containers, own, &engine.peer()),
            Err(error) => {
                tracing::debug!("podman: could not list pods: {error}");
                for container in &mut containers {
                    container.gaps.pod = container.pod.is_none();
                }
            }
        }
    }
    Ok(RuntimeReply { runtime, version, containers })
}

/// The engine that answers at an address.
#[derive(Clone, Debug)]
struct Identity {
    runtime: &'static str,
    version: String,
}

/// The identity of an engine that has answered. Every answer of Docker's and of Podman's begins with it.
/// Others are asked for it once: Docker would execute programs to answer that, which takes half a second on a
/// busy machine.
async fn identity(engine: &Engine) -> Result<Identity, Error> {
    static IDENTITIES: Mutex<BTreeMap<String, Identity>> = Mutex::new(BTreeMap::new());
    if let Some(identity) = engine.server.get().and_then(|header| of_header(header)) {
        return Ok(identity);
    }
    let cache = || IDENTITIES.lock().unwrap_or_else(PoisonError::into_inner);
    let address = engine.endpoint.address.to_string();
    if let Some(identity) = cache().get(&address) {
        return Ok(identity.clone());
    }
    let version = engine.docker.version().await?;
    let identity = Identity { runtime: name(&version), version: version.version.unwrap_or_default() };
    cache().insert(address, identity.clone());
    Ok(identity)
}

/// The engine that a `Server` header names: `Docker/20.10.24 (linux)`, `Libpod/4.3.1 (linux)`.
fn of_header(header: &str) -> Option<Identity> {
    let (name, rest) = header.split_once('/')?;
    let runtime = match name {
        "Docker" => DOCKER,
        "Libpod" => PODMAN,
        _ => return None,
    };
    let version = rest.split(' ').next()?.to_owned();
    Some(Identity { runtime, version })
}

/// A connection to an engine, for one question.
struct Engine {
    docker: Docker,
    endpoint: Arc<RuntimeEndpoint>,
    tasks: BackgroundTasks,
    peer: Arc<OnceLock<Peer>>,
    /// The `Server` header of its first answer.
    server: Arc<OnceLock<String>>,
}

impl Engine {
    /// Opens a connection for each request. bollard sends requests without a version in the path, so a daemon
    /// of any age answers in its own version. The fields that are read here exist in all versions.
    fn new(endpoint: &Arc<RuntimeEndpoint>) -> Result<Self, Error> {
        let (endpoint, tasks, peer) = (Arc::clone(endpoint), BackgroundTasks::default(), Arc::default());
        let server: Arc<OnceLock<String>> = Arc::default();
        let transport = {
            let (endpoint, tasks, peer) = (Arc::clone(&endpoint), tasks.clone(), Arc::clone(&peer));
            let server = Arc::clone(&server);
            move |request: BollardRequest| {
                let (endpoint, tasks, peer) = (Arc::clone(&endpoint), tasks.clone(), Arc::clone(&peer));
                let server = Arc::clone(&server);
                async move {
                    let wire = transport::connect(&endpoint, &tasks).await?;
                    let _ = OnceLock::set(&peer, wire.peer.clone());
                    let mut sender = wire.http1().await?;
                    let response = sender.send_request(relative(request)?).await?;
                    if let Some(Ok(header)) = response.headers().get(SERVER).map(HeaderValue::to_str) {
                        let _ = OnceLock::set(&server, header.to_owned());
                    }
                    Ok(response)
                }
            }
        };
        let docker = Docker::connect_with_custom_transport(
            transport,
            Some("http://localhost"),
            TIMEOUT.as_secs(),
            API_DEFAULT_VERSION,
        )?;
        Ok(Self { docker, endpoint, tasks, peer, server })
    }

    fn peer(&self) -> Peer {
        self.peer.get().cloned().unwrap_or_default()
    }

    async fn libpod(&self, query: &ContainerQuery) -> Result<Vec<Libpod>, Cause> {
        let wire = transport::connect(&self.endpoint, &self.tasks).await?;
        let mut sender = wire.http1::<String>().await?;
        let request = Request::get(libpod_target(query)).header(HOST, "localhost").body(String::new())?;
        let response = sender.send_request(request).await?;
        if !response.status().is_success() {
            return Err(format!("{LIBPOD}: {}", response.status()).into());
        }
        Ok(serde_json::from_slice(&whole(response.into_body()).await?)?)
    }
}

/// The target of the request for Podman's own list.
fn libpod_target(query: &ContainerQuery) -> String {
    let Some(ids) = query.ids() else { return format!("{LIBPOD}?all=true") };
    // The filters are JSON, `{"id":["…","…"]}`, in which everything but the ids has to be encoded.
    let ids: Vec<String> = ids.iter().map(|id| format!("%22{id}%22")).collect();
    format!("{LIBPOD}?all=true&filters=%7B%22id%22%3A%5B{}%5D%7D", ids.join("%2C"))
}

/// The cause of bollard's error, where it says more than the error itself.
fn cause(error: Error) -> Cause {
    match error {
        Error::IOError { err } => err.into(),
        Error::RequestTimeoutError => io::Error::from(io::ErrorKind::TimedOut).into(),
        other => other.into(),
    }
}

/// Makes the target of a request a path: only a proxy expects a whole URL.
fn relative(mut request: BollardRequest) -> Result<BollardRequest, Error> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse::<Uri>().map_err(http::Error::from)?;
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    Ok(request)
}

/// Reads a whole body. The connection limits its length.
async fn whole(body: Incoming) -> Result<Vec<u8>, hyper::Error> {
    let mut body = pin!(body);
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|context| Pin::as_mut(&mut body).poll_frame(context)).await {
        if let Ok(data) = frame?.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

/// The name of the runtime. Podman's service lists Podman among the components of its version.
fn name(version: &SystemVersion) -> &'static str {
    let components = version.components.iter().flatten();
    let mut names = components.map(|component| component.name.to_ascii_lowercase());
    if names.any(|name| name.contains(PODMAN)) { PODMAN } else { DOCKER }
}

fn listed(summary: ContainerSummary, runtime: &'static str) -> Option<ContainerInfo> {
    let mut names: Vec<String> = summary.names.unwrap_or_default();
    for name in &mut names {
        if let Some(stripped) = name.strip_prefix('/') {
            *name = stripped.to_owned();
        }
    }
    // A legacy link adds names of the form `other/alias`; the container's own name must come first.
    names.sort_by_key(|name| name.contains('/'));
    let state = summary.state.unwrap_or(State::EMPTY);
    let reported = summary.labels.unwrap_or_default();
    let count = reported.len();
    let labels = labels::bounded(reported);
    Some(ContainerInfo {
        id: summary.id.filter(|id| !id.is_empty())?,
        names,
        image: summary.image.filter(|image| !image.is_empty()),
        is_running: matches!(state, State::RUNNING | State::PAUSED | State::STOPPING),
        state: state.to_string(),
        pod: labels::pod(&labels),
        gaps: Gaps::of_labels(count, &labels),
        labels: Arc::new(labels),
        runtime,
        ..ContainerInfo::default()
    })
}

/// A container in Podman's own list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Libpod {
    id: String,
    #[serde(default)]
    pod: String,
    #[serde(default)]
    pod_name: String,
    #[serde(default)]
    pid: i64,
}

fn add_pods(containers: &mut [ContainerInfo], own: Vec<Libpod>, peer: &Peer) {
    let mut own: HashMap<String, Libpod> = own.into_iter().map(|one| (one.id.clone(), one)).collect();
    for container in containers {
        let Some(Libpod { pod, pod_name, pid, .. }) = own.remove(&container.id) else { continue };
        container.pid = peer.pid(Some(pid));
        if container.pod.is_none() && !pod_name.is_empty() {
            let uid = (!pod.is_empty()).then_some(pod);
            container.pod = Some(Arc::new(event::Pod { name: pod_name, namespace: None, uid, labels: None }));
        }
    }
}

fn details(found: ContainerInspectResponse, runtime: &'static str, peer: &Peer) -> Details {
    let graph = found.graph_driver;
    let overlay = graph.as_ref().and_then(|graph| {
        let field = |name: &str| graph.data.get(name).filter(|value| !value.is_empty()).cloned();
        Some(Overlay {
            lower: layers(&field("LowerDir")?),
            upper: field("UpperDir"),
            work: field("WorkDir"),
            merged: field("MergedDir"),
        })
    });
    Details {
        runtimes: vec![runtime],
        init: peer.pid(found.state.and_then(|state| state.pid)),
        driver: graph.map(|graph| graph.name).filter(|name| !name.is_empty()).or(found.driver),
        overlay,
        snapshot: None,
        mounts: found.mounts.into_iter().flatten().filter_map(mount).collect(),
    }
}

fn mount(found: Mount) -> Option<MountPoint> {
    Some(MountPoint {
        kind: found.typ.unwrap_or_default(),
        name: found.name.filter(|name| !name.is_empty()),
        source: found.source.unwrap_or_default(),
        destination: found.destination?,
        is_writable: found.rw.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests;
