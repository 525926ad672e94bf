//! A certificate authority and a server certificate for `localhost`. They are created once on each machine,
//! and only the tests' containers trust them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{kept, run};

const KEY: [&str; 7] = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
const AUTHORITY: [&str; 6] = [
    "-days=7300",
    "-subj=/CN=ctrace tests",
    "-addext=basicConstraints=critical,CA:TRUE",
    "-addext=keyUsage=critical,keyCertSign",
    "-keyout=authority.key",
    "-out=authority.pem",
];
const SERVER: [&str; 9] = [
    "-days=7299",
    "-subj=/CN=localhost",
    "-addext=subjectAltName=DNS:localhost,IP:127.0.0.1",
    "-addext=basicConstraints=CA:FALSE",
    "-addext=extendedKeyUsage=serverAuth",
    "-CA=authority.pem",
    "-CAkey=authority.key",
    "-keyout=server.key",
    "-out=server.pem",
];

/// The certificate files for both ends.
#[derive(Debug)]
pub struct Certificate {
    directory: PathBuf,
}

impl Certificate {
    /// Returns the files, which are created if they do not exist.
    pub fn get() -> Result<Self> {
        let recipe = format!("{KEY:?} {AUTHORITY:?} {SERVER:?}");
        let directory = kept("certificate", &recipe, |directory| {
            make(directory, &AUTHORITY)?;
            make(directory, &SERVER)?;
            let [key, certificate] = ["server.key", "server.pem"].map(|name| fs::read(directory.join(name)));
            Ok(fs::write(directory.join("both.pem"), [key?, certificate?].concat())?)
        });
        Ok(Self { directory: directory.context("cannot make a certificate")? })
    }

    /// The authority that clients must trust.
    pub fn authority(&self) -> PathBuf {
        self.directory.join("authority.pem")
    }

    /// The server's certificate and its key.
    pub fn server(&self) -> PathBuf {
        self.directory.join("both.pem")
    }
}

fn make(directory: &Path, options: &[&str]) -> Result<()> {
    // openssl requires an option's value as a separate argument.
    let options = options.iter().flat_map(|option| option.splitn(2, '='));
    run(Command::new("openssl").args(KEY).args(options).current_dir(directory))
}
