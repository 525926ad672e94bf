//! The OCI runtime's configuration of a container (config.json), where a runtime returns it: the cgroup and
//! the mounts.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::details::MountPoint;

/// Limit of the bytes of a configuration that are parsed.
const LENGTH: usize = 4 * 1024 * 1024;
/// Limit of the mounts of one container.
const MOUNTS: usize = 4096;

/// The fields that are used.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Spec {
    annotations: BTreeMap<String, String>,
    linux: Linux,
    mounts: Vec<Mount>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Linux {
    cgroups_path: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Mount {
    destination: String,
    r#type: String,
    source: String,
    options: Vec<String>,
}

impl Spec {
    pub(super) fn parse(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json.get(..json.len().min(LENGTH))?).ok()
    }

    /// The path of its cgroup: verbatim for the cgroupfs driver, derived from `slice:prefix:name` for
    /// systemd's.
    pub(super) fn cgroup(&self) -> Option<String> {
        let path = &self.linux.cgroups_path;
        if path.starts_with('/') {
            return Some(path.clone());
        }
        let mut parts = path.split(':');
        let (Some(slice), Some(prefix), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        let scope = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}-{name}.scope") };
        Some(format!("{}/{scope}", expand(slice)))
    }

    /// The image name that the kubelet asked for, which containerd's plugin keeps in the annotations.
    pub(super) fn image(&self) -> Option<&str> {
        let name = self.annotations.get("io.kubernetes.cri.image-name").map(String::as_str);
        name.filter(|name| !name.is_empty())
    }

    /// The mounts from the host. The kernel's own file systems (proc, sysfs, …) are in every container, and
    /// are left out.
    pub(super) fn into_mounts(self) -> Vec<MountPoint> {
        let from_host = |mount: &Mount| {
            mount.r#type == "bind" || mount.options.iter().any(|option| option == "bind" || option == "rbind")
        };
        let mounts = self.mounts.into_iter().filter(from_host).take(MOUNTS);
        mounts
            .map(|mount| MountPoint {
                kind: "bind".to_owned(),
                name: None,
                source: mount.source,
                destination: mount.destination,
                is_writable: !mount.options.iter().any(|option| option == "ro"),
            })
            .collect()
    }
}

/// The path of a slice: systemd puts the slice `a-b.slice` below `a.slice`.
fn expand(slice: &str) -> String {
    let name = slice.strip_suffix(".slice").unwrap_or(slice);
    let dashes = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    let paths = dashes.filter_map(|end| name.get(..end)).filter(|name| !name.is_empty());
    paths.flat_map(|name| ["/", name, ".slice"]).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn cgroups_of_both_drivers() {
        for (path, expected) in [
            ("/default/web", Some("/default/web")),
            ("system.slice:nerdctl:web", Some("/system.slice/nerdctl-web.scope")),
            (
                "kubepods-besteffort-pod1.slice:cri-containerd:x",
                Some(
                    "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/cri-containerd-x.scope",
                ),
            ),
            ("", None),
            ("web", None),
        ] {
            let json = format!(r#"{{"ociVersion":"1.0.2","linux":{{"cgroupsPath":"{path}","x":1}}}}"#);
            assert_eq!(Spec::parse(json.as_bytes()).unwrap().cgroup().as_deref(), expected, "{path}");
        }
        assert!(Spec::parse(b"{").is_none() && Spec::parse(b"").is_none());
    }

    #[test]
    fn mounts_of_the_host() {
        let json = br#"{"mounts":[{"destination":"/proc","type":"proc","source":"proc","options":["nosuid"]},
            {"destination":"/data","type":"bind","source":"/srv/data","options":["rbind","ro"]},
            {"destination":"/w","type":"none","source":"/srv/w","options":["rbind","rw"]}]}"#;
        let found = Spec::parse(json).unwrap().into_mounts();
        let mounts: Vec<_> = found
            .iter()
            .map(|one| (one.source.as_str(), one.destination.as_str(), one.is_writable))
            .collect();
        assert_eq!(mounts, [("/srv/data", "/data", false), ("/srv/w", "/w", true)]);
    }
}
