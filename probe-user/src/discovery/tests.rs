//! What is cached of files, and for how long.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use crate::probe::SslProbe;
use crate::rootfs;

#[test]
fn a_file_that_cannot_be_opened_in_one_process_is_opened_in_the_next() {
    let own = std::process::id();
    let mappings = rootfs::executable_mappings(own).unwrap();
    let first = mappings.first().unwrap();
    let mut discovery = Discovery::new(Probe::Ssl(SslProbe::default()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let exited = discovery.mapping(u32::MAX, first, Keep::Everything).await;
        assert!(matches!(*exited.outcome, FileOutcome::Unopened(_)), "{exited:?}");
        let there = discovery.mapping(own, first, Keep::Everything).await;
        assert!(there.outcome.is_foreign() || there.is_hooked(), "{there:?}");
    });
}

#[test]
fn a_device_that_did_not_answer_is_asked_again_after_a_while() {
    let own = std::process::id();
    let mappings = rootfs::executable_mappings(own).unwrap();
    let first = mappings.first().unwrap();
    let mut discovery = Discovery::new(Probe::Ssl(SslProbe::default()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        discovery.silent.insert(first.device, Instant::now());
        let silent = discovery.mapping(own, first, Keep::Foreign).await;
        assert!(matches!(*silent.outcome, FileOutcome::Unopened(_)), "{silent:?}");
        discovery.silent.insert(first.device, Instant::now().checked_sub(TIMED_OUT_DEVICE_TTL).unwrap());
        let answers = discovery.mapping(own, first, Keep::Foreign).await;
        assert!(answers.outcome.is_foreign() || answers.is_hooked(), "{answers:?}");
    });
}

#[test]
fn numbers_of_hooks_are_used_again() {
    let mut discovery = Discovery::new(Probe::Ssl(SslProbe::default()));
    let (first, second) = (discovery.number(3), discovery.number(2));
    assert_eq!((first.clone(), second), (0..3, 3..5));
    discovery.free.push_back((Instant::now(), first.clone()));
    assert_eq!(discovery.number(3), 5..8, "its links may still be there");
    discovery.free.clear();
    discovery.free.push_back((Instant::now().checked_sub(SITE_REUSE_DELAY).unwrap(), first));
    assert_eq!(discovery.number(2), 8..10, "of another length");
    assert_eq!(discovery.number(3), 0..3);
}

#[test]
fn what_cannot_be_traced_counts_also_if_it_is_mapped_after_the_inspection() {
    let mut discovery = Discovery::new(Probe::Ssl(SslProbe::default()));
    for (before, after) in
        [(ProcessCode::Unprobed, ProcessCode::Reported), (ProcessCode::Probed, ProcessCode::Probed)]
    {
        discovery.codes.put(5, before);
        discovery.skip(SkipKind::Untraceable, 5, "libjvm.so", "Java TLS".to_owned());
        assert_eq!(discovery.code_of(5), after);
    }
}
