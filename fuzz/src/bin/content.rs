//! The program that libFuzzer's `main` runs: [`ctrace_fuzz::content`] with each of its inputs.
#![no_main]
#![expect(unsafe_code, reason = "libFuzzer calls a function that C can name")]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Err(error) = ctrace_fuzz::content::run(input) {
        eprintln!("{error:#}");
        std::process::abort();
    }
});
