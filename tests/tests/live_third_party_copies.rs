//! Programs that others have built and that copy their own code to huge pages: Node.js and PHP. Needs root,
//! BPF, Docker, and once the machine's package sources.

use std::time::Duration;

use anyhow::{Result, ensure};
use ctrace_tests::third_party::{BOOKWORM, Certificate, PHP};
use ctrace_tests::{Ctrace, TestContainer, require_live, text, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);
const OPTION: &str = "--use-largepages=on";
const ASKED: &str = "is asked to copy its code";
const COPIED: &str = "executes a copy of this code in anonymous memory";

/// A server and a client in one process: three requests, or requests for as long as it lives.
const EXCHANGE: &str = r"
const https = require('https'), pem = require('fs').readFileSync('/server.pem');
const server = https.createServer({ key: pem, cert: pem }, (request, response) => response.end('pong'));
server.listen(0, () => {
  let left = process.argv.includes('wait') ? Infinity : 3;
  const ask = () => https.get({ port: server.address().port, rejectUnauthorized: false }, (response) => {
    response.on('data', (data) => console.log(String(data)));
    response.on('end', () => (--left > 0 ? setTimeout(ask, 20) : process.exit(0)));
  });
  ask();
});";

fn container(label: &str, options: &[&str], command: &[&str]) -> Result<TestContainer> {
    require_live()?;
    let pem = format!("--volume={}:/server.pem:ro", Certificate::get()?.server().display());
    TestContainer::start(&BOOKWORM.image()?, label, &[&[pem.as_str()], options].concat(), command)
}

fn check_left_alone(container: &TestContainer, options: &[&str]) -> Result<()> {
    let ctrace = Ctrace::json(&["--wait", "--container", container.name()])?;
    let command = [&["/usr/bin/node"], options, &["-e", EXCHANGE]].concat();
    for _ in 0..5 {
        // It fails if the program dies.
        let said = container.exec(&command)?;
        ensure!(said == "pong\npong\npong\n", "{said}");
    }
    let trace = ctrace.finish()?;
    ensure!(trace.code() == Some(0) && trace.records()?.is_empty(), "{:?}: {}", trace.status, trace.stderr);
    ensure!(trace.stderr.contains(ASKED) && trace.stderr.contains(OPTION), "{}", trace.stderr);
    Ok(())
}

#[test]
fn node_that_is_asked_to_copy_its_code_is_left_alone() -> Result<()> {
    check_left_alone(&container("node-option", &[], &["/idle"])?, &[OPTION])?;
    let variable = format!("--env=NODE_OPTIONS={OPTION}");
    check_left_alone(&container("node-variable", &[&variable], &["/idle"])?, &[])
}

#[test]
fn node_that_has_copied_its_code_is_reported_and_goes_on() -> Result<()> {
    let container = container("node-copied", &[], &["/usr/bin/node", OPTION, "-e", EXCHANGE, "wait"])?;
    let more_than = |count| {
        wait_until("response", PATIENCE, || {
            let responses = container.logs()?.lines().count();
            Ok((responses > count).then_some(()))
        })
    };
    more_than(0)?;
    let listed = Ctrace::run_to_end(&["ps", "--container", container.name()])?;
    ensure!(text(&listed).contains(COPIED), "{}{}", text(&listed), listed.stderr);
    let trace = Ctrace::run_to_end(&["ssl", "--duration", "1s", "--container", container.name()])?;
    ensure!(trace.stderr.contains(COPIED), "{:?}: {}", trace.status, trace.stderr);
    more_than(container.logs()?.lines().count())
}

#[test]
fn php_that_is_asked_to_copy_its_code_is_left_alone() -> Result<()> {
    require_live()?;
    let container = TestContainer::start(&PHP.image()?, "php-copies", &[], &["/idle"])?;
    let function = "/usr/bin/php8.2:zend_parse_parameters";
    let ctrace =
        Ctrace::start(&["uprobe", "--wait", "-o", "json", "--container", container.name(), function])?;
    let settings = ["-d", "opcache.enable_cli=1", "-d", "opcache.huge_code_pages=1"];
    for _ in 0..5 {
        let command = [&["/usr/bin/php8.2"], &settings[..], &["-r", "echo str_repeat('x', 3);"]].concat();
        let said = container.exec(&command)?;
        ensure!(said == "xxx", "{said}");
    }
    let trace = ctrace.finish()?;
    ensure!(trace.stderr.contains(ASKED), "{:?}: {}", trace.status, trace.stderr);
    Ok(())
}
