//! A server and a client whose logs are compared with what `ctrace requests` reports of both.

use anyhow::{Context as _, Result, ensure};

use super::{
    CapturedExchange, JoinedExchanges, LoggedExchange, PlanDirectory, captured, check_equal, check_joined,
    logged, plan,
};
use crate::Ctrace;
use crate::program;
use crate::third_party::client::Start;
use crate::third_party::{Pair, PairSetup, Release};

/// The requests of a client.
pub const REQUESTS: usize = 160;
/// Those of the first half that do not wait for the second one.
const BEFORE: usize = REQUESTS / 2 - 2;
/// The port of each server.
pub const PORT: u16 = 8443;
/// How a line of a log begins.
pub const LOG: &str = "{\"method\"";
/// `ctrace` with all that is compared.
pub const TRACE: [&str; 8] = ["requests", "-v", "--no-cleartext", "--messages", "--body", "1m", "-o", "json"];

/// A server and a client that do what `http-peers.py` says; both take the protocol as their last argument.
#[derive(Debug)]
pub struct PeerCase {
    /// What their containers have.
    pub release: &'static Release,
    /// A part of the names of their containers.
    pub label: &'static str,
    /// Environment variables of both, as options of `docker run`.
    pub environment: &'static [&'static str],
    /// The server.
    pub server: &'static [&'static str],
    /// The client.
    pub client: &'static [&'static str],
    /// Files of the client, so that ctrace has attached to them before.
    pub mapped: &'static [&'static str],
    /// `h1` or `h2`.
    pub protocol: &'static str,
    /// Whether the client's connections are seen from their start.
    pub client_start: Start,
    /// Whether both have TLS.
    pub transport: PeerTransport,
    /// How many of the exchanges since the attach are known completely at each end, in percent.
    pub least_complete: usize,
}

/// What HTTP is carried by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerTransport {
    /// TLS over TCP. What has no TLS is not traced.
    Tls,
    /// TCP.
    Tcp,
}

impl PeerTransport {
    /// What the programs of the tests are told by, as options of `docker run`.
    pub fn options(self) -> &'static [&'static str] {
        match self {
            Self::Tls => &[],
            Self::Tcp => &["--env=CLEARTEXT=1"],
        }
    }
}

impl PeerCase {
    fn trace(&self, pair: &Pair) -> Result<Ctrace> {
        let is_wanted =
            |argument: &&str| self.transport == PeerTransport::Tls || *argument != "--no-cleartext";
        pair.trace(&TRACE.into_iter().filter(is_wanted).collect::<Vec<_>>())
    }

    fn version(&self) -> &'static str {
        if self.protocol == "h2" { "2" } else { "1.1" }
    }

    fn client(&self) -> Vec<&'static str> {
        [self.client, &[self.protocol]].concat()
    }

    fn start(&self, directory: &PlanDirectory) -> Result<Pair> {
        let pair = format!("--volume={}:/http-pair:ro", program("http-pair")?.display());
        let volumes = [directory.volume(), pair];
        let volumes = volumes.each_ref().map(String::as_str);
        let options = [volumes.as_slice(), self.environment, self.transport.options()].concat();
        let label = format!("{}-{}-{:?}", self.label, self.protocol, self.transport).to_lowercase();
        let server = [self.server, &[self.protocol]].concat();
        let pair = Pair::start(&PairSetup {
            release: self.release,
            label: &label,
            options: &options,
            server: &server,
            mapped: self.mapped,
        })?;
        pair.wait_for_port(PORT)?;
        Ok(pair)
    }
}

/// Compares what is captured at both ends with their logs: from the first byte, and joined in the middle.
pub fn check_peers(case: &PeerCase) -> Result<()> {
    let directory = PlanDirectory::new(&plan(REQUESTS))?;
    directory.go()?;
    let pair = case.start(&directory)?;
    from_the_first_byte(case, &pair).context("from the first byte")?;
    joined(case, &pair, &directory).context("joined in the middle")
}

fn from_the_first_byte(case: &PeerCase, pair: &Pair) -> Result<()> {
    let ctrace = case.trace(pair)?;
    let client = logged(&pair.client.exec(&case.client())?)?;
    let server = logged(&pair.server_lines(LOG, REQUESTS)?)?;
    let trace = ctrace.finish()?;
    ensure!(client.len() == REQUESTS && server.len() == REQUESTS, "{} and {}", client.len(), server.len());
    for (container, logged) in [(&pair.client, &client), (&pair.server, &server)] {
        let captured = captured(&trace, container.name())?;
        check_version(&captured, case)?;
        let is_joined = case.client_start == Start::Moved && container.name() == pair.client.name();
        let check = if is_joined { check_moved } else { check_equal };
        check(&captured, logged)
            .with_context(|| format!("{}; standard error of ctrace:\n{}", container.name(), trace.stderr))?;
    }
    ensure!(trace.counted("/lost/events")? == 0, "lost: {}", trace.summary()?);
    Ok(())
}

/// Connections that are identified only after the handshake are joined after their first calls.
fn check_moved(captured: &[CapturedExchange], logged: &[LoggedExchange]) -> Result<()> {
    let counts = check_joined(captured, logged, logged)?;
    ensure!(counts.complete >= logged.len() / 2, "{counts:?}");
    Ok(())
}

fn joined(case: &PeerCase, pair: &Pair, directory: &PlanDirectory) -> Result<()> {
    directory.hold()?;
    let held = pair.server.logs()?.lines().filter(|line| *line == "held").count();
    let mut running = pair.start_client(&case.client())?;
    running.wait_for_lines(BEFORE)?;
    pair.server_lines("held", held + 2)?;
    let ctrace = case.trace(pair)?;
    directory.go()?;
    let client = logged(&running.finish()?)?;
    let server = logged(&pair.server_lines(LOG, 2 * REQUESTS)?)?;
    let server = server.get(REQUESTS..).unwrap_or_default();
    let trace = ctrace.finish()?;
    for (container, logged) in [(&pair.client, client.as_slice()), (&pair.server, server)] {
        let captured = captured(&trace, container.name())?;
        check_version(&captured, case)?;
        let since: &[LoggedExchange] = logged.get(BEFORE..).unwrap_or_default();
        let counts = check_joined(&captured, logged, since).with_context(|| container.name().to_owned())?;
        println!("{} {}: {} {counts:?}", case.label, case.protocol, container.name());
        check_floor(case, counts)?;
    }
    Ok(())
}

fn check_version(captured: &[CapturedExchange], case: &PeerCase) -> Result<()> {
    let differs = |exchange: &&CapturedExchange| {
        exchange.version.as_ref().is_some_and(|version| version != case.version())
    };
    let other = captured.iter().find(differs);
    ensure!(other.is_none(), "not HTTP/{}: {other:?}", case.version());
    Ok(())
}

fn check_floor(case: &PeerCase, counts: JoinedExchanges) -> Result<()> {
    let floor = counts.logged * case.least_complete / 100;
    ensure!(counts.complete >= floor, "fewer than {floor} are complete: {counts:?}");
    ensure!(4 * counts.missing <= counts.logged, "more than a quarter is not there: {counts:?}");
    Ok(())
}
