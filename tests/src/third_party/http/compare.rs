//! What both ends log, what `ctrace requests` reports, and how these are compared.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::RunningTrace;

/// An exchange as an end logs it, or as it is captured.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct LoggedExchange {
    /// The method.
    pub method: String,
    /// The path and the query.
    pub target: String,
    /// The status of the response.
    pub status: u64,
    /// The size of the body of the request.
    pub request: u64,
    /// The size of the body of the response, as it was sent.
    pub response: u64,
}

/// The exchanges in the output of a peer; other lines are left out.
pub fn logged(output: &str) -> Result<Vec<LoggedExchange>> {
    let lines = output.lines().filter(|line| line.starts_with("{\"method\""));
    lines.map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// A record of type `request`. What is not known is none.
#[derive(Clone, Debug)]
pub struct CapturedExchange {
    /// The version of the protocol.
    pub version: Option<String>,
    method: Option<String>,
    target: Option<String>,
    status: Option<u64>,
    request: Side,
    response: Side,
    is_complete: bool,
    record: Value,
}

/// A message of an exchange.
#[derive(Clone, Debug)]
struct Side {
    is_seen: bool,
    size: Option<u64>,
    /// The first bytes of its body.
    body: Option<String>,
}

impl CapturedExchange {
    fn of(record: &Value) -> Self {
        let text = |pointer: &str| record.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let number = |pointer: &str| record.pointer(pointer).and_then(Value::as_u64);
        let side = |name: &str| Side {
            is_seen: record.get(name).is_some_and(Value::is_object),
            size: number(&format!("/http/{name}/body/size")),
            body: text(&format!("/{name}/body/data")),
        };
        let target = text("/url/path").map(|path| match text("/url/query") {
            Some(query) => format!("{path}?{query}"),
            None => path,
        });
        Self {
            version: text("/network/protocol/version"),
            method: text("/http/request/method"),
            target: target.filter(|_| record.pointer("/url/query") != Some(&Value::Null)),
            status: number("/http/response/status_code"),
            request: side("request"),
            response: side("response"),
            is_complete: record["complete"] == true,
            record: record.clone(),
        }
    }

    /// The target, or the one that a body names.
    fn named_target(&self) -> Option<String> {
        let of_body = |side: &Side| {
            let (target, _) = side.body.as_ref()?.split_once('.')?;
            (!target.is_empty()).then(|| target.to_owned())
        };
        let of_body = || of_body(&self.request).or_else(|| of_body(&self.response));
        self.target.clone().or_else(of_body)
    }

    /// Whether it says everything, and that it is everything.
    fn is_known(&self) -> bool {
        self.is_complete && self.method.is_some() && self.target.is_some() && self.status.is_some()
    }

    /// The same as a log has it, if everything is known.
    fn whole(&self) -> Option<LoggedExchange> {
        let (method, target) = (self.method.clone()?, self.target.clone()?);
        let (request, response) = (self.request.size.unwrap_or(0), self.response.size.unwrap_or(0));
        let whole = LoggedExchange { method, target, status: self.status?, request, response };
        self.is_complete.then_some(whole)
    }

    /// What of it is not what an end logged.
    fn mismatch(&self, logged: &LoggedExchange) -> Option<&'static str> {
        let differs = |known: Option<&str>, logged: &str| known.is_some_and(|known| known != logged);
        let is_whole = |side: &Side, name: &str| {
            let flag =
                |flag: &str| self.record.pointer(&format!("/{name}/{flag}")) == Some(&Value::Bool(true));
            let is_abandoned =
                name == "request" && self.record.get("answered_early") == Some(&Value::Bool(true));
            side.is_seen && !is_abandoned && !flag("lacks_start") && !flag("lacks_end") && !flag("may_lack")
        };
        let differs_in_size = |side: &Side, name: &str, logged: u64| match side.size {
            Some(size) if is_whole(side, name) => size != logged,
            // Of a part, there cannot be more than of the whole.
            Some(size) => size > logged,
            None => self.is_complete && logged > 0,
        };
        let differs_in_body = |side: &Side| {
            side.body.as_ref().is_some_and(|body| {
                !body.is_empty()
                    && body.trim_end_matches('.') != logged.target
                    && !body.bytes().all(|b| b == b'.')
            })
        };
        let found = [
            (differs(self.method.as_deref(), &logged.method), "method"),
            (differs(self.target.as_deref(), &logged.target), "target"),
            (self.status.is_some_and(|status| status != logged.status), "status"),
            (differs_in_size(&self.request, "request", logged.request), "size of the request"),
            (differs_in_size(&self.response, "response", logged.response), "size of the response"),
            (differs_in_body(&self.request) && is_whole(&self.request, "request"), "body of the request"),
            (differs_in_body(&self.response) && is_whole(&self.response, "response"), "body of the response"),
        ];
        found.into_iter().find_map(|(differs, what)| differs.then_some(what))
    }
}

/// The exchanges of a trace whose processes are in the container with this name, or in none.
pub fn captured<'a>(
    trace: &RunningTrace,
    container: impl Into<Option<&'a str>>,
) -> Result<Vec<CapturedExchange>> {
    let (lines, container) = (trace.lines()?, container.into());
    let name = |line: &Value| line.pointer("/container/name").and_then(Value::as_str).map(str::to_owned);
    let of_it = lines.iter().filter(|line| line["type"] == "request" && name(line).as_deref() == container);
    Ok(of_it.map(CapturedExchange::of).collect())
}

/// Checks that exactly what an end has logged was captured, completely.
pub fn check_equal(captured: &[CapturedExchange], logged: &[LoggedExchange]) -> Result<()> {
    let mut left = by_target(logged)?;
    for exchange in captured {
        let target = exchange.target.as_ref().with_context(|| format!("no target: {}", exchange.record))?;
        let Some(logged) = left.remove(target) else { bail!("twice, or never sent: {}", exchange.record) };
        ensure!(exchange.is_known(), "incomplete: {}", exchange.record);
        if let Some(what) = exchange.mismatch(logged) {
            bail!("another {what} than {logged:?}: {}", exchange.record);
        }
    }
    ensure!(
        left.is_empty(),
        "{} of {} are not reported: {:?}",
        left.len(),
        logged.len(),
        left.values().next()
    );
    Ok(())
}

/// Checks that exactly what an end has logged was captured, completely, where targets are requested many
/// times.
pub fn check_same(captured: &[CapturedExchange], logged: &[LoggedExchange]) -> Result<()> {
    let mut left: BTreeMap<&LoggedExchange, usize> = BTreeMap::new();
    for exchange in logged {
        *left.entry(exchange).or_default() += 1;
    }
    for exchange in captured {
        let whole = exchange.whole().with_context(|| format!("incomplete: {}", exchange.record))?;
        let count = left.get_mut(&whole).filter(|count| **count > 0);
        *count.with_context(|| format!("never sent, or too often: {}", exchange.record))? -= 1;
    }
    let missing: usize = left.values().sum();
    ensure!(missing == 0, "{missing} of {} are not reported", logged.len());
    Ok(())
}

/// What of the exchanges after joining in the middle was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JoinedExchanges {
    /// What an end logged since.
    pub logged: usize,
    /// Exchanges of which everything is known.
    pub complete: usize,
    /// Exchanges with both messages, of which something is unknown, such as the target.
    pub partial: usize,
    /// Messages without their counterpart.
    pub unpaired: usize,
    /// Exchanges of which nothing is there.
    pub missing: usize,
}

/// Checks that nothing that was captured since some exchange in the middle contradicts what an end has
/// logged, and that nothing was captured twice. `since` are those that the end logged after the attach.
pub fn check_joined(
    captured: &[CapturedExchange],
    logged: &[LoggedExchange],
    since: &[LoggedExchange],
) -> Result<JoinedExchanges> {
    let all = by_target(logged)?;
    let (mut paired, mut requests, mut responses) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut counts = JoinedExchanges { logged: since.len(), ..JoinedExchanges::default() };
    for exchange in captured {
        let both = exchange.request.is_seen && exchange.response.is_seen;
        match (exchange.is_known(), both) {
            (true, _) => counts.complete += 1,
            (false, true) => counts.partial += 1,
            (false, false) => counts.unpaired += 1,
        }
        let Some(target) = exchange.named_target() else {
            let fits = logged.iter().any(|logged| exchange.mismatch(logged).is_none());
            ensure!(fits, "no exchange is like this: {}", exchange.record);
            continue;
        };
        let logged = all.get(&target).with_context(|| format!("never sent: {}", exchange.record))?;
        if let Some(what) = exchange.mismatch(logged) {
            bail!("another {what} than {logged:?}: {}", exchange.record);
        }
        let seen = match (both, exchange.request.is_seen) {
            (true, _) => &mut paired,
            (false, true) => &mut requests,
            (false, false) => &mut responses,
        };
        ensure!(seen.insert(target.clone()), "reported twice: {}", exchange.record);
    }
    let is_twice = |target: &&String| requests.contains(*target) || responses.contains(*target);
    ensure!(!paired.iter().any(|target| is_twice(&target)), "reported as a pair, and alone");
    let is_missing = |logged: &&LoggedExchange| {
        let target = &logged.target;
        !paired.contains(target) && !requests.contains(target) && !responses.contains(target)
    };
    counts.missing = since.iter().filter(is_missing).count();
    Ok(counts)
}

fn by_target(logged: &[LoggedExchange]) -> Result<BTreeMap<String, &LoggedExchange>> {
    let mut all = BTreeMap::new();
    for exchange in logged {
        let twice = all.insert(exchange.target.clone(), exchange);
        ensure!(twice.is_none(), "a peer logged {exchange:?} twice");
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{CapturedExchange, LoggedExchange, check_equal, check_joined};

    fn log() -> LoggedExchange {
        let (method, target) = ("POST".to_owned(), "/200/5/length/1?page=1".to_owned());
        LoggedExchange { method, target, status: 200, request: 7, response: 5 }
    }

    fn record(path: &str, response: u64, complete: bool) -> CapturedExchange {
        CapturedExchange::of(&json!({
            "http": {"request": {"method": "POST", "body": {"size": 7}},
                     "response": {"status_code": 200, "body": {"size": response}}},
            "url": {"path": path, "query": "page=1"},
            "request": {}, "response": {}, "complete": complete,
        }))
    }

    #[test]
    fn each_difference_is_found() {
        let same = record("/200/5/length/1", 5, true);
        let check =
            |captured: &[CapturedExchange]| check_equal(captured, &[log()]).err().map(|e| e.to_string());
        assert_eq!(check(std::slice::from_ref(&same)), None);
        let beginnings = [
            (check(&[record("/200/5/length/1", 6, true)]), "another size of the response"),
            (check(&[record("/200/5/length/1", 5, false)]), "incomplete"),
            (check(&[record("/200/5/length/2", 5, true)]), "twice, or never sent"),
            (check(&[same.clone(), same]), "twice, or never sent"),
            (check(&[]), "1 of 1 are not reported"),
        ];
        for (found, expected) in beginnings {
            assert!(found.as_ref().is_some_and(|found| found.starts_with(expected)), "{found:?}: {expected}");
        }
    }

    #[test]
    fn what_is_unknown_is_counted_and_what_is_wrong_is_found() -> anyhow::Result<()> {
        let unknown = CapturedExchange::of(&json!({
            "http": {"request": {"method": null, "body": {"size": 7}},
                     "response": {"status_code": 200, "body": {"size": 5}}},
            "url": {"path": null}, "request": {}, "response": {}, "complete": true,
        }));
        let counts = check_joined(&[unknown], &[log()], &[log()])?;
        assert_eq!((counts.complete, counts.partial, counts.missing), (0, 1, 1));
        let wrong = check_joined(&[record("/200/5/length/1", 9, true)], &[log()], &[]).err();
        assert!(wrong.is_some_and(|wrong| wrong.to_string().starts_with("another size")));
        Ok(())
    }
}
