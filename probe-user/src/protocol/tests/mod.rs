//! The port of protocols, proved by protocols that only the tests have.

use super::*;

mod line;

use line::LINE;

/// What the product's table is for real protocols.
pub(crate) const PROTOCOLS: &[&Protocol] = &[&LINE];

/// Each table of protocols: the product's, and that of the tests.
#[test]
fn tables_are_complete() {
    for table in [ALL, PROTOCOLS] {
        let mut names: Vec<&str> = table.iter().map(|protocol| protocol.name).collect();
        let mut paths: Vec<&str> = Vec::new();
        for protocol in table {
            assert!(!protocol.help.is_empty() && !protocol.fields.is_empty(), "{}", protocol.name);
            assert!(protocol.fields.iter().all(|field| !field.help.is_empty()), "{}", protocol.name);
            paths.extend(protocol.fields.iter().map(|field| field.path));
        }
        for list in [&mut names, &mut paths] {
            let count = list.len();
            list.sort_unstable();
            list.dedup();
            assert_eq!(list.len(), count, "{list:?}");
        }
    }
}
