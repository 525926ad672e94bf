//! `--proto`: the files from which the names of what is in bodies come.
//!
//! Owns how they are read, before anything is traced. A source is compiled here, without protoc; a descriptor
//! set is used as it is.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use protox::Compiler;
use thiserror::Error;

use crate::cli::ProtoFiles;
use crate::protocol::content::{Schema, SchemaError};
use crate::terminal::escaped_word;

/// The largest file. Descriptor sets of thousands of sources have some megabytes.
const MAX_FILE: u64 = 64 << 20;

/// Why a file cannot be used.
#[derive(Debug, Error)]
pub enum ProtoError {
    /// It cannot be read.
    #[error("--proto: {path} cannot be read")]
    Read {
        /// The path of the file.
        path: String,
        /// The error of the read.
        #[source]
        source: io::Error,
    },
    /// It is too large.
    #[error("--proto: {path} has more than {} MiB; name a file with fewer types", MAX_FILE >> 20)]
    TooLarge {
        /// The path of the file.
        path: String,
    },
    /// It is something else.
    #[error(
        "--proto: {path} is neither a .proto file nor a descriptor set; `protoc --include_imports \
         --descriptor_set_out=FILE` writes one"
    )]
    Neither {
        /// The path of the file.
        path: String,
    },
    /// It is a source that cannot be compiled.
    #[error("--proto: {path} cannot be compiled: {what}{next}")]
    Source {
        /// The path of the file.
        path: String,
        /// What is wrong, with its line and column.
        what: String,
        /// The next step for the user, if it is not to correct that.
        next: &'static str,
    },
    /// It is a descriptor set with mistakes.
    #[error(
        "--proto: the descriptor set {path} cannot be used: {what}; `protoc --include_imports` writes all files \
         that it needs"
    )]
    Set {
        /// The path of the file.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// No file has a service.
    #[error(
        "--proto: no service is in {paths}, and the types of bodies are those of the methods of services; name \
         the file that has it"
    )]
    NoService {
        /// The paths of the files.
        paths: String,
    },
}

/// Reads the files. None if there are none.
pub(super) fn load(proto: &ProtoFiles) -> Result<Option<Schema>, ProtoError> {
    if proto.files.is_empty() {
        return Ok(None);
    }
    let mut schema = Schema::default();
    for path in &proto.files {
        let set = descriptor_set(path, &proto.directories)?;
        schema.add(&set).map_err(|error| unusable(path, &error))?;
    }
    if schema.has_no_service() {
        let paths: Vec<String> = proto.files.iter().map(|path| shown(path)).collect();
        return Err(ProtoError::NoService { paths: paths.join(", ") });
    }
    Ok(Some(schema))
}

/// The descriptor set that a file is, or that it compiles to.
fn descriptor_set(path: &Path, directories: &[PathBuf]) -> Result<Vec<u8>, ProtoError> {
    let bytes = read(path)?;
    let is_named_source = path.extension().is_some_and(|extension| extension == "proto");
    // In descriptor sets, lengths are control characters.
    let is_text = str::from_utf8(&bytes).is_ok_and(|text| {
        !text.is_empty() && !text.chars().any(|c| c.is_control() && !c.is_ascii_whitespace())
    });
    match (is_text, is_named_source) {
        (true, _) => compile(path, directories),
        (false, false) => Ok(bytes),
        (false, true) if bytes.is_empty() => compile(path, directories),
        (false, true) => Err(ProtoError::Neither { path: shown(path) }),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ProtoError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
    read.map_err(|source| ProtoError::Read { path: shown(path), source })?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(ProtoError::TooLarge { path: shown(path) });
    }
    Ok(bytes)
}

/// Compiles a source with all that it imports.
fn compile(path: &Path, directories: &[PathBuf]) -> Result<Vec<u8>, ProtoError> {
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let path_of_file = real(path);
    let mut searched: Vec<PathBuf> = directories.iter().map(|directory| real(directory)).collect();
    if !searched.iter().any(|directory| path_of_file.starts_with(directory)) {
        searched.extend(path_of_file.parent().map(Path::to_owned));
    }
    let compiled = Compiler::new(&searched).and_then(|mut compiler| {
        compiler.include_imports(true).open_file(&path_of_file)?;
        Ok(compiler.encode_file_descriptor_set())
    });
    compiled.map_err(|error| {
        // Its debug form has the file, the line and the column.
        let what = format!("{error:?}");
        let next = if error.is_file_not_found() {
            "; name the directory in which imports begin with --proto-path"
        } else if what.ends_with("found 'edition'") {
            "; with an edition, use the descriptor set that `protoc --include_imports --descriptor_set_out=FILE` \
             writes"
        } else {
            ""
        };
        ProtoError::Source { path: shown(path), what: escaped_word(what.as_ref()), next }
    })
}

fn unusable(path: &Path, error: &SchemaError) -> ProtoError {
    match error {
        SchemaError::NoDescriptorSet => ProtoError::Neither { path: shown(path) },
        SchemaError::Inconsistent(_) => {
            ProtoError::Set { path: shown(path), what: escaped_word(error.to_string().as_ref()) }
        }
    }
}

fn shown(path: &Path) -> String {
    escaped_word(path.as_os_str())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    const SERVICE: &str = "service S { rpc M(A) returns (A); }";

    fn loaded(files: &[(&str, &[u8])], names: &[&str], paths: &[&str]) -> Result<String, String> {
        let directory = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let within = |names: &[&str]| names.iter().map(|name| directory.path().join(name)).collect();
        let proto = ProtoFiles { files: within(names), directories: within(paths) };
        match load(&proto) {
            Ok(schema) => Ok(format!("{:?}", schema.unwrap())),
            Err(error) => {
                let error = error.to_string().replace(&format!("{}/", directory.path().display()), "");
                Err(error.trim_start_matches("--proto: ").to_owned())
            }
        }
    }

    #[test]
    fn files_that_can_be_used() {
        let a = format!("syntax = \"proto3\"; message A {{}} {SERVICE}");
        let b = "syntax = \"proto3\"; package b; message B {}";
        let importing = "syntax = \"proto3\"; import \"d/b.proto\"; import \"google/protobuf/any.proto\";
            service S { rpc M(b.B) returns (google.protobuf.Any); }";
        let files: [(&str, &[u8]); 5] = [
            ("a.proto", a.as_bytes()),
            ("d/b.proto", b.as_bytes()),
            ("c.proto", importing.as_bytes()),
            ("d/e.proto", importing.as_bytes()),
            ("text", a.as_bytes()),
        ];
        let check = |names: &[&str], paths: &[&str], expected: &str| {
            assert_eq!(loaded(&files, names, paths), Ok(expected.to_owned()), "{names:?}");
        };
        check(&["a.proto"], &[], "Schema(1 sets, 1 files)");
        check(&["text"], &[], "Schema(1 sets, 1 files)");
        check(&["c.proto"], &[], "Schema(1 sets, 3 files)");
        check(&["a.proto", "d/b.proto"], &[], "Schema(2 sets, 2 files)");
        check(&["d/e.proto"], &["."], "Schema(1 sets, 3 files)");
        check(&["a.proto"], &["d"], "Schema(1 sets, 1 files)");
    }

    #[test]
    fn files_that_cannot_be_used() {
        let import = "syntax = \"proto3\";\nimport \"b.proto\";";
        let no_type = format!("syntax = \"proto3\";\n\n{SERVICE}");
        let editions = "edition = \"2023\";\nmessage A {}";
        let files: [(&str, &[u8]); 8] = [
            ("bad.proto", b"syntax = \"proto3\";\nmessage {"),
            ("import.proto", import.as_bytes()),
            ("type.proto", no_type.as_bytes()),
            ("bytes.proto", b"\xff\0"),
            ("bytes", b"\xff\0"),
            ("empty", b""),
            ("message.proto", b"syntax = \"proto3\"; message A {}"),
            ("editions.proto", editions.as_bytes()),
        ];
        let check = |name: &str, expected: &str| {
            let error = loaded(&files, &[name], &[]).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        };
        check("none.proto", "none.proto cannot be read");
        check("bad.proto", "bad.proto cannot be compiled: bad.proto:2:9: expected an identifier");
        let next = "import 'b.proto' not found; name the directory in which imports begin with --proto-path";
        check("import.proto", &format!("import.proto cannot be compiled: import.proto:2:1: {next}"));
        check("type.proto", "type.proto cannot be compiled: type.proto:3:19: name 'A' is not defined");
        check("bytes.proto", "bytes.proto is neither a .proto file nor a descriptor set");
        check("bytes", "bytes is neither a .proto file nor a descriptor set");
        check("empty", "empty is neither a .proto file nor a descriptor set");
        check("message.proto", "no service is in message.proto, and");
        check("editions.proto", "editions.proto cannot be compiled: editions.proto:1:1: expected");
        let error = loaded(&files, &["editions.proto"], &[]).unwrap_err();
        assert!(error.contains("with an edition, use the descriptor set"), "{error}");
    }
}
