//! Rust functions to probe, and panics that leave them.

use std::hint::black_box;

mod shop {
    #[inline(never)]
    pub fn price(item: u64) -> u64 {
        if std::hint::black_box(item) == 3 {
            panic!("three");
        }
        std::hint::black_box(item) * 10
    }
}

fn main() {
    if std::env::args().nth(1).is_none_or(|what| what == "idle") {
        loop {
            std::thread::park();
        }
    }
    for item in 2..5 {
        let _ = std::panic::catch_unwind(|| black_box(shop::price(black_box(item))));
    }
}
