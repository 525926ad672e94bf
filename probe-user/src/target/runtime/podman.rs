//! Podman, whose service answers the Docker Engine API; `podman.socket` starts it.

use super::{Runtime, engine};

/// Rootless Podman listens below its user's runtime directory.
pub(super) const RUNTIME: Runtime = Runtime {
    name: engine::PODMAN,
    protocol: engine::PROTOCOL,
    sockets: &["/run/podman/podman.sock"],
    user_socket: Some("podman/podman.sock"),
    variable: Some("CONTAINER_HOST"),
    ask: engine::ask,
    describe: engine::describe,
};
