//! Docker.

use super::{Runtime, engine};

/// Rootless Docker listens below its user's runtime directory.
pub(super) const RUNTIME: Runtime = Runtime {
    name: "docker",
    protocol: engine::PROTOCOL,
    sockets: &["/var/run/docker.sock"],
    user_socket: Some("docker.sock"),
    variable: Some("DOCKER_HOST"),
    ask: engine::ask,
    describe: engine::describe,
};
