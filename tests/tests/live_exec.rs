//! Every program that is executed is recorded, as it was executed. Needs root, BPF and Docker.

#![expect(clippy::indexing_slicing, reason = "a JSON value that is not there is null")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{Ctrace, ImageTree, RunningTrace, TestContainer, TestImage, program, require_live};
use serde_json::Value;

/// The user and group `nobody`.
const NOBODY: u32 = 65_534;

fn image() -> Result<TestImage> {
    let tree =
        ImageTree::new().program(&program("exec-one")?, "/exec-one")?.program(&program("idle")?, "/idle")?;
    TestImage::build("exec", &tree)
}

/// A container whose init does nothing, traced by `ctrace exec -o json`.
fn traced(label: &str, options: &[&str]) -> Result<(TestContainer, Ctrace)> {
    require_live()?;
    let container = TestContainer::start(&image()?, label, &[], &["/idle"])?;
    let selection = ["exec", "-o", "json", "--container", container.name()];
    let ctrace = Ctrace::start(&[&selection, options].concat())?;
    Ok((container, ctrace))
}

/// The records of a type.
fn records(trace: &RunningTrace, kind: &str) -> Result<Vec<Value>> {
    ensure!(trace.status.success(), "{}: {}", trace.status, trace.stderr);
    Ok(trace.lines()?.into_iter().filter(|record| record["type"] == kind).collect())
}

/// The only execution whose first argument is `first`.
fn exec(trace: &RunningTrace, first: &str) -> Result<Value> {
    let mut found = records(trace, "exec")?;
    found.retain(|record| record["process"]["command_args"][0] == first);
    ensure!(found.len() == 1, "{} programs begin with {first:?}: {found:#?}", found.len());
    found.pop().context("one")
}

fn arguments(record: &Value) -> Result<Vec<Vec<u8>>> {
    let decoded = |value: &Value| -> Result<Vec<u8>> {
        Ok(base64_simd::STANDARD.decode_to_vec(value.as_str().context("text")?)?)
    };
    let process = &record["process"];
    if let Some(list) = process["command_args_base64"].as_array() {
        return list.iter().map(decoded).collect();
    }
    let list = process["command_args"].as_array().context("command_args")?;
    list.iter().map(|value| Ok(value.as_str().context("text")?.as_bytes().to_vec())).collect()
}

#[test]
fn arguments_of_any_bytes_and_where_they_come_from() -> Result<()> {
    let (container, ctrace) = traced("exec-bytes", &[])?;
    container.exec(&["/exec-one", "bytes"])?;
    let trace = ctrace.finish()?;
    trace.check_complete()?;
    let odd = exec(&trace, "odd name")?;
    let expected: [&[u8]; 7] =
        [b"odd name", b"", b"a b", b"line\nbreak", b"\xff\xfe", b"$(x) 'y'", b"\x1b[31m"];
    ensure!(arguments(&odd)? == expected, "{odd:#}");
    ensure!(odd["process"]["command_args"][4] == "\u{fffd}\u{fffd}", "{odd:#}");
    ensure!(odd["process"]["args_count"] == 7 && odd["exec"]["truncated"] == false, "{odd:#}");
    ensure!(odd["exec"]["path"] == "/exec-one" && odd["exec"]["interpreter"].is_null(), "{odd:#}");
    ensure!(odd["container"]["id"] == container.id() && odd["container"]["name"] == container.name());
    ensure!(odd["process"]["comm"] == "exec-one" && odd["process"]["vpid"].as_u64() < Some(1000), "{odd:#}");
    ensure!(odd["process"]["user"]["id"] == 0 && odd["process"]["real_group"]["id"] == 0, "{odd:#}");
    let parent = exec(&trace, "/exec-one")?;
    ensure!(odd["process"]["parent"]["exec_id"] == parent["process"]["exec_id"], "{odd:#}\n{parent:#}");
    ensure!(odd["process"]["parent_pid"] == parent["process"]["pid"], "{odd:#}");
    // With `docker exec` the process is forked outside the container, by a process that has a name.
    ensure!(parent["process"]["parent"]["comm"].is_string(), "{parent:#}");
    // Environments are secret, and not recorded without `--env`.
    ensure!(!trace.stdout.windows(6).any(|bytes| bytes == b"s3cr3t" || bytes == b"SECRET"));
    Ok(())
}

#[test]
fn variables_that_are_asked_for() -> Result<()> {
    let (container, ctrace) = traced("exec-env", &["--env", "PLAIN,PATH"])?;
    container.exec(&["/exec-one", "bytes"])?;
    container.exec(&["/exec-one", "empty"])?;
    let trace = ctrace.finish()?;
    ensure!(exec(&trace, "odd name")?["process"]["environment"] == serde_json::json!(["PLAIN=yes"]));
    ensure!(exec(&trace, "few")?["process"]["environment"] == serde_json::json!([]));
    ensure!(!trace.stdout.windows(6).any(|bytes| bytes == b"s3cr3t"));
    let ctrace = Ctrace::start(&["exec", "-o", "json", "--container", container.name(), "--env", "all"])?;
    container.exec(&["/exec-one", "bytes"])?;
    let all = exec(&ctrace.finish()?, "odd name")?;
    let expected = serde_json::json!(["SECRET=s3cr3t", "PLAIN=yes", "no equals sign"]);
    ensure!(all["process"]["environment"] == expected, "{all:#}");
    Ok(())
}

#[test]
fn many_arguments_and_long_ones() -> Result<()> {
    let (container, ctrace) = traced("exec-many", &[])?;
    for (count, length) in [("1000", "1"), ("1", "102400"), ("7", "16384"), ("400", "40"), ("50", "4000")] {
        container.exec(&["/exec-one", "many", count, length])?;
    }
    container.exec(&["/exec-one", "empty"])?;
    let trace = ctrace.finish()?;
    let mut found = records(&trace, "exec")?;
    found.retain(|record| record["process"]["command_args"][0] == "many");
    let whole = [(1000, 1), (1, 102_400), (7, 16_384), (400, 40)];
    for ((count, length), record) in whole.into_iter().zip(&found) {
        let list = arguments(record)?;
        ensure!(list.len() == count + 1 && record["exec"]["truncated"] == false, "{count} {}", list.len());
        for (index, argument) in list.iter().enumerate().skip(1) {
            let byte = b'a' + u8::try_from(index % 26)?;
            ensure!(*argument == vec![byte; length], "{count}, {length}: argument {index}");
        }
    }
    let cut = found.last().context("none")?;
    ensure!(cut["exec"]["truncated"] == true && cut["process"]["args_count"] == 51);
    let captured: usize = arguments(cut)?.iter().map(|argument| argument.len() + 1).sum();
    ensure!((131_072..=131_073).contains(&captured), "{captured} bytes");
    ensure!(arguments(&exec(&trace, "few")?)? == [b"few".as_slice(), b"last one"]);
    ensure!(trace.counted("/lost/events")? == 0 && trace.counted("/truncated")? == 1);
    Ok(())
}

#[test]
fn a_script_and_its_interpreter() -> Result<()> {
    let (container, ctrace) = traced("exec-script", &[])?;
    let script = container.path("/script");
    fs::write(&script, "#!/exec-one exit\n")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    container.exec(&["/exec-one", "script", "/script"])?;
    let trace = ctrace.finish()?;
    let mut found = records(&trace, "exec")?;
    found.retain(|record| record["exec"]["path"] == "/script");
    let record = found.first().context("the script is not recorded")?;
    ensure!(record["process"]["command_args"] == serde_json::json!(["/exec-one", "exit", "/script", "a b"]));
    ensure!(
        record["exec"]["interpreter"] == "/exec-one" && record["process"]["comm"] == "script",
        "{record:#}"
    );
    let executable = &record["process"]["executable"]["path"];
    ensure!(executable.is_null() || *executable == "/exec-one", "{record:#}");
    Ok(())
}

#[test]
fn what_cannot_be_executed() -> Result<()> {
    let (container, ctrace) = traced("exec-failed", &["--failed"])?;
    let long = format!("/{}", "x".repeat(300));
    for path in ["/no such", "/proc", long.as_str()] {
        container.exec(&["/exec-one", "fail", path])?;
    }
    let trace = ctrace.finish()?;
    trace.check_complete()?;
    let mut failed = records(&trace, "exec_failed")?;
    failed.retain(|record| record["exec"]["command_args"][0] == "failing");
    let found: Vec<_> = failed.iter().map(|it| (&it["exec"]["path"], &it["error"]["type"])).collect();
    let expected = [("/no such", "ENOENT"), ("/proc", "EACCES"), (long.as_str(), "ENAMETOOLONG")];
    ensure!(
        found.len() == 3 && found.iter().zip(expected).all(|(a, b)| *a.0 == b.0 && *a.1 == b.1),
        "{found:?}"
    );
    let first = failed.first().context("none")?;
    ensure!(first["exec"]["command_args"] == serde_json::json!(["failing", "", "x y"]), "{first:#}");
    let programs = records(&trace, "exec")?;
    let is_caller = |it: &&Value| it["process"]["exec_id"] == first["process"]["exec_id"];
    ensure!(programs.iter().filter(is_caller).count() == 1, "{first:#}");
    Ok(())
}

#[test]
fn a_storm_is_told_whole() -> Result<()> {
    let (container, ctrace) = traced("exec-storm", &["--exits"])?;
    container.exec(&["/exec-one", "storm", "3000"])?;
    let trace = ctrace.finish()?;
    trace.check_complete()?;
    let mut programs = records(&trace, "exec")?;
    programs.retain(|record| record["process"]["command_args"][0] == "storm-child");
    let mut numbers: Vec<u64> = Vec::new();
    for program in &programs {
        numbers.push(program["process"]["command_args"][2].as_str().context("text")?.parse()?);
        ensure!(program["process"]["vpid"].is_u64(), "{program:#}");
        let executable = &program["process"]["executable"];
        ensure!(executable.is_null() || executable["path"] == "/exec-one", "{program:#}");
    }
    numbers.sort_unstable();
    ensure!(numbers == (0..3000).collect::<Vec<u64>>(), "{} of 3000", numbers.len());
    let ids: std::collections::BTreeSet<String> =
        programs.iter().map(|program| program["process"]["exec_id"].to_string()).collect();
    ensure!(ids.len() == 3000, "{} identities", ids.len());
    let ended = records(&trace, "exit")?;
    let ended = ended.iter().filter(|exit| ids.contains(&exit["process"]["exec_id"].to_string()));
    let ended: Vec<_> = ended.collect();
    ensure!(ended.len() == 3000 && ended.iter().all(|exit| exit["process"]["exit"]["code"] == 0));
    Ok(())
}

#[test]
fn threads_chains_and_ends() -> Result<()> {
    let (container, ctrace) = traced("exec-ends", &["--exits", "--forks"])?;
    container.exec(&["/exec-one", "thread"])?;
    container.exec(&["/exec-one", "chain", "20"])?;
    for wrong in [["/exec-one", "exit", "7"], ["/exec-one", "signal", "9"]] {
        ensure!(container.exec(&wrong).is_err(), "{wrong:?} ends well");
    }
    let trace = ctrace.finish()?;
    trace.check_complete()?;
    let programs = records(&trace, "exec")?;
    let thread: Vec<_> =
        programs.iter().filter(|it| it["process"]["command_args"][1] == "from a thread").collect();
    ensure!(thread.len() == 1 && thread.iter().all(|it| it["thread"]["id"] == it["process"]["pid"]));
    let chain: Vec<_> = programs.iter().filter(|it| it["process"]["command_args"][0] == "chain").collect();
    ensure!(chain.len() == 20, "{}", chain.len());
    // All programs run in one process with one parent, and each has its own `exec_id`.
    for field in ["pid", "parent"] {
        let first = chain.first().map(|it| &it["process"][field]);
        ensure!(chain.iter().all(|it| Some(&it["process"][field]) == first), "{field}: {chain:#?}");
    }
    let ids: std::collections::BTreeSet<_> =
        chain.iter().map(|it| it["process"]["exec_id"].to_string()).collect();
    ensure!(ids.len() == 20);
    let exits = records(&trace, "exit")?;
    let exit = |what: &str| -> Result<&Value> {
        let program =
            programs.iter().find(|it| it["process"]["command_args"][1] == what).context("no exec")?;
        let mut found = exits.iter().filter(|it| it["process"]["exec_id"] == program["process"]["exec_id"]);
        found.next().with_context(|| format!("no end of {what}"))
    };
    let (status, signal) = (exit("exit")?, exit("signal")?);
    ensure!(status["process"]["exit"]["code"] == 7 && status["process"]["exit"]["signal"].is_null());
    ensure!(status["duration"].as_u64().is_some_and(|ns| ns > 0) && status["forked"] == false, "{status:#}");
    ensure!(signal["process"]["exit"]["signal"]["name"] == "SIGKILL", "{signal:#}");
    let forks = records(&trace, "fork")?;
    let child = &thread.first().context("none")?["process"];
    let is_its = |fork: &&Value| fork["child"]["pid"] == child["pid"];
    ensure!(forks.iter().filter(is_its).count() == 1, "{forks:#?}");
    Ok(())
}

#[test]
fn the_entrypoint_of_a_container_that_starts_later() -> Result<()> {
    require_live()?;
    let image = image()?;
    let ctrace = Ctrace::start(&["exec", "-o", "json", "--image", image.tag()])?;
    let container = TestContainer::start(&image, "exec-later", &[], &["/idle", "entry point"])?;
    container.exec(&["/exec-one", "after"])?;
    let trace = ctrace.finish()?;
    let of_it = |record: &&Value| record["container"]["id"] == container.id();
    let programs = records(&trace, "exec")?;
    let entry: Vec<_> = programs
        .iter()
        .filter(of_it)
        .filter(|it| it["process"]["command_args"] == serde_json::json!(["/idle", "entry point"]))
        .collect();
    ensure!(entry.len() == 1, "{programs:#?}");
    ensure!(entry.iter().all(|it| it["process"]["pid"] == container.pid()));
    ensure!(programs.iter().filter(of_it).any(|it| it["process"]["command_args"][1] == "after"));
    Ok(())
}

#[test]
fn the_namespace_of_an_init_and_what_runs_already() -> Result<()> {
    require_live()?;
    let container = TestContainer::start(&image()?, "exec-init", &[], &["/idle"])?;
    let pid = container.pid().to_string();
    let ctrace = Ctrace::start(&["exec", "-o", "json", "--existing", "--exits", "--pid", &pid])?;
    container.exec(&["/exec-one", "inside"])?;
    let trace = ctrace.finish()?;
    trace.check_complete()?;
    let init = exec(&trace, "/idle")?;
    ensure!(init["exec"]["existing"] == true && init["process"]["pid"] == container.pid(), "{init:#}");
    ensure!(init["process"]["vpid"] == 1 && init["process"]["working_directory"] == "/", "{init:#}");
    ensure!(exec(&trace, "/exec-one")?["exec"]["existing"] == false);
    Ok(())
}

#[test]
fn a_program_that_takes_other_rights() -> Result<()> {
    require_live()?;
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let path = directory.path().join("takes-rights");
    fs::copy(program("exec-one")?, &path)?;
    chown(&path, Some(0), Some(0))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4755))?;
    let own = std::process::id().to_string();
    let ctrace = Ctrace::start(&["exec", "-o", "json", "--pid", &own])?;
    let status = Command::new(&path).arg("rights").uid(NOBODY).gid(NOBODY).stdout(Stdio::null()).status()?;
    ensure!(status.success());
    let record = exec(&ctrace.finish()?, path.to_str().context("path")?)?;
    let process = &record["process"];
    ensure!(process["user"]["id"] == 0 && process["real_user"]["id"] == NOBODY, "{record:#}");
    ensure!(
        process["real_group"]["id"] == NOBODY && process["parent_pid"] == std::process::id(),
        "{record:#}"
    );
    Ok(())
}

#[test]
fn a_command_is_the_first_record_and_counts() -> Result<()> {
    require_live()?;
    let directory = tempfile::tempdir()?;
    let output = directory.path().join("out");
    let (output, one) = (output.to_str().context("path")?, program("exec-one")?);
    let one = one.to_str().context("path")?;
    let trace = Ctrace::run_to_end(&["exec", "-o", "json", "--output", output, "--", one, "exit", "5"])?;
    ensure!(trace.code() == Some(5), "{:?}: {}", trace.code(), trace.stderr);
    let written = fs::read_to_string(output)?;
    let first: Value = serde_json::from_str(written.lines().next().context("nothing")?)?;
    ensure!(first["process"]["command_args"] == serde_json::json!([one, "exit", "5"]), "{first:#}");
    ensure!(trace.stderr.contains("summary: 1 program in"), "{}", trace.stderr);

    let limited = ["exec", "-o", "json", "--output", output, "--limit", "3", "--", one, "storm", "100"];
    ensure!(Ctrace::run_to_end(&limited)?.code() == Some(0));
    let written = fs::read_to_string(output)?;
    ensure!(written.lines().count() == 4 && written.contains("\"end\":\"count\""), "{written}");

    let plan = Ctrace::run_to_end(&["exec", "--all", "--dry-run"])?;
    let plan: Value = serde_json::from_slice(&plan.stdout)?;
    ensure!(plan["objects"] == serde_json::json!([]) && plan["scope"]["all"] == true, "{plan:#}");
    Ok(())
}

#[test]
fn text_is_a_line_each_that_a_shell_would_take() -> Result<()> {
    require_live()?;
    let container = TestContainer::start(&image()?, "exec-text", &[], &["/idle"])?;
    let ctrace = Ctrace::start(&["exec", "--tree", "--exits", "--container", container.name()])?;
    container.exec(&["/exec-one", "bytes"])?;
    let trace = ctrace.finish()?;
    let text = String::from_utf8(trace.stdout)?;
    let line = text.lines().find(|line| line.contains("odd name")).context("no such line")?;
    let quoted = "'odd name' '' 'a b' $'line\\nbreak' $'\\377\\376' '$(x) '\\''y'\\''' $'\\033[31m'";
    ensure!(line.contains(quoted), "{line}");
    ensure!(line.contains(&format!("{}   exec-one[", container.name())), "not indented: {line}");
    ensure!(text.contains("exited with 0 after"), "{text}");
    Ok(())
}
