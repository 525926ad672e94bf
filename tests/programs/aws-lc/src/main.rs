//! Nothing but what links AWS-LC: `main` is in `tls-pair.c`.
#![no_main]

/// Programs that tell its version have it in them.
#[used]
static VERSION: fn() -> usize = version;

fn version() -> usize {
    aws_lc_sys::OpenSSL_version as *const () as usize
}
