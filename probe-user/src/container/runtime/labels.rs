//! Labels of containers that identify pods and services of compose files.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::event;

type Labels = BTreeMap<String, String>;

/// Limit of the bytes of one label. Runtimes allow 4096 (containerd) or any number.
const LENGTH: usize = 64 * 1024;
/// Limit of the labels of one container.
const COUNT: usize = 1024;

/// The service of a compose file that a container belongs to (Docker Compose, Podman Compose).
pub fn compose_service(labels: &Labels) -> Option<&str> {
    first(labels, &["com.docker.compose.service", "io.podman.compose.service"])
}

/// The project of a compose file that a container belongs to.
pub fn compose_project(labels: &Labels) -> Option<&str> {
    first(labels, &["com.docker.compose.project", "io.podman.compose.project"])
}

/// The pod that a container's labels name. The kubelet makes every CRI runtime set these labels.
pub(super) fn pod(labels: &Labels) -> Option<Arc<event::Pod>> {
    let label = |key: &str| first(labels, &[key]).map(str::to_owned);
    Some(Arc::new(event::Pod {
        name: label("io.kubernetes.pod.name")?,
        namespace: label("io.kubernetes.pod.namespace"),
        uid: label("io.kubernetes.pod.uid"),
        labels: None,
    }))
}

/// The name of a container in its pod.
pub(super) fn name_in_pod(labels: &Labels) -> Option<&str> {
    first(labels, &["io.kubernetes.container.name"])
}

/// The labels within the limits.
pub(super) fn bounded(labels: impl IntoIterator<Item = (String, String)>) -> Labels {
    labels.into_iter().filter(|(key, value)| key.len() + value.len() <= LENGTH).take(COUNT).collect()
}

fn first<'a>(labels: &'a Labels, keys: &[&str]) -> Option<&'a str> {
    keys.iter().find_map(|key| labels.get(*key)).map(String::as_str).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        bounded(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn compose_and_pods() {
        let docker = labels(&[("com.docker.compose.service", "web"), ("com.docker.compose.project", "shop")]);
        assert_eq!((compose_service(&docker), compose_project(&docker)), (Some("web"), Some("shop")));
        let podman = labels(&[("io.podman.compose.service", "db"), ("io.podman.compose.project", "p")]);
        assert_eq!((compose_service(&podman), compose_project(&podman)), (Some("db"), Some("p")));
        assert_eq!(compose_service(&labels(&[("com.docker.compose.service", "")])), None);
        let pod = labels(&[
            ("io.kubernetes.pod.name", "web-0"),
            ("io.kubernetes.pod.namespace", "prod"),
            ("io.kubernetes.pod.uid", "u"),
            ("io.kubernetes.container.name", "app"),
        ]);
        let expected = event::Pod {
            name: "web-0".into(),
            namespace: Some("prod".into()),
            uid: Some("u".into()),
            labels: None,
        };
        assert_eq!(super::pod(&pod).as_deref(), Some(&expected));
        assert_eq!((name_in_pod(&pod), super::pod(&docker)), (Some("app"), None));
    }

    #[test]
    fn labels_without_an_end_are_cut() {
        let many = (0..5000).map(|number| (number.to_string(), String::new()));
        assert_eq!(bounded(many).len(), COUNT);
        assert_eq!(bounded([("a".to_owned(), "x".repeat(LENGTH))]).len(), 0);
    }
}
