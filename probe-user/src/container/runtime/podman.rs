//! The client for Podman, whose service answers the Docker Engine API; `podman.socket` starts it.

use super::{RuntimeClient, docker_api};

/// Rootless Podman listens below its user's runtime directory.
pub(super) const RUNTIME: RuntimeClient = RuntimeClient {
    name: docker_api::PODMAN,
    protocol: docker_api::PROTOCOL,
    sockets: &["/run/podman/podman.sock"],
    user_socket: Some("podman/podman.sock"),
    variable: Some("CONTAINER_HOST"),
    query: docker_api::query,
    describe: docker_api::describe,
};
