//! What is excluded is not traced, whatever its name becomes. Needs root, BPF and Docker.

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{Ctrace, JsonRecord, Server, TestContainer, docker, images, require_live};

/// The sizes that clients move in these tests: more than one record and chunk, in both directions.
const MOVE: &[&str] = &["--up", "5,20000", "--down", "100000,1"];

/// A server whose image has lost its tag to another image.
fn start_and_move_the_tag(label: &str) -> Result<(Server, String)> {
    let tag = format!("ctrace-test/{label}:{}", std::process::id());
    let (old, new) = (images::tls()?, images::vendored()?);
    let name = format!("ctrace-test-{}-{label}", std::process::id());
    docker(&["tag", old.tag(), &tag])?;
    let ran = docker(&[
        "run",
        "--detach",
        "--network=none",
        "--label=ctrace-test",
        "--name",
        &name,
        &tag,
        "/tls-server",
    ]);
    let moved = docker(&["tag", new.tag(), &tag]);
    ran.and(moved)?;
    Ok((Server::of(TestContainer::running(&name)?)?, tag))
}

#[test]
fn an_image_whose_tag_has_moved_to_another() -> Result<()> {
    require_live()?;
    let (server, tag) = start_and_move_the_tag("retagged")?;
    let other = Server::start_in(&images::vendored()?, "retagged-not", &[], &["/tls-server"])?;
    let without_tag = tag.split_once(':').context("no tag")?.0.to_owned();
    let name = server.container.name();
    let id = docker(&["inspect", "--format", "{{.Image}}", name])?.trim().to_owned();
    let current = images::tls()?.tag().to_owned();
    let mut count = 0;
    // The image by the name that the container was started with, by another tag, and by its id.
    for wanted in [&tag, &without_tag, &id, &current] {
        let ctrace = Ctrace::json(&["--image", wanted, "--exclude-label", "ctrace-none"])?;
        let client = server.client(MOVE)?;
        other.client(MOVE)?;
        count += 1;
        let last = server.transfers(count)?.pop();
        let trace = ctrace.finish()?;
        trace.check_complete()?;
        let of_server = |record: &JsonRecord| {
            record.container.as_ref().is_some_and(|container| container.id == server.container.id())
        };
        trace.streams(of_server)?.check(&last.into_iter().chain(client).collect::<Vec<_>>())?;
        for line in trace.lines()? {
            if line.pointer("/container/id").and_then(|id| id.as_str()) == Some(server.container.id()) {
                let shown = line.pointer("/container/image/name").and_then(|name| name.as_str());
                ensure!(shown == Some(&tag), "the image is called {shown:?}");
            }
        }
        // The same names as exclusions.
        let ctrace = Ctrace::json(&["--all", "--wait", "--exclude-image", wanted])?;
        server.client(MOVE)?;
        count += 1;
        server.transfers(count)?;
        let trace = ctrace.finish()?;
        let recorded = trace.records()?.iter().filter(|record| of_server(record)).count();
        ensure!(recorded == 0, "{recorded} records although {wanted} is excluded: {}", trace.stderr);
    }
    docker(&["rmi", &tag]).map(drop)
}

#[test]
fn a_container_that_is_renamed_stays_excluded() -> Result<()> {
    require_live()?;
    let name = format!("ctrace-test-{}-renamed", std::process::id());
    let ctrace = Ctrace::json(&["--all", "--wait", "--exclude-container", &name])?;
    let server = Server::start("renamed", &[])?;
    let seen = Server::start("renamed-not", &[])?;
    ensure!(server.container.name() == name, "{}", server.container.name());
    server.client(MOVE)?;
    docker(&["rename", &name, &format!("{name}-now")])?;
    // Executing something in it, and everything that makes ctrace query the runtimes, might let it in.
    server.client(MOVE)?;
    let later = Server::start("renamed-later", &[])?;
    server.client(MOVE)?;
    let clients = [seen.client(MOVE)?, later.client(MOVE)?].concat();
    let trace = ctrace.finish()?;
    let of = |record: &JsonRecord, server: &Server| {
        record.container.as_ref().is_some_and(|container| container.id == server.container.id())
    };
    let recorded = trace.records()?.iter().filter(|record| of(record, &server)).count();
    ensure!(recorded == 0, "{recorded} records of what is excluded: {}", trace.stderr);
    let others = trace.records()?.iter().filter(|record| of(record, &seen) || of(record, &later)).count();
    ensure!(others >= clients.len(), "{others} records of the others: {}", trace.stderr);
    Ok(())
}
