//! The program that libFuzzer's `main` runs: [`ctrace_fuzz::protocols`] with each of its inputs.
#![no_main]
#![expect(unsafe_code, reason = "libFuzzer calls a function that C can name")]

use std::sync::LazyLock;

use anyhow::Result;
use ctrace::protocol::Protocol;
use libfuzzer_sys::fuzz_target;

static PROTOCOL: LazyLock<Result<&Protocol>> = LazyLock::new(ctrace_fuzz::protocols::protocol);

fuzz_target!(|input: &[u8]| {
    let result = match &*PROTOCOL {
        Ok(protocol) => ctrace_fuzz::protocols::run(protocol, input),
        Err(error) => Err(anyhow::anyhow!("{error:#}")),
    };
    if let Err(error) = result {
        eprintln!("{error:#}");
        std::process::abort();
    }
});
