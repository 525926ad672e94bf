//! Checks which container runtimes answer. None of them is needed for tracing: they only contribute names.

use super::check::Check;
use crate::container::runtime::RuntimeSocket;
use crate::container::runtime::{self, EndpointState, RuntimeState};
use crate::error_chain;

const NAME: &str = "container runtimes";

/// Asks each runtime at each of its addresses.
pub(super) async fn checks(sockets: &[RuntimeSocket]) -> Vec<Check> {
    match runtime::endpoints(sockets).await {
        Ok(endpoints) => checks_of(&endpoints),
        // A runtime that the user named does not answer.
        Err(error) => vec![Check::no(
            NAME,
            error_chain::in_one_line(&error),
            "leave out --runtime-socket, or correct it",
        )],
    }
}

fn checks_of(endpoints: &[EndpointState]) -> Vec<Check> {
    let mut checks: Vec<Check> = endpoints.iter().filter_map(check).collect();
    let answered = endpoints.iter().any(|endpoint| matches!(endpoint.state, RuntimeState::Answered { .. }));
    if !answered {
        let tried: Vec<&str> = endpoints.iter().map(|endpoint| endpoint.address.as_str()).collect();
        checks.push(Check::warn(
            NAME,
            format!("no answer from {}", tried.join(", ")),
            "containers can be selected by id only; for names, start the runtime, or give its address: \
             --runtime-socket",
        ));
    }
    checks
}

fn check(EndpointState { runtime, address, state }: &EndpointState) -> Option<Check> {
    match state {
        RuntimeState::Absent => None,
        RuntimeState::Answered { runtime, version, containers } => {
            Some(Check::ok(NAME, format!("{runtime} {version} at {address}: {containers} containers")))
        }
        RuntimeState::Silent => Some(Check::warn(
            NAME,
            format!("{runtime} at {address} accepts connections but does not answer"),
            "the names of its containers are missing: check whether it hangs",
        )),
        RuntimeState::Failed(why) => Some(Check::warn(
            NAME,
            format!("{runtime} at {address}: {why}"),
            "the names of its containers are missing: check that you may connect to it, or run ctrace as \
             root",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::doctor::check::CheckStatus;

    #[test]
    fn absent_runtimes_are_silence_unless_all_are() {
        let endpoint = |state| EndpointState { runtime: "docker", address: "unix:///x".to_owned(), state };
        let answered =
            || RuntimeState::Answered { runtime: "docker", version: "20".to_owned(), containers: 2 };
        let check = |states: Vec<RuntimeState>, expected: &[CheckStatus]| {
            let endpoints: Vec<_> = states.into_iter().map(endpoint).collect();
            let found: Vec<_> = checks_of(&endpoints).iter().map(|check| check.status).collect();
            assert_eq!(found, expected, "{endpoints:?}");
        };
        check(vec![RuntimeState::Absent, answered()], &[CheckStatus::Ok]);
        check(vec![RuntimeState::Absent, RuntimeState::Absent], &[CheckStatus::Warn]);
        check(vec![RuntimeState::Silent, answered()], &[CheckStatus::Warn, CheckStatus::Ok]);
        check(vec![RuntimeState::Failed("denied".to_owned())], &[CheckStatus::Warn, CheckStatus::Warn]);
    }
}
