//! The container of an answer and the pod that it is in, as in records.

use std::ops::Deref;
use std::sync::Arc;

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::event::{Container, K8s};

/// A container, or None for the host. It must be flattened: its fields are `container` and, if it is in a
/// pod, `k8s`.
#[derive(Clone, Debug, Default)]
pub struct ContainerField(pub Option<Arc<Container>>);

impl Deref for ContainerField {
    type Target = Option<Arc<Container>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Serialize for ContainerField {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("container", &self.0)?;
        if let Some(k8s) = K8s::of(self.0.as_deref()) {
            map.serialize_entry("k8s", &k8s)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::Pod;

    #[test]
    fn the_pod_is_beside_the_container() {
        let mut container =
            Container { id: "ab".repeat(32), name: Some("app".into()), ..Container::default() };
        let json = |home: &ContainerField| serde_json::to_value(home).unwrap_or_default();
        assert_eq!(json(&ContainerField::default()), serde_json::json!({"container": null}));
        assert_eq!(container.shown(), "app");
        container.pod =
            Some(Arc::new(Pod { name: "web-0".into(), namespace: Some("prod".into()), ..Pod::default() }));
        assert_eq!(container.shown(), "prod/web-0/app");
        let found = json(&ContainerField(Some(Arc::new(container.clone()))));
        let pod = serde_json::json!({"pod": {"name": "web-0"}, "namespace": {"name": "prod"}});
        assert_eq!(found.get("k8s"), Some(&pod));
        assert_eq!(found.pointer("/container/name"), Some(&"app".into()));
        container.name = None;
        container.pod = None;
        assert_eq!(container.shown(), "abababababab");
    }
}
