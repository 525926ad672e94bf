//! Lists what was inspected but not hooked, as lines for people.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::plan::{Plan, Skipped};
use crate::scope::Target;
use crate::terminal::escaped;

/// Which of the files that were not hooked are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipDetail {
    /// Those that should perhaps have been hooked.
    Skipped,
    /// All files.
    Everything,
}

/// Limit of the processes that are named for one reason.
const NAMED: usize = 3;

/// What was not hooked and why. Each reason is one line, for all of its processes.
pub fn reasons(plan: &Plan, target: &Target, detail: SkipDetail) -> Vec<String> {
    let foreign: &[Skipped] = match detail {
        SkipDetail::Skipped => &[],
        SkipDetail::Everything => &plan.foreign,
    };
    let comms: HashMap<u32, &str> =
        target.processes.iter().map(|process| (process.pid, process.comm.as_str())).collect();
    let mut by_reason: BTreeMap<(&str, &str), BTreeSet<Option<u32>>> = BTreeMap::new();
    for Skipped { kind: _, pid, file: _, subject: what, reason: why } in plan.skipped.iter().chain(foreign) {
        by_reason.entry((what, why)).or_default().insert(*pid);
    }
    let mut lines: Vec<_> = by_reason.into_iter().map(|(reason, pids)| (pids, reason)).collect();
    // Sorted by the first process.
    lines.sort();
    let line = |(pids, (what, why)): (BTreeSet<Option<u32>>, (&str, &str))| {
        let name = |pid: &u32| {
            let comm = comms.get(pid).copied().unwrap_or_default();
            format!("{}[{pid}]", escaped(comm))
        };
        let named: Vec<String> = pids.iter().flatten().take(NAMED).map(name).collect();
        let named = named.join(", ");
        let (what, why) = (escaped(what), escaped(why));
        match pids.iter().flatten().count() {
            0 => format!("{what}: {why}"),
            1 => format!("{named}: {what}: {why}"),
            count if count > NAMED => format!("{count} processes ({named}, …): {what}: {why}"),
            count => format!("{count} processes ({named}): {what}: {why}"),
        }
    };
    lines.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::SkipKind;
    use crate::scope::Process;

    #[test]
    fn the_same_reason_of_many_processes_is_one_line() {
        let process = |pid| Process { pid, start_time: 1, comm: format!("w\u{1b}{pid}"), container: None };
        let mut target = Target::default();
        target.processes = (1..=300).map(process).collect();
        let skipped = |pid, why: &str| Skipped {
            kind: SkipKind::File,
            pid: Some(pid),
            file: None,
            subject: "/lib/x\n".into(),
            reason: why.into(),
        };
        let mut plan = Plan { skipped: vec![skipped(2, "closed"), skipped(4, "torn")], ..Plan::default() };
        let check = |plan: &Plan, expected: &[&str]| {
            assert_eq!(reasons(plan, &target, SkipDetail::Everything), expected);
        };
        check(&plan, &["w\\x1b2[2]: /lib/x\\n: closed", "w\\x1b4[4]: /lib/x\\n: torn"]);
        plan.skipped.extend((2..=3).map(|pid| skipped(pid, "torn")));
        let torn = "3 processes (w\\x1b2[2], w\\x1b3[3], w\\x1b4[4]): /lib/x\\n: torn";
        check(&plan, &["w\\x1b2[2]: /lib/x\\n: closed", torn]);
        plan.skipped = (1..=300).map(|pid| skipped(pid, "torn")).collect();
        check(&plan, &["300 processes (w\\x1b1[1], w\\x1b2[2], w\\x1b3[3], …): /lib/x\\n: torn"]);
        plan.skipped = vec![Skipped { pid: None, ..skipped(0, "torn") }];
        check(&plan, &["/lib/x\\n: torn"]);
    }
}
