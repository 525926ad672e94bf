//! A stream without loss, as fast as the peers can move it. It is alone in its file, because cargo runs test
//! files one after the other: anything that takes the processor from ctrace would rightly be counted as loss.
//! Needs root, BPF and Docker.

use anyhow::{Result, ensure};
use ctrace_tests::{Ctrace, Server, require_live};

#[test]
fn a_stream_of_64_mib_each_way() -> Result<()> {
    require_live()?;
    let server = Server::start("stream", &[])?;
    let ctrace = Ctrace::json(&["--container", server.container.name()])?;
    server.client_outside(&["--up", "65536*1024", "--down", "65536*1024"])?;
    let transfers = server.transfers(1)?;
    ensure!(transfers.iter().all(|transfer| transfer.bytes() > 2 * 64 * 1024 * 1024), "{transfers:?}");
    let trace = ctrace.finish()?;
    trace.check_complete()?;
    trace.streams(|_| true)?.check(&transfers)
}
