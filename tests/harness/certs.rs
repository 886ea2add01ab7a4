//! Certificates, made as an operator makes them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::role::hatchery;

/// A directory with a CA and what it has signed.
#[derive(Debug)]
pub struct Certs {
    dir: TempDir,
}

impl Certs {
    /// A CA, and certificates for what these arguments of `hatchery certs new` name.
    pub fn new(args: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("hatchery-certs-").tempdir().expect("a scratch directory");
        let certs = Self { dir };
        let ran = certs.more(args);
        assert!(ran.status.success(), "{ran:?}");
        certs
    }

    /// For the front door `door` and the agents `node-a` and `node-b`, all on this machine, and for what `more` names.
    pub fn two_agents(more: &[&str]) -> Self {
        let names =
            ["--frontdoor", "door=127.0.0.1", "--agent", "node-a=127.0.0.1", "--agent", "node-b=127.0.0.1"];
        Self::new(&[&names, more].concat())
    }

    /// Runs `hatchery certs new` again, in the same directory.
    pub fn more(&self, args: &[&str]) -> Output {
        let mut command = hatchery(self.dir.path());
        command.args(["certs", "new", "--dir"]).arg(self.dir.path()).args(args);
        command.output().expect("the program can be started")
    }

    /// Signs a certificate as another program than ours would, in place of the one there is: for the key of this name (a new
    /// one when there is none), with these alternative names and extended key usages in OpenSSL's words.
    pub fn sign(&self, name: &str, alternative_names: &str, usages: &str) {
        let path = |end: &str| self.path(&format!("{name}.{end}"));
        let (key, request, extensions) = (path("key"), path("csr"), path("ext"));
        if !self.file(&format!("{name}.key")).exists() {
            openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &key]);
        }
        let text = format!("subjectAltName={alternative_names}\nextendedKeyUsage={usages}\n");
        std::fs::write(&extensions, text).expect("a file can be written");
        openssl(&["req", "-new", "-key", &key, "-subj", &format!("/CN={name}"), "-out", &request]);
        let [ca, ca_key] = ["ca.pem", "ca.key"].map(|file| self.path(file));
        let sign = ["x509", "-req", "-days", "2", "-in", &request, "-CA", &ca, "-CAkey", &ca_key];
        openssl(&[&sign[..], &["-extfile", &extensions, "-out", &path("pem")]].concat());
    }

    /// A file of it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same as an argument.
    pub fn path(&self, name: &str) -> String {
        self.file(name).to_str().expect("a scratch directory has a plain name").to_owned()
    }

    /// The flags of an agent of this name.
    pub fn agent(&self, name: &str) -> Vec<String> {
        let files = [format!("{name}.pem"), format!("{name}.key"), "ca.pem".to_owned()];
        flags(["--tls-cert", "--tls-key", "--tls-client-ca"], files.map(|file| self.path(&file)))
    }

    /// The flags of a front door that is this one to agents, and serves callers without TLS.
    pub fn door(&self, name: &str) -> Vec<String> {
        let files = [format!("{name}.pem"), format!("{name}.key"), "ca.pem".to_owned()];
        flags(["--agent-tls-cert", "--agent-tls-key", "--tls-client-ca"], files.map(|file| self.path(&file)))
    }

    /// The flags of a front door that is this one to agents and callers.
    pub fn public_door(&self, name: &str) -> Vec<String> {
        self.agent(name)
    }
}

fn openssl(args: &[&str]) {
    let ran = Command::new("openssl").args(args).output().expect("openssl is installed");
    assert!(ran.status.success(), "{args:?}: {ran:?}");
}

fn flags(flags: [&str; 3], values: [String; 3]) -> Vec<String> {
    flags.into_iter().zip(values).flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
}

/// What `curl` got.
#[derive(Debug)]
pub struct Curled {
    /// 0 when there was no answer.
    pub status: u16,
    /// All of it.
    pub body: String,
    /// What curl said of a failure.
    pub error: String,
}

/// Asks with a client that everybody has, with these arguments more.
pub async fn curl(url: &str, ca: Option<&Path>, args: &[&str]) -> Curled {
    let mut command = tokio::process::Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "60", "--write-out", "\n%{http_code}"]);
    if let Some(ca) = ca {
        command.arg("--cacert").arg(ca);
    }
    let output = command.args(args).arg(url).kill_on_drop(true).output().await.expect("curl is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').expect("it writes the status");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    Curled { status: status.parse().expect("a number"), body: body.to_owned(), error }
}
