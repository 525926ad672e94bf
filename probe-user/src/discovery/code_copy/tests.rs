//! What asks for a copy of code, and where hooked code is in memory.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use crate::proc::maps::Range;
use crate::test_rng::TestRng;

fn started(arguments: &[&str], variables: &[(&'static str, &str)]) -> StartArguments {
    StartArguments {
        arguments: arguments.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
        variables: variables.iter().map(|(name, value)| (*name, value.as_bytes().to_vec())).collect(),
    }
}

#[test]
fn node_is_asked_by_an_option_or_by_its_variable() {
    let check = |arguments: &[&str], options: &str, expected: Option<&str>| {
        let found = node::request(&started(arguments, &[("NODE_OPTIONS", options)]));
        assert_eq!(found.as_deref(), expected, "{arguments:?} {options}");
    };
    let (on, silent) = (Some("--use-largepages=on"), Some("--use-largepages=silent"));
    check(&["node", "--use-largepages=on", "app.js"], "", on);
    check(&["node", "--use-largepages=silent", "app.js"], "", silent);
    check(&["node", "--use-largepages", "on", "app.js"], "", on);
    check(&["node", "--use_largepages=on"], "", on);
    check(&["node", "-r", "x", "--inspect", "--use-largepages=on", "app.js"], "", on);
    check(&["node", "--use-largepages=off", "--use-largepages=on"], "", on);
    check(&["node", "cluster.js", "--use-largepages=on"], "", on);
    let variable = Some("NODE_OPTIONS=--use-largepages=on");
    check(&["node", "app.js"], "--use-largepages=on", variable);
    check(&["node"], "--max-old-space-size=99  --use-largepages=on --inspect", variable);
    check(&["node"], "\"--use-largepages=on\"", variable);
    check(&["node"], "--title \"a \\\" b\" --use-largepages on", variable);
    for arguments in [
        &["node", "app.js"][..],
        &["node", "--use-largepages=off"],
        &["node", "--use-largepages"],
        &["node", "--use-largepages="],
        &["node", "--use-largepages=ON"],
        &["node", "--use-largepagesx=on"],
        &["node", "--use-largepages", "app.js", "on"],
        &["--use-largepages=on"],
        &["node", ""],
        &[],
    ] {
        check(arguments, "", None);
        check(arguments, "--title \"x --use-largepages=on\" \"", None);
    }
}

#[test]
fn php_is_asked_by_its_setting() {
    let cases: &[(&str, Option<bool>)] = &[
        ("opcache.huge_code_pages=1", Some(true)),
        ("[opcache]\nopcache.enable=1\n  opcache.huge_code_pages = On ; fast\r\n", Some(true)),
        ("opcache.huge_code_pages=\"1\"", Some(true)),
        ("opcache.huge_code_pages=yes\nopcache.huge_code_pages=no", Some(false)),
        ("opcache.huge_code_pages=0\nopcache.huge_code_pages=TRUE", Some(true)),
        ("opcache.huge_code_pages=", Some(false)),
        ("opcache.huge_code_pages=none", Some(false)),
        ("opcache.huge_code_pages", Some(true)),
        ("opcache.huge_code_pages=00", Some(false)),
        ("opcache.huge_code_pages=-1", Some(true)),
        (";opcache.huge_code_pages=1", None),
        ("opcache.huge_code_pages2=1", None),
        ("xopcache.huge_code_pages=1", None),
        ("", None),
    ];
    for (text, expected) in cases {
        assert_eq!(php::ini(text.as_bytes()), *expected, "{text}");
    }
}

#[test]
fn files_of_phps_configuration_are_read_in_its_root() {
    let directory = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = directory.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("usr/bin/php8.2", "PHP_INI_SCAN_DIR\0/etc/php/8.2/cli\0/etc/php/8.2/cli/conf.d");
    write("usr/bin/other", "PHP_INI_SCAN_DIR\0/etc/php/8.2/cli");
    write("etc/php/8.2/cli/php.ini", "opcache.huge_code_pages=0");
    write("etc/php/8.2/fpm/php.ini", "opcache.huge_code_pages=1");
    write("own/my.ini", "opcache.huge_code_pages=1");
    let (root, mounts) = (TargetRoot::at(directory.path()), Mounts::default());
    let request = |program: &str, given: &StartArguments| {
        let (file, _) = root.open(std::path::Path::new(program), &mounts).unwrap();
        php::request(given, &file, (&root, &mounts))
    };
    let php = |arguments: &[&str], variables: &[(&'static str, &str)]| {
        request("/usr/bin/php8.2", &started(arguments, variables))
    };
    assert_eq!(php(&["php"], &[]), None, "another program's setting");
    let by_option = Some("-d opcache.huge_code_pages=1".to_owned());
    for option in [
        &["php", "-d", "opcache.huge_code_pages=1"][..],
        &["php", "-dopcache.huge_code_pages=On"],
        &["php", "--define", "opcache.huge_code_pages"],
        &["php", "-dopcache.huge_code_pages=0", "--define=opcache.huge_code_pages=1"],
    ] {
        assert_eq!(php(option, &[]), by_option, "{option:?}");
    }
    let in_own = Some("opcache.huge_code_pages=1 in /own/my.ini".to_owned());
    assert_eq!(php(&["php"], &[("PHP_INI_SCAN_DIR", ":/own")]), in_own);
    assert_eq!(php(&["php", "-c", "/own"], &[]), in_own);
    assert_eq!(php(&["php", "-c/own/my.ini"], &[]), in_own);
    assert_eq!(php(&["php"], &[("PHPRC", "/own/my.ini")]), in_own);
    write("etc/php/8.2/cli/conf.d/10-opcache.ini", "zend_extension=opcache.so\nopcache.huge_code_pages=1");
    let in_scanned = "opcache.huge_code_pages=1 in /etc/php/8.2/cli/conf.d/10-opcache.ini";
    assert_eq!(php(&["php"], &[]).as_deref(), Some(in_scanned));
    assert_eq!(php(&["php", "-dopcache.huge_code_pages=0"], &[]), None);
    assert_eq!(request("/usr/bin/other", &started(&["php"], &[])), None, "it is not PHP");
    write("usr/bin/phpx", "/etc/php/8.2/cli");
    assert_eq!(request("/usr/bin/phpx", &started(&["php"], &[])), None, "it has no code of PHP");
}

#[test]
fn hostile_bytes_neither_panic_nor_take_long() {
    let mut noise = TestRng(0x5eed_0c0d);
    for _ in 0..5000 {
        let alphabet = b"-dD=\"\\ ;\n_onsilentopcache.huge_code_pages--use-largepages=";
        let (first, second) = (noise.bytes(alphabet), noise.bytes(b""));
        let _ = (php::ini(&first), php::ini(&second));
        let given = StartArguments {
            arguments: vec![second.clone(), first.clone(), b"-d".to_vec(), second, first.clone()],
            variables: vec![("NODE_OPTIONS", first)],
        };
        let _ = node::request(&given);
    }
    let long = StartArguments { arguments: vec![Vec::new(), vec![b'-'; 1 << 20]], variables: Vec::new() };
    assert_eq!(node::request(&long), None);
}

#[test]
fn a_text_is_found_across_the_parts_of_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let mut bytes = vec![0; PART - 5];
    bytes.extend_from_slice(node::TEXT);
    bytes.resize(3 * PART, 0);
    std::fs::write(directory.path().join("node"), bytes).unwrap();
    let root = TargetRoot::at(directory.path());
    let (file, _) = root.open(std::path::Path::new("/node"), &Mounts::default()).unwrap();
    assert_eq!(contains(&file, &[node::TEXT, b"absent"]), Some(vec![true, false]));
    assert_eq!(contains(&file, &[node::TEXT]), Some(vec![true]));
}

#[test]
fn hooked_code_is_found_in_memory_that_is_not_the_files() {
    let function =
        |name: &str, places: &[(u64, u64)]| HookedFunction { name: name.into(), places: places.into() };
    let functions = || {
        vec![
            function("read", &[(0x1100, 0x40_2100), (0x1180, 0x40_2180)]),
            function("write", &[(0x2100, 0x40_3100)]),
        ]
    };
    let check = |origin, first, ranges: &[(u64, u64)], expected: &[&str]| {
        let code = HookedCode { functions: functions(), origin, is_copyable: false };
        let replaced = ReplacedCode { first, ranges: ranges.to_vec() };
        assert_eq!(code.in_memory_of(&replaced), expected, "{replaced:?}");
    };
    // At a fixed address, and at another one than that of the program headers.
    let fixed = Range { start: 0x40_0000, end: 0x40_1000, offset: 0 };
    check(Some(0x40_0000), fixed, &[(0x40_2000, 0x40_3000)], &["read"]);
    check(Some(0x40_0000), fixed, &[(0x40_2180, 0x40_2190), (0x40_3000, 0x40_4000)], &["read", "write"]);
    check(Some(0x40_0000), fixed, &[(0x40_4000, 0x40_5000), (0x7000_0000, 0x7001_0000)], &[]);
    let moved = Range { start: 0x7f00_0000_0000, end: 0x7f00_0000_1000, offset: 0 };
    check(Some(0x40_0000), moved, &[(0x7f00_0000_3000, 0x7f00_0000_4000)], &["write"]);
    let inside = Range { start: 0x7f00_0000_1000, end: 0x7f00_0000_2000, offset: 0x1000 };
    check(Some(0x40_0000), inside, &[(0x7f00_0000_2000, 0x7f00_0000_3000)], &["write"]);
    check(None, inside, &[(0, u64::MAX)], &["read", "write"]);
}
