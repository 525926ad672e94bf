//! Engines that answer as Docker and Podman do.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]
