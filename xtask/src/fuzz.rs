//! `cargo xtask fuzz`: inspects damaged programs until it finds a bug or the time is over.
//!
//! Owns how the target in `fuzz/` is built and run, and which programs it damages. A finding is written to a
//! file, which the command accepts as an argument.

use anyhow::{Context, Result, bail};
use ctrace_tests::program;

use crate::{shell, workspace};

/// Programs to damage; each contains something different to find.
const PROGRAMS: [&str; 10] = [
    "functions",
    "functions-go-stripped",
    "usdt",
    "tls-go-stripped",
    "tls-gnutls-stripped",
    "tls-openssl-stripped",
    "tls-mbedtls-stripped",
    "tls-aws-lc-stripped",
    "tls-rustls-stripped",
    "tls-wolfssl-stripped",
];

/// What is fuzzed.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// Damaged programs, with everything that reads files
    Programs,
    /// Pieces of calls, by which streams are made
    Streams,
    /// Lines of recordings
    Recordings,
    /// What decides where a dynamic loader searches
    Loader,
    /// Connections in HTTP/1
    Http1,
    /// Connections in HTTP/2
    Http2,
    /// Connections in WebSocket
    Websocket,
    /// Connections of Redis
    Redis,
    /// Connections of Kafka
    Kafka,
    /// Connections of MongoDB
    Mongodb,
    /// Bodies, encoded or not
    Content,
    /// Bodies of protocol buffers by a schema, and descriptor sets
    Schema,
}

impl Target {
    fn program(self) -> &'static str {
        match self {
            Self::Programs => "ctrace-fuzz",
            Self::Streams => "ctrace-fuzz-streams",
            Self::Recordings => "ctrace-fuzz-recordings",
            Self::Loader => "ctrace-fuzz-loader",
            Self::Http1 | Self::Http2 | Self::Websocket | Self::Redis | Self::Kafka | Self::Mongodb => {
                "ctrace-fuzz-protocols"
            }
            Self::Content => "ctrace-fuzz-content",
            Self::Schema => "ctrace-fuzz-schema",
        }
    }

    /// The protocol that is fuzzed.
    fn protocol(self) -> Option<&'static str> {
        match self {
            Self::Http1 => Some("http1"),
            Self::Http2 => Some("http2"),
            Self::Websocket => Some("websocket"),
            Self::Redis => Some("redis"),
            Self::Kafka => Some("kafka"),
            Self::Mongodb => Some("mongodb"),
            Self::Programs
            | Self::Streams
            | Self::Recordings
            | Self::Loader
            | Self::Content
            | Self::Schema => None,
        }
    }
}

/// How long to fuzz, or which input to try.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct FuzzOptions {
    /// How many seconds to fuzz
    #[arg(long, default_value_t = 60)]
    time: u32,
    /// What is fuzzed
    #[arg(long, value_enum, default_value = "programs")]
    target: Target,
    /// An input that was left by an earlier run, to be tried alone
    input: Option<std::path::PathBuf>,
}

/// Runs the command.
pub(crate) fn run(options: &FuzzOptions) -> Result<()> {
    let target = workspace::target()?.join("fuzz");
    let mut cargo = shell::cargo();
    cargo.args([
        "build",
        "--package",
        "ctrace-fuzz",
        "--features",
        "libfuzzer",
        "--profile",
        "fuzz",
        "--target-dir",
    ]);
    // In its own target directory, because cargo is not aware of the flags.
    cargo.arg(&target).current_dir(workspace::root());
    shell::run(cargo.env("RUSTC_WRAPPER", workspace::root().join("fuzz/rustc-counting")))?;

    let corpus = match options.target {
        Target::Programs => target.join("corpus"),
        other => target.join(format!("corpus-{}", other.protocol().unwrap_or(other.program()))),
    };
    std::fs::create_dir_all(&corpus).with_context(|| format!("cannot create {}", corpus.display()))?;
    let path = target.join("fuzz").join(options.target.program());
    let mut fuzzer = shell::command(&path.to_string_lossy());
    let longest = match options.target {
        Target::Programs => {
            let programs = PROGRAMS.iter().map(|name| program(name)).collect::<Result<Vec<_>>>()?;
            fuzzer.env("CTRACE_FUZZ_PROGRAMS", std::env::join_paths(programs)?);
            "-max_len=512"
        }
        Target::Streams | Target::Loader => "-max_len=1024",
        Target::Recordings => "-max_len=8192",
        Target::Http1
        | Target::Http2
        | Target::Websocket
        | Target::Redis
        | Target::Kafka
        | Target::Mongodb
        | Target::Content
        | Target::Schema => "-max_len=4096",
    };
    if let Some(protocol) = options.target.protocol() {
        fuzzer.env("CTRACE_FUZZ_PROTOCOL", protocol);
    }
    // A program of 5 MB is inspected in 10 to 50 ms; what takes seconds, or 600 MB, is a finding.
    fuzzer.args(["-timeout=20", "-rss_limit_mb=600", longest, "-len_control=0"]);
    fuzzer.arg(format!("-artifact_prefix={}/", target.display()));
    if let Some(input) = &options.input {
        fuzzer.arg(input);
    } else {
        fuzzer.arg(format!("-max_total_time={}", options.time)).arg(corpus);
        if options.target == Target::Recordings {
            // Noise is no JSON: real lines are what is damaged.
            fuzzer.arg(workspace::root().join("probe-user/tests/data"));
        }
    }
    println!("    $ {}", shell::shown(&fuzzer));
    let status = fuzzer.status().context("cannot run the fuzzer")?;
    if !status.success() {
        bail!(
            "something is wrong ({status}): `cargo xtask fuzz FILE` tries the file that is named above again"
        );
    }
    Ok(())
}
