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

    #[inline(never)]
    pub fn greet(name: &str, number: u64) -> &str {
        std::hint::black_box(number);
        std::hint::black_box(name).trim_end()
    }

    #[inline(never)]
    pub fn read(name: &String) -> usize {
        std::hint::black_box(name).len()
    }

    #[inline(never)]
    pub fn consume(name: String) -> String {
        std::hint::black_box(name) + "!"
    }
}

fn main() {
    if std::env::args().nth(1).is_none_or(|what| what == "idle") {
        loop {
            std::thread::park();
        }
    }
    let all = String::from("alphabeta gammadelta");
    black_box(shop::greet(black_box(&all[5..10]), black_box(7)));
    black_box(shop::read(black_box(&all)));
    black_box(shop::consume(black_box(all)));
    for item in 2..5 {
        let _ = std::panic::catch_unwind(|| black_box(shop::price(black_box(item))));
    }
}
