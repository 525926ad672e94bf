//! Nothing but what links AWS-LC: `main` is in `tls-pair.c`.
#![no_main]

use std::ffi::{c_char, c_int};

/// Programs that tell its version have it in them.
#[used]
static VERSION: unsafe extern "C" fn(c_int) -> *const c_char = aws_lc_sys::OpenSSL_version;
