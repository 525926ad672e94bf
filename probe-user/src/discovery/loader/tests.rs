//! The files that are found for a program, in directories that look like the root of a process.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use super::*;

const X86_64: u32 = 0x0303;

/// A directory that stands for a root, with a compiler that works in it.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Links a library or a program that needs `needed`, which were made before, with these linker options.
    fn link(&self, path: &str, needed: &[&str], options: &[&str]) {
        self.write(path, b"");
        let name = Path::new(path).file_name().unwrap().to_str().unwrap();
        let source = self.path("empty.c");
        let entry = if name.contains(".so") { "int f;" } else { "void _start(void) {}" };
        fs::write(&source, entry).unwrap();
        let mut command = Command::new("cc");
        command.args(["-nostdlib", "-Wl,--no-as-needed", "-o"]).arg(self.path(path)).arg(&source);
        if name.contains(".so") {
            command.args(["-shared", "-fPIC", &format!("-Wl,-soname,{name}")]);
        }
        let stubs = self.path("stubs");
        for library in needed {
            // A library of this name to link against. It is not where the program's loader searches.
            let stub = stubs.join(library);
            if !stub.exists() {
                fs::create_dir_all(&stubs).unwrap();
                let made = Command::new("cc")
                    .args(["-nostdlib", "-shared", "-fPIC", &format!("-Wl,-soname,{library}"), "-o"])
                    .arg(&stub)
                    .arg(&source)
                    .status();
                assert!(made.unwrap().success());
            }
            command.arg(stub);
        }
        let output = command.args(options).output().unwrap();
        assert!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn program(&self, needed: &[&str], options: &[&str]) {
        let loader = "-Wl,--dynamic-linker=/lib64/ld-linux-x86-64.so.2";
        self.link("usr/bin/program", needed, &[&["-pie", loader], options].concat());
    }

    /// The files of `/usr/bin/program`, by their paths, without the program itself.
    fn found(&self, variables: &LoaderVariables) -> Vec<String> {
        let (root, mounts) = (TargetRoot::at(self.0.path()), Mounts::default());
        let cache = LoaderCache::default();
        let surroundings = Surroundings { root: &root, mounts: &mounts, variables, cache: &cache };
        let program = root.open(Path::new("/usr/bin/program"), &mounts).unwrap();
        let found = files(surroundings, program, |name| name.starts_with("libssl.so"));
        let names = found.files.iter().map(|(file, _)| file.name().to_string_lossy().into_owned());
        names.filter(|name| name != "/usr/bin/program").collect()
    }

    fn check(&self, expected: &[&str]) {
        assert_eq!(self.found(&LoaderVariables::default()), expected);
    }
}

fn library_path(path: &str) -> LoaderVariables {
    LoaderVariables { library_path: Some(OsString::from(path)), ..LoaderVariables::default() }
}

#[test]
fn libraries_and_theirs_are_found_each_once() {
    let tree = Tree::new();
    tree.link("lib/liba.so.1", &["libb.so.1"], &[]);
    tree.link("usr/lib64/libb.so.1", &["liba.so.1", "libmissing.so"], &[]);
    tree.program(&["liba.so.1", "libb.so.1"], &[]);
    tree.check(&["/lib/liba.so.1", "/usr/lib64/libb.so.1"]);
}

#[test]
fn directories_of_the_file_come_in_the_loaders_order() {
    let tree = Tree::new();
    tree.link("opt/lib/liba.so", &["libb.so"], &[]);
    tree.link("opt/lib/libb.so", &[], &[]);
    tree.link("usr/lib/libb.so", &[], &[]);
    tree.link("env/liba.so", &["libb.so"], &[]);
    // DT_RUNPATH holds for the object itself alone, and comes after LD_LIBRARY_PATH.
    let origin = "-Wl,-rpath,$ORIGIN/../../opt/lib";
    tree.program(&["liba.so"], &[origin, "-Wl,--enable-new-dtags"]);
    tree.check(&["/usr/bin/../../opt/lib/liba.so", "/usr/lib/libb.so"]);
    assert_eq!(tree.found(&library_path("/env")), ["/env/liba.so", "/usr/lib/libb.so"]);
    // DT_RPATH comes first, and holds for what the object needs, too.
    tree.program(&["liba.so"], &[origin, "-Wl,--disable-new-dtags"]);
    let inherited = ["/usr/bin/../../opt/lib/liba.so", "/usr/bin/../../opt/lib/libb.so"];
    tree.check(&inherited);
    assert_eq!(tree.found(&library_path("/env")), inherited);
}

#[test]
fn a_program_with_the_rights_of_its_file_ignores_the_environment() {
    let tree = Tree::new();
    tree.link("lib/liba.so", &[], &[]);
    tree.link("env/liba.so", &[], &[]);
    tree.program(&["liba.so"], &[]);
    assert_eq!(tree.found(&library_path("/env")), ["/env/liba.so"]);
    fs::set_permissions(tree.path("usr/bin/program"), fs::Permissions::from_mode(0o4755)).unwrap();
    assert_eq!(tree.found(&library_path("/env")), ["/lib/liba.so"]);
}

#[test]
fn the_cache_comes_before_the_default_directories_and_has_what_may_be_loaded() {
    let tree = Tree::new();
    for path in ["opt/a/liba.so", "lib/liba.so", "opt/ssl/libssl.so.3", "opt/ssl/glibc-hwcaps/libssl.so.3"] {
        tree.link(path, &[], &[]);
    }
    let entries = [
        (X86_64, "liba.so", "/opt/a/liba.so"),
        (X86_64, "libssl.so.3", "/opt/ssl/libssl.so.3"),
        (X86_64, "libssl.so.3", "/opt/ssl/glibc-hwcaps/libssl.so.3"),
        (X86_64, "libssl.so.1.1", "/gone/libssl.so.1.1"),
    ];
    tree.write("etc/ld.so.cache", &ld_cache::tests::image(&entries));
    tree.program(&["liba.so"], &[]);
    tree.check(&["/opt/a/liba.so", "/opt/ssl/libssl.so.3", "/opt/ssl/glibc-hwcaps/libssl.so.3"]);
}

#[test]
fn what_may_be_loaded_is_searched_for_where_the_program_says() {
    let tree = Tree::new();
    tree.link("conda/lib/libssl.so.3", &["libcrypto.so.3"], &["-Wl,-rpath,$ORIGIN"]);
    tree.link("conda/lib/libcrypto.so.3", &[], &[]);
    tree.link("usr/lib/libssl.so.1.1", &[], &[]);
    tree.program(&[], &["-Wl,-rpath,/conda/lib"]);
    tree.check(&["/conda/lib/libssl.so.3", "/usr/lib/libssl.so.1.1", "/conda/lib/libcrypto.so.3"]);
}

#[test]
fn a_file_for_another_machine_is_passed_over() {
    let tree = Tree::new();
    tree.write("lib/x86_64-linux-gnu/liba.so", b"\x7fELF\x01 of 32 bits");
    tree.write("usr/lib64/liba.so", b"a text");
    tree.link("usr/lib/liba.so", &[], &[]);
    tree.program(&["liba.so"], &[]);
    tree.check(&["/usr/lib/liba.so"]);
}

#[test]
fn musl_has_directories_of_its_own() {
    let tree = Tree::new();
    tree.link("lib/ld-musl-x86_64.so.1", &[], &["-Wl,-soname,libc.musl-x86_64.so.1"]);
    symlink("ld-musl-x86_64.so.1", tree.path("lib/libc.musl-x86_64.so.1")).unwrap();
    tree.link("srv/lib/libssl.so.3", &[], &[]);
    tree.link("usr/lib/libssl.so.3", &[], &[]);
    let needed = ["libc.musl-x86_64.so.1", "libssl.so.3"];
    let loader = ["-pie", "-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1"];
    tree.link("usr/bin/program", &needed, &loader);
    tree.check(&["/lib/ld-musl-x86_64.so.1", "/usr/lib/libssl.so.3"]);
    tree.write("etc/ld-musl-x86_64.path", b"/srv/lib\n/lib\n");
    tree.check(&["/lib/ld-musl-x86_64.so.1", "/srv/lib/libssl.so.3"]);
}

#[test]
fn a_script_has_the_files_of_its_interpreter() {
    let tree = Tree::new();
    tree.link("lib/liba.so", &[], &[]);
    tree.program(&["liba.so"], &[]);
    tree.write("bin/first", b"#! /usr/bin/program -x\n");
    tree.write("bin/second", b"#!/bin/first\nrest");
    tree.write("bin/endless", b"#!/bin/endless\n");
    tree.write("bin/none", b"no script");
    let (root, mounts) = (TargetRoot::at(tree.0.path()), Mounts::default());
    let (variables, cache) = (LoaderVariables::default(), LoaderCache::default());
    let surroundings = Surroundings { root: &root, mounts: &mounts, variables: &variables, cache: &cache };
    let check = |script: &str, executable: Option<&str>, count| {
        let program = root.open(Path::new(script), &mounts).unwrap();
        let found = files(surroundings, program, |_| false);
        assert_eq!((found.executable, found.files.len()), (executable.map(PathBuf::from), count), "{script}");
    };
    check("/bin/second", Some("/usr/bin/program"), 2);
    check("/bin/endless", None, 1);
    check("/bin/none", None, 1);
}

#[test]
fn neither_links_nor_names_lead_out_of_the_root() {
    let tree = Tree::new();
    let outside = Tree::new();
    outside.link("libssl.so.3", &[], &[]);
    fs::create_dir_all(tree.path("lib")).unwrap();
    symlink(outside.path("libssl.so.3"), tree.path("lib/libssl.so.3")).unwrap();
    tree.program(&["libssl.so.3"], &["-Wl,-rpath,/../../../../../../../../usr/lib/x86_64-linux-gnu"]);
    tree.check(&[]);
}

#[test]
fn names_without_end_are_not_followed_for_ever() {
    let tree = Tree::new();
    tree.program(&[], &[]);
    let variables = LoaderVariables {
        preload: Some("x ".repeat(100_000).into()),
        library_path: Some("/a:".repeat(100_000).into()),
        ..LoaderVariables::default()
    };
    let begin = std::time::Instant::now();
    assert!(tree.found(&variables).is_empty());
    assert!(begin.elapsed() < std::time::Duration::from_secs(5), "{:?}", begin.elapsed());
}
