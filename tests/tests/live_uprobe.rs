//! Calls of functions: arguments, returns, counts, times, in several languages. Needs root, BPF and Docker.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{
    Child, Ctrace, RunningTrace, TestContainer, images, program, require_bpf, require_live, text,
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// How long the kernel may take to remove five hundred probes.
const DETACHING: Duration = Duration::from_mins(2);

/// A container whose init is a waiting program, so that its file is mapped and attached to.
fn container(name: &str) -> Result<TestContainer> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    require_live()?;
    let label = format!("uprobe-{name}-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    TestContainer::start(&images::functions()?, &label, &[], &[&format!("/{name}"), "idle"])
}

/// Traces a container while scenarios of a program run in it.
fn trace(name: &str, options: &[&str], scenarios: &[&str]) -> Result<RunningTrace> {
    let container = container(name)?;
    let arguments = [&["uprobe", "-o", "json", "--container", container.name()], options].concat();
    let mut ctrace = Ctrace::start(&arguments)?;
    for scenario in scenarios {
        container.exec(&[&format!("/{name}"), scenario])?;
    }
    // The kernel takes up to a tenth of a second to remove a probe.
    ctrace.child().signal(Signal::INT)?;
    let trace = ctrace.wait(DETACHING)?;
    ensure!(trace.status.success(), "{}", trace.stderr);
    for record in of_type(&trace, "uprobe")? {
        let id = record.pointer("/container/id").and_then(Value::as_str);
        ensure!(id == Some(container.id()), "another container: {record}");
    }
    Ok(trace)
}

fn of_type(trace: &RunningTrace, kind: &str) -> Result<Vec<Value>> {
    let mut lines = trace.lines()?;
    lines.retain(|line| line.get("type").and_then(Value::as_str) == Some(kind));
    Ok(lines)
}

/// Function, argument values and return value of each call. Null: it has not returned; true: it has returned
/// without a value.
fn calls(trace: &RunningTrace) -> Result<Vec<Value>> {
    let call = |record: Value| {
        let arguments = record.get("args").and_then(Value::as_array).cloned().unwrap_or_default();
        let values = arguments.iter().map(|argument| argument.get("value").cloned().unwrap_or_default());
        let values: Vec<Value> = values.collect();
        let returned = match record.get("return") {
            None => json!("not asked"),
            Some(Value::Null) => Value::Null,
            Some(returned) => returned.get("value").cloned().unwrap_or(json!(true)),
        };
        json!([record.get("function").cloned().unwrap_or_default(), values, returned])
    };
    Ok(of_type(trace, "uprobe")?.into_iter().map(call).collect())
}

fn check(trace: &RunningTrace, expected: &[Value]) -> Result<()> {
    let got = calls(trace)?;
    ensure!(got == expected, "got {got:#?}\nexpected {expected:#?}\n{}", trace.stderr);
    ensure!(trace.counted("/lost/events")? == 0 && trace.counted("/undecodable")? == 0, "something was lost");
    Ok(())
}

#[test]
fn arguments_and_returns_of_c() -> Result<()> {
    let patterns = [
        ":add(int, str, ulong, bytes(#3)) -> int",
        ":factorial(int) -> int",
        ":outer(str) -> int",
        ":inner(_) -> str",
    ];
    let trace = trace("functions", &patterns, &["add", "recursion", "nested"])?;
    let factorial = |n: i64, result: i64| json!(["factorial", [n], result]);
    check(
        &trace,
        &[
            json!(["add", [-5, "say \"hello\"\n", 3, "a\0c"], 107]),
            factorial(1, 1),
            factorial(2, 2),
            factorial(3, 6),
            factorial(4, 24),
            factorial(5, 120),
            json!(["inner", [], "ested"]),
            json!(["outer", ["nested"], 5]),
        ],
    )?;
    for record in of_type(&trace, "uprobe")? {
        ensure!(record.get("duration").and_then(Value::as_u64).is_some_and(|time| time > 0), "{record}");
    }
    Ok(())
}

#[test]
fn calls_that_do_not_return() -> Result<()> {
    let trace = trace("functions", &[":jumper(int) -> int", ":stays(int) -> int"], &["longjmp", "never"])?;
    let jumper = |n: i64| json!(["jumper", [n], null]);
    // The second round uses the same places on the stack, which reveals that the calls of the first were
    // left.
    let rounds = [jumper(2), jumper(1), jumper(0), jumper(2), jumper(1), jumper(0)];
    check(&trace, &[rounds.as_slice(), &[json!(["stays", [7], null])]].concat())
}

#[test]
fn what_is_not_in_memory_is_told_and_counted() -> Result<()> {
    let trace = trace("functions", &["--max-bytes", "100", ":ignores(str) -> bool"], &["untouched", "long"])?;
    let records = of_type(&trace, "uprobe")?;
    let [untouched, long] = records.as_slice() else { anyhow::bail!("{records:?}\n{}", trace.stderr) };
    let expected = json!([{"index": 1, "type": "str", "value": null, "error": "unreadable"}]);
    ensure!(untouched.get("args") == Some(&expected), "{untouched}");
    let expected = json!([{"index": 1, "type": "str", "value": "x".repeat(100), "truncated": true}]);
    ensure!(long.get("args") == Some(&expected), "{long}");
    ensure!(trace.counted("/lost/reasons/argument_fault/events")? == 1, "it is not counted");
    ensure!(trace.counted("/lost/events")? == 0 && trace.counted("/truncated")? == 1, "the summary");
    Ok(())
}

/// They are in pages of the executable that the process has not touched yet.
#[test]
fn constants_that_are_not_in_memory_are_read_from_the_file() -> Result<()> {
    let patterns = ["--max-bytes", "30", ":ignores(str)", ":add(_, _, _, bytes(#3))"];
    let trace = trace("functions", &patterns, &["constants"])?;
    let records = of_type(&trace, "uprobe")?;
    let values: Vec<&Value> = records.iter().filter_map(|record| record.pointer("/args/0")).collect();
    let cut =
        json!({"index": 1, "type": "str", "value": "a constant that nobody has rea", "truncated": true});
    ensure!(values.first() == Some(&&cut), "{values:#?}\n{}", trace.stderr);
    let value = |number: usize| values.get(number).and_then(|value| value.get("value")?.as_str());
    ensure!(value(1) == Some("over the end of a page   "), "{values:#?}");
    ensure!(value(2) == Some("a variable before it is read"), "{values:#?}");
    ensure!(values.len() == 3, "{values:#?}");
    ensure!(trace.summary()?.pointer("/lost/reasons/argument_fault").is_none(), "{}", trace.summary()?);
    Ok(())
}

#[test]
fn a_text_as_long_as_the_limit_is_whole() -> Result<()> {
    let trace = trace("functions", &["--max-bytes", "999", ":ignores(str)"], &["nothing", "long"])?;
    let ignores = |text: &str| json!(["ignores", [text], "not asked"]);
    check(&trace, &[ignores(""), ignores(&"x".repeat(999))])?;
    ensure!(trace.counted("/truncated")? == 0, "{:?}", of_type(&trace, "uprobe")?);
    Ok(())
}

#[test]
fn five_hundred_functions() -> Result<()> {
    let trace = trace("functions", &[":many_*(int)"], &["many"])?;
    let expected: Vec<Value> =
        (0..500).map(|n| json!([format!("many_{n:03}"), [1000 + n], "not asked"])).collect();
    check(&trace, &expected)
}

#[test]
fn too_many_and_none_are_errors_that_say_so() -> Result<()> {
    let container = container("functions")?;
    let run = |options: &[&str]| {
        Ctrace::run_to_end(&[&["uprobe", "--container", container.name()], options].concat())
    };
    let many = run(&["--max-probes", "499", ":many_*"])?;
    ensure!(many.code() == Some(2) && many.stderr.contains("--max-probes"), "{}", many.stderr);
    let none = run(&[":factoriel"])?;
    ensure!(none.code() == Some(3) && none.stderr.contains("similar names: factorial"), "{}", none.stderr);
    let wrong = run(&[":factorial(integer)"])?;
    ensure!(wrong.code() == Some(2) && wrong.stderr.contains("at character 12"), "{}", wrong.stderr);
    let middle = run(&[":factorial+1"])?;
    ensure!(middle.code() == Some(3), "{}", middle.stderr);
    let start = run(&[":_start -> int"])?;
    ensure!(start.code() == Some(3) && start.stderr.contains("return"), "{}", start.stderr);
    Ok(())
}

#[test]
fn a_list_says_where_functions_are() -> Result<()> {
    let container = container("functions")?;
    let listed = Ctrace::run_to_end(&[
        "uprobe",
        "--list",
        "--container",
        container.name(),
        ":many_00?",
        "libc.so.6:getenv",
    ])?;
    ensure!(listed.code() == Some(0), "{}", listed.stderr);
    let text = String::from_utf8(listed.stdout)?;
    ensure!(text.lines().count() == 11 && text.contains("many_009") && text.contains("libc.so.6"), "{text}");
    Ok(())
}

#[test]
fn stripped_functions_have_addresses() -> Result<()> {
    let symbols = Command::new("nm").arg(program("functions")?).output()?;
    let symbols = String::from_utf8(symbols.stdout)?;
    let line = symbols.lines().find(|line| line.ends_with(" T factorial")).context("no factorial")?;
    let address = line.split(' ').next().unwrap_or_default().trim_start_matches('0');
    let pattern = format!(":0x{address}(int)");
    let trace = trace("functions-stripped", &[&pattern], &["recursion"])?;
    let call = |n: i64| json!([format!("0x{address}"), [n], "not asked"]);
    check(&trace, &[call(5), call(4), call(3), call(2), call(1)])
}

/// Makes a copy of a program, `seven`, and a file with its symbols, `seven.debug`, and one with its build id,
/// `note`.
fn part_from_symbols(name: &str, directory: &Path) -> Result<()> {
    std::fs::copy(program(name)?, directory.join("seven"))?;
    for words in [
        &["objcopy", "--only-keep-debug", "seven", "seven.debug"][..],
        &["strip", "seven"],
        &["objcopy", "--add-gnu-debuglink=seven.debug", "seven"],
        &["objcopy", "-O", "binary", "--only-section=.note.gnu.build-id", "seven", "note"],
    ] {
        let (name, arguments) = words.split_first().context("no command")?;
        let status = Command::new(name).args(arguments).current_dir(directory).status()?;
        ensure!(status.success(), "{words:?}");
    }
    Ok(())
}

#[test]
fn inspect_shows_the_separate_debug_file() -> Result<()> {
    require_bpf()?;
    let directory = tempfile::tempdir()?;
    // Its symbols are in the file itself, too, because what inspect lists are files that can be traced.
    part_from_symbols("tls-client-static", directory.path())?;
    let mut client = Command::new(directory.path().join("seven"));
    let client = Child::start_with_stdout(client.args(["--port", "1", "--delay", "60000"]), Stdio::null())?;
    let shown = directory.path().join("seven.debug").display().to_string();
    let inspect = || Ctrace::run_to_end(&["inspect", &client.id().to_string()]);
    let row = |text: &str| text.lines().any(|line| line.contains("/seven ") && line.ends_with(&shown));
    let text = text(&inspect()?);
    ensure!(text.contains("DEBUG FILE") && row(&text), "{text}{}", inspect()?.stderr);
    Ok(())
}

#[test]
fn symbols_come_from_separate_debug_files() -> Result<()> {
    require_live()?;
    let directory = tempfile::tempdir()?;
    let at = |name: &str| directory.path().join(name);
    part_from_symbols("functions", directory.path())?;
    let (seven, output) = (at("seven"), at("out"));
    let (seven, output) = (seven.to_str().context("path")?, output.to_str().context("path")?);
    let pattern = ":factorial(int) -> int";
    let command = ["uprobe", "-o", "json", "--output", output, pattern, "--", seven, "recursion"];
    let trace = Ctrace::run_to_end(&command)?;
    let records = std::fs::read_to_string(output)?;
    let count = records.lines().filter(|line| line.contains(r#""function":"factorial""#)).count();
    ensure!(count == 5, "{records}\n{}", trace.stderr);

    // Nowhere: the message says where it was searched. Then in the container, by the build id alone.
    std::fs::rename(at("seven.debug"), at("away"))?;
    let trace = Ctrace::run_to_end(&["uprobe", pattern, "--", seven, "recursion"])?;
    let searched = at(".debug/seven.debug");
    ensure!(trace.stderr.contains(searched.to_str().context("path")?), "{}", trace.stderr);
    let note = std::fs::read(at("note"))?;
    let mut id = String::new();
    for byte in note.get(16..).context("no build id")? {
        write!(id, "{byte:02x}")?;
    }
    let (first, rest) = id.split_at_checked(2).context("no build id")?;
    let container = container("functions")?;
    let debug = container.path(&format!("/usr/lib/debug/.build-id/{first}"));
    std::fs::create_dir_all(&debug)?;
    std::fs::copy(at("away"), debug.join(format!("{rest}.debug")))?;
    std::fs::copy(at("seven"), container.path("/seven"))?;
    let idle = container.exec_background(&["/seven", "idle"])?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while container.processes("seven")?.is_empty() {
        ensure!(Instant::now() < deadline, "/seven does not start");
        std::thread::sleep(Duration::from_millis(50));
    }
    let arguments = ["uprobe", "-o", "json", "--container", container.name(), "seven:factorial(int) -> int"];
    let ctrace = Ctrace::start(&arguments)?;
    container.exec(&["/seven", "recursion"])?;
    let trace = ctrace.finish()?;
    drop(idle);
    let results: Vec<Value> = calls(&trace)?.iter().filter_map(|call| call.get(2).cloned()).collect();
    ensure!(results == [1, 2, 6, 24, 120].map(|result| json!(result)), "{results:?}\n{}", trace.stderr);
    Ok(())
}

#[test]
fn calls_are_counted_and_measured() -> Result<()> {
    let counted = trace("functions", &["--count", ":factorial", ":add"], &["recursion", "recursion", "add"])?;
    let total = |record: &Value| json!([record.get("function"), record.get("count")]);
    let mut totals: Vec<Value> = of_type(&counted, "uprobe_total")?.iter().map(total).collect();
    totals.sort_by_key(ToString::to_string);
    ensure!(totals == [json!(["add", 1]), json!(["factorial", 10])], "{totals:?}");
    let measured = trace("functions", &["--latency", ":factorial"], &["recursion"])?;
    let totals = of_type(&measured, "uprobe_total")?;
    let [total] = totals.as_slice() else { anyhow::bail!("{totals:?}") };
    let buckets = total.pointer("/latency/buckets").and_then(Value::as_array).context("no buckets")?;
    let sum: u64 = buckets.iter().filter_map(|bucket| bucket.get("count")?.as_u64()).sum();
    ensure!(sum == 5 && total.get("count") == Some(&json!(5)), "{total}");
    ensure!(of_type(&measured, "uprobe")?.is_empty(), "calls are recorded one by one");
    Ok(())
}

#[test]
fn counts_come_at_each_interval() -> Result<()> {
    let container = container("functions")?;
    let options = ["--count", "--interval", "100ms", "--limit", "10", ":factorial"];
    let arguments = [&["uprobe", "-o", "json", "--container", container.name()][..], &options].concat();
    let ctrace = Ctrace::start(&arguments)?;
    for _ in 0..2 {
        container.exec(&["/functions", "recursion"])?;
    }
    // Nothing ends the trace but `--limit`, which counts the calls that each interval reports.
    let trace = ctrace.wait(DETACHING)?;
    ensure!(trace.summary()?.get("end") == Some(&json!("count")), "{:?}", trace.summary());
    let totals = of_type(&trace, "uprobe_total")?;
    let counts = totals.iter().filter_map(|total| total.get("count")?.as_u64());
    ensure!(counts.sum::<u64>() == 10, "{totals:#?}");
    let is_of_it =
        |total: &Value| total.pointer("/container/id").and_then(Value::as_str) == Some(container.id());
    ensure!(totals.iter().all(is_of_it), "{totals:#?}");
    Ok(())
}

#[test]
fn ctrace_before_it_is_the_command_is_not_looked_at() -> Result<()> {
    require_live()?;
    let functions = program("functions")?;
    let functions = functions.to_str().context("path")?;
    let output = tempfile::NamedTempFile::new()?;
    let output = output.path().to_str().context("path")?;
    let options = ["uprobe", "-v", "-o", "json", "--output", output, ":add", "--", functions, "add"];
    let trace = Ctrace::run_to_end(&options)?;
    ensure!(trace.status.success(), "{}", trace.stderr);
    ensure!(!trace.stderr.contains("no pattern matches it"), "{}", trace.stderr);
    let records = std::fs::read_to_string(output)?;
    ensure!(records.lines().filter(|line| line.contains(r#""type":"uprobe""#)).count() == 1, "{records}");
    Ok(())
}

#[test]
fn stacks_have_names() -> Result<()> {
    let trace = trace("functions", &["--stack", ":inner"], &["nested"])?;
    let records = of_type(&trace, "uprobe")?;
    let stack = records.first().and_then(|record| record.get("stack")?.as_array());
    let names: Vec<_> = stack.into_iter().flatten().map(|frame| frame.get("function").cloned()).collect();
    ensure!(
        names.starts_with(&[Some(json!("inner")), Some(json!("outer"))]),
        "{records:?}\n{}",
        trace.stderr
    );
    Ok(())
}

#[test]
fn returns_alone() -> Result<()> {
    let trace = trace("functions", &["--ret-only", ":factorial -> int", ":outer"], &["recursion", "nested"])?;
    let mut expected: Vec<Value> =
        [1, 2, 6, 24, 120].iter().map(|result| json!(["factorial", [], result])).collect();
    expected.push(json!(["outer", [], true]));
    check(&trace, &expected)
}

#[test]
fn cpp_by_its_demangled_names_and_through_exceptions() -> Result<()> {
    let patterns = [":shop::Cart::add(int)(ptr, int) -> int", ":shop::Cart::add(char const*)(_, str) -> int"];
    let trace = trace("functions-cpp", &patterns, &["run"])?;
    let mut records = calls(&trace)?;
    for record in &mut records {
        // The address of the object is left out.
        if let Some(arguments) =
            record.get_mut(1).and_then(Value::as_array_mut).filter(|list| list.len() == 2)
        {
            arguments.remove(0);
        }
    }
    let int = |n: i64, returned: Value| json!(["shop::Cart::add(int)", [n], returned]);
    let text = json!(["shop::Cart::add(char const*)", ["tea"], 9]);
    // The call that an exception left is recorded when its place on the stack is used again.
    let expected = [int(2, json!(2)), int(3, Value::Null), int(4, json!(6)), text];
    ensure!(records == expected, "{records:#?}\n{}", trace.stderr);
    Ok(())
}

#[test]
fn strings_of_cpp() -> Result<()> {
    check_cpp_strings("functions-cpp", "cpp")
}

/// The layout of its strings is another one.
#[test]
fn strings_of_cpp_with_the_library_of_llvm() -> Result<()> {
    check_cpp_strings("functions-libcxx", "libcxx")
}

fn check_cpp_strings(program: &str, of: &str) -> Result<()> {
    let patterns = [
        format!(":shop::by_reference({of}_string, int)"),
        format!(":shop::by_value({of}_string)"),
        format!(":shop::of_view(int, {of}_string_view)"),
        format!(":shop::label*(ptr, int) -> {of}_string"),
    ];
    let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
    let trace = trace(program, &patterns, &["run"])?;
    let mut records = calls(&trace)?;
    for record in &mut records {
        // Parameters are no part of what this is about, nor is the address of the returned object.
        let name = record.pointer("/0").and_then(Value::as_str).unwrap_or_default();
        let (name, is_label) = (name.split(['(', '[']).next().unwrap_or_default(), name.contains("label"));
        let name = name.to_owned();
        record.pointer_mut("/0").into_iter().for_each(|own| *own = json!(name));
        if let Some(arguments) = record.get_mut(1).and_then(Value::as_array_mut).filter(|_| is_label) {
            arguments.remove(0);
        }
    }
    let long = "green tea, black tea and mint";
    let expected = [
        json!(["shop::by_reference", ["tea", 1], "not asked"]),
        json!(["shop::by_reference", [long, 2], "not asked"]),
        json!(["shop::by_value", [long], "not asked"]),
        json!(["shop::of_view", [3, "black tea"], "not asked"]),
        json!(["shop::label", [7], "label number 7"]),
    ];
    ensure!(records == expected, "{records:#?}\n{}", trace.stderr);
    Ok(())
}

#[test]
fn strings_of_rust() -> Result<()> {
    let patterns = [
        ":*::shop::greet(rust_str, uint64) -> rust_str",
        ":*::shop::read(rust_string)",
        ":*::shop::consume(_, rust_string)",
    ];
    let trace = trace("functions-rust", &patterns, &["run"])?;
    let all = "alphabeta gammadelta";
    let texts: Vec<Value> = calls(&trace)?.iter().map(|call| json!([call.get(1), call.get(2)])).collect();
    let expected = [json!([["beta ", 7], "beta"]), json!([[all], "not asked"]), json!([[all], "not asked"])];
    ensure!(texts == expected, "{texts:#?}\n{}", trace.stderr);

    let container = container("functions-rust")?;
    let refused = Ctrace::run_to_end(&["uprobe", "--container", container.name(), ":*::shop::greet(str)"])?;
    ensure!(refused.code() == Some(3) && refused.stderr.contains("write rust_str"), "{}", refused.stderr);
    let float = Ctrace::run_to_end(&["uprobe", "--container", container.name(), ":*::shop::greet(f64)"])?;
    ensure!(float.code() == Some(2) && float.stderr.contains("vector register"), "{}", float.stderr);
    Ok(())
}

#[test]
fn rust_through_panics() -> Result<()> {
    let trace = trace("functions-rust", &[":*::shop::price(uint64) -> uint64"], &["run"])?;
    let values: Vec<(Value, Value)> = calls(&trace)?
        .into_iter()
        .map(|call| {
            (call.pointer("/1/0").cloned().unwrap_or_default(), call.get(2).cloned().unwrap_or_default())
        })
        .collect();
    let expected = [(json!(2), json!(20)), (json!(3), Value::Null), (json!(4), json!(40))];
    ensure!(values == expected, "{values:?}\n{}", trace.stderr);
    Ok(())
}

#[test]
fn go_with_its_registers_and_moving_stacks() -> Result<()> {
    let patterns = [
        ":main.greet(str, int, bytes) -> str",
        ":main.(*server).handle(ptr, str) -> bool",
        ":main.deep(int) -> int",
    ];
    for name in ["functions-go", "functions-go-stripped"] {
        let trace = trace(name, &patterns, &["run"])?;
        let mut expected = vec![
            json!(["main.(*server).handle", ["/a"], false]),
            json!(["main.(*server).handle", ["/b"], true]),
            json!(["main.greet", ["wörld", 0, "abc"], "hi wörld"]),
            json!(["main.greet", ["wörld", 1, "abc"], "hi wörld"]),
        ];
        expected.extend((0..=200).map(|n| json!(["main.deep", [n], n])));
        let mut got = calls(&trace)?;
        for call in &mut got {
            if let Some(arguments) =
                call.get_mut(1).and_then(Value::as_array_mut).filter(|list| list.len() == 2)
            {
                arguments.remove(0);
            }
        }
        ensure!(got == expected, "{name}: {got:#?}\n{}", trace.stderr);
    }
    Ok(())
}

#[test]
fn usdt_with_semaphores() -> Result<()> {
    let trace = trace("usdt", &["--usdt", "shop:*(int, str, long)"], &["run"])?;
    let mut expected = Vec::new();
    for n in 1..4 {
        expected.push(json!(["shop:sold", [n, "tea", -7 * n], "not asked"]));
        expected.push(json!(["shop:asked", [2 * n, "tea"], "not asked"]));
    }
    check(&trace, &expected)
}

#[test]
fn floating_point_numbers_of_usdt() -> Result<()> {
    let trace = trace("usdt", &["--usdt", "scale:weighed(f64, f32)", "--usdt", "shop:asked"], &["run"])?;
    let mut records = calls(&trace)?;
    records.retain(|call| call.get(0) == Some(&json!("scale:weighed")));
    let call = |weight: f64, part: f64| json!(["scale:weighed", [weight, part], "not asked"]);
    let expected = [call(1.25, 0.333_333_34), call(2.5, 0.666_666_7), call(3.75, 1.0)];
    ensure!(records == expected, "{records:#?}\n{}", trace.stderr);
    Ok(())
}

#[test]
fn a_program_that_starts_later_is_waited_for() -> Result<()> {
    let container = container("functions-cpp")?;
    let options =
        ["uprobe", "-o", "json", "--wait", "--container", container.name(), ":factorial(int) -> int"];
    let ctrace = Ctrace::start(&options)?;
    let _mapped = container.exec_background(&["/functions", "idle"])?;
    std::thread::sleep(Duration::from_secs(1));
    container.exec(&["/functions", "recursion"])?;
    let trace = ctrace.finish()?;
    let results: Vec<Value> = calls(&trace)?.iter().filter_map(|call| call.get(2).cloned()).collect();
    ensure!(results == [1, 2, 6, 24, 120].map(|result| json!(result)), "{results:?}\n{}", trace.stderr);
    Ok(())
}
