//! Which exchanges are shown.

use std::time::Duration;

use crate::event::{Outcome, Request};
use crate::glob::Glob;

/// Which exchanges are shown: those that fit every criterion. Of several values of one criterion, one must
/// fit.
#[derive(Clone, Debug, Default)]
pub struct RequestFilter {
    /// Only those that failed.
    pub errors: bool,
    /// Only those that took longer.
    pub slower_than: Option<Duration>,
    /// Patterns for the path of the target, without its query.
    pub paths: Vec<Glob>,
    /// Patterns for the host, with or without its port.
    pub hosts: Vec<Glob>,
    /// The methods, whose case does not matter.
    pub methods: Vec<String>,
    /// The statuses.
    pub statuses: Vec<StatusPattern>,
}

/// A status, or a class of statuses, such as `404`, `5xx` or `UNAVAILABLE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusPattern(Glob);

impl StatusPattern {
    /// Parses it. `x` stands for a digit.
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_code = text.len() == 3
            && text.starts_with(|first: char| first.is_ascii_digit())
            && text.bytes().skip(1).all(|byte| byte.is_ascii_digit() || byte.eq_ignore_ascii_case(&b'x'));
        let is_name = text.len() > 1 && text.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        if is_code {
            return Ok(Self(Glob::new(&text.to_ascii_lowercase().replace('x', "?"))));
        }
        if is_name {
            return Ok(Self(Glob::new(&text.to_ascii_uppercase())));
        }
        Err("a status is a number such as 404, a class such as 5xx, or a name such as UNAVAILABLE".to_owned())
    }

    fn matches(&self, status: &str) -> bool {
        self.0.matches(status)
    }
}

impl RequestFilter {
    /// Whether an exchange is shown. What is unknown of it fits no criterion.
    pub fn matches(&self, request: &Request) -> bool {
        let Self { errors, slower_than, paths, hosts, methods, statuses } = self;
        let overview = &request.overview;
        let any = |globs: &[Glob], text: Option<&str>| {
            globs.is_empty() || text.is_some_and(|text| globs.iter().any(|glob| glob.matches(text)))
        };
        let path = overview.target.as_deref().map(|target| target.split_once('?').map_or(target, |it| it.0));
        let host = overview.host.as_deref();
        let name = host.map(without_port);
        let method = overview.method.as_deref();
        let status = overview.status.as_deref();
        (!errors || is_error(request))
            && slower_than.is_none_or(|least| request.duration_so_far().is_some_and(|took| took > least))
            && any(paths, path)
            && (any(hosts, host) || any(hosts, name))
            && (methods.is_empty()
                || method
                    .is_some_and(|method| methods.iter().any(|wanted| wanted.eq_ignore_ascii_case(method))))
            && (statuses.is_empty()
                || status.is_some_and(|status| statuses.iter().any(|wanted| wanted.matches(status))))
    }
}

/// Whether an exchange failed: by its status, or because its end was not seen although its connection ended.
pub(super) fn is_error(request: &Request) -> bool {
    use crate::event::UnpairedReason::Closed;
    match request.overview.outcome {
        Outcome::ClientError | Outcome::ServerError => true,
        Outcome::Unknown | Outcome::Success | Outcome::Redirect => {
            request.unpaired == Some(Closed) || request.cut_off == Some(Closed)
        }
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}
