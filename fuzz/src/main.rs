//! The fuzz target that libFuzzer's `main` runs: passes each input to [`ctrace_fuzz::Programs`].
#![no_main]
#![expect(unsafe_code, reason = "libFuzzer calls a function that C can name")]

use std::sync::LazyLock;

use anyhow::Result;
use ctrace_fuzz::ProgramCorpus;
use libfuzzer_sys::fuzz_target;

static PROGRAMS: LazyLock<Result<ProgramCorpus>> = LazyLock::new(ProgramCorpus::from_environment);

fuzz_target!(|input: &[u8]| {
    let error = match &*PROGRAMS {
        Ok(programs) => programs.look(input).err().map(|error| format!("{error:#}")),
        Err(error) => Some(format!("{error:#}")),
    };
    if let Some(error) = error {
        eprintln!("{error}");
        std::process::exit(1);
    }
});
