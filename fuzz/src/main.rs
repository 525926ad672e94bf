//! The program that libFuzzer's `main` runs: [`ctrace_fuzz::Programs`] with each of its inputs.
#![no_main]
#![expect(unsafe_code, reason = "libFuzzer calls a function that C can name")]

use std::sync::LazyLock;

use anyhow::Result;
use ctrace_fuzz::Programs;
use libfuzzer_sys::fuzz_target;

static PROGRAMS: LazyLock<Result<Programs>> = LazyLock::new(Programs::from_environment);

fuzz_target!(|input: &[u8]| {
    let done = PROGRAMS.as_ref().map(|programs| programs.look(input));
    if let Ok(Err(error)) | Err(error) = done.as_ref() {
        eprintln!("{error:#}");
        std::process::exit(1);
    }
});
