//! Containers, and whether a process is in one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Container {
    /// Full id, 64 hexadecimal digits with most runtimes.
    pub id: String,
    /// Name that its runtime gave it; null when no runtime could be asked.
    pub name: Option<String>,
    /// Its runtime.
    pub runtime: Option<Runtime>,
    /// The image that it was made from.
    pub image: Option<Image>,
    /// Its labels: for selection, not part of records.
    #[serde(skip)]
    pub labels: Arc<BTreeMap<String, String>>,
    /// The Kubernetes or Podman pod that it belongs to; records have it as `k8s`.
    #[serde(skip)]
    pub pod: Option<Arc<Pod>>,
}

/// A pod: containers that share namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its Kubernetes namespace. None for a pod of Podman.
    pub namespace: Option<String>,
    /// Its unique id.
    pub uid: Option<String>,
    /// Its labels: for selection, not part of records. None if they were not reported.
    pub labels: Option<Arc<BTreeMap<String, String>>>,
}

/// The OpenTelemetry namespace `k8s`: where the container is in Kubernetes, or in Podman's pods.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct K8s<'a> {
    /// Its pod.
    pod: K8sPod<'a>,
    /// The Kubernetes namespace of the pod; not there for a pod of Podman.
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<K8sNamespace<'a>>,
}

/// A pod.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct K8sPod<'a> {
    /// Its name.
    name: Cow<'a, str>,
    /// Its unique id; not there when it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<Cow<'a, str>>,
}

/// A Kubernetes namespace.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct K8sNamespace<'a> {
    /// Its name.
    name: Cow<'a, str>,
}

impl<'a> K8s<'a> {
    /// The pod of a container, if it is in one.
    pub fn of(container: Option<&'a Container>) -> Option<Self> {
        let Pod { name, namespace, uid, labels: _ } = container?.pod.as_deref()?;
        Some(Self {
            pod: K8sPod { name: name.into(), uid: uid.as_deref().map(Cow::Borrowed) },
            namespace: namespace.as_deref().map(|name| K8sNamespace { name: name.into() }),
        })
    }
}

impl From<K8s<'_>> for Pod {
    fn from(K8s { pod: K8sPod { name, uid }, namespace }: K8s<'_>) -> Self {
        Self {
            name: name.into_owned(),
            namespace: namespace.map(|namespace| namespace.name.into_owned()),
            uid: uid.map(Cow::into_owned),
            labels: None,
        }
    }
}

impl Container {
    /// The number of digits of the id that stand for a missing name.
    const SHORT_ID: usize = 12;

    /// The name for a person: `web`, or with Kubernetes, where a container's own name says little,
    /// `prod/web-0/app`.
    pub fn shown(&self) -> String {
        let name = self.name.as_deref().unwrap_or_else(|| self.id.get(..Self::SHORT_ID).unwrap_or(&self.id));
        match self.pod.as_deref() {
            Some(Pod { name: pod, namespace: Some(namespace), .. }) => format!("{namespace}/{pod}/{name}"),
            _ => name.to_owned(),
        }
    }
}

/// A container runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Runtime {
    /// `docker`, …
    pub name: String,
}

/// A container image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Image {
    /// Name as the runtime shows it, with its tag.
    pub name: String,
}

/// Whether a process is in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Containment {
    /// It is in this one.
    In(Arc<Container>),
    /// It is in none.
    Host,
    /// It had ended before anybody could find out, or no runtime has reported yet whose cgroup it is in.
    Unknown,
}

impl Containment {
    /// The container, if the process is known to be in one. In JSON, the other two are both null.
    pub fn container(&self) -> Option<&Container> {
        match self {
            Self::In(container) => Some(container),
            Self::Host | Self::Unknown => None,
        }
    }
}
