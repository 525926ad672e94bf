//! Requests of curl to servers of files: its configuration, what it logs, and how it waits halfway.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use rustix::fs::OFlags;

use super::{PlanDirectory, PlannedRequest};
use crate::third_party::run;
use crate::wait_until;

const PATIENCE: Duration = Duration::from_mins(1);

const ORIGIN: &str = "https://localhost:8443";
/// The sizes of the files in /plan/dots, which consist of dots.
const SIZES: [usize; 5] = [1, 150, 4000, 16_384, 40_000];

/// What curl is asked for: files, bodies of both sides, responses without a body, and failures.
pub fn files_plan(count: usize) -> Vec<PlannedRequest> {
    (0..count).map(file_request).collect()
}

fn file_request(number: usize) -> PlannedRequest {
    let size = SIZES.get(number % SIZES.len()).copied().unwrap_or_default();
    let dots = format!("/dots/{size}?page={number}");
    let answer = |status: u16| format!("/{status}/answer/{number}?page={number}");
    let (method, target, body) = match number % 8 {
        0 | 6 => ("GET", dots, None),
        1 => ("POST", answer(200), Some(size)),
        2 => ("HEAD", dots, None),
        3 => ("GET", answer(204), None),
        4 => ("GET", answer(404), None),
        5 => ("POST", answer(500), Some(size)),
        _ => ("GET", format!("{dots}&unmodified"), None),
    };
    PlannedRequest { method, target, body, chunked: false }
}

/// How curl sends a plan.
#[derive(Clone, Copy, Debug)]
pub struct CurlRun<'a> {
    /// What it sends.
    pub plan: &'a [PlannedRequest],
    /// The option with the version: `http1.1` or `http2`.
    pub version: &'a str,
    /// The number of requests after which it waits; see [`Gate`].
    pub waits_after: Option<usize>,
}

impl CurlRun<'_> {
    /// Writes curl's configuration to `/plan/curl.conf`, and the files that servers have.
    pub fn write(&self, directory: &PlanDirectory) -> Result<()> {
        let dots = directory.path().join("dots");
        fs::create_dir_all(&dots)?;
        for size in SIZES {
            fs::write(dots.join(size.to_string()), ".".repeat(size))?;
        }
        let mut text = "parallel\nparallel-max = 8\n".to_owned();
        let mut requests = Vec::new();
        for (number, request) in self.plan.iter().enumerate() {
            if self.waits_after == Some(number) {
                let target = "/200/waits?page=half".to_owned();
                requests.push(PlannedRequest { method: "PUT", target, body: None, chunked: true });
            }
            requests.push(request.clone());
        }
        for (number, request) in requests.iter().enumerate() {
            text.push_str(if number > 0 { "next\n" } else { "" });
            self.section(&mut text, request)?;
        }
        Ok(fs::write(directory.path().join("curl.conf"), text)?)
    }

    fn section(&self, text: &mut String, request: &PlannedRequest) -> Result<()> {
        let (method, target) = (request.method, request.target.as_str());
        writeln!(text, "silent\nshow-error\n{}\nurl = \"{ORIGIN}{target}\"", self.version)?;
        writeln!(text, "output = \"/dev/null\"")?;
        match (method, request.body) {
            ("HEAD", _) => writeln!(text, "head")?,
            ("PUT", _) => writeln!(text, "upload-file = \"/plan/gate\"")?,
            (_, Some(size)) => writeln!(text, "data-binary = \"@/plan/dots/{size}\"")?,
            _ => {}
        }
        if target.ends_with("unmodified") {
            writeln!(text, "header = \"If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\"")?;
        }
        let known = format!(r#"{{\"method\":\"{method}\",\"target\":\"{target}\""#);
        let counted = r#"\"request\":%{size_upload},\"response\":%{size_download}"#;
        writeln!(text, "write-out = \"{known},\\\"status\\\":%{{http_code}},{counted}}}\\n\"")?;
        Ok(())
    }
}

/// A pipe that curl reads as the body of a request, so that it waits halfway.
#[derive(Debug)]
pub struct Gate {
    path: PathBuf,
}

impl Gate {
    /// Makes the pipe `/plan/gate`.
    pub fn new(directory: &PlanDirectory) -> Result<Self> {
        let path = directory.path().join("gate");
        run(Command::new("mkfifo").arg(&path))?;
        Ok(Self { path })
    }

    /// Waits until curl reads; it goes on when what is returned is dropped.
    pub fn wait(&self) -> Result<File> {
        // Without this flag we would wait for a curl that has ended, too.
        let flag = i32::try_from(OFlags::NONBLOCK.bits())?;
        let open = || Ok(File::options().write(true).custom_flags(flag).open(&self.path).ok());
        wait_until("curl that reads the pipe", PATIENCE, open)
    }
}
