//! The client for Docker.

use super::{RuntimeClient, docker_api};

/// Rootless Docker listens below its user's runtime directory.
pub(super) const RUNTIME: RuntimeClient = RuntimeClient {
    name: "docker",
    protocol: docker_api::PROTOCOL,
    sockets: &["/var/run/docker.sock"],
    user_socket: Some("docker.sock"),
    variable: Some("DOCKER_HOST"),
    query: docker_api::query,
    describe: docker_api::describe,
};
