//! Front doors by TLS: whom the command trusts, and what it says when it does not.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use tempfile::TempDir;

use crate::process::{Ran, hatchery};
use crate::scripted::{Reply, Server};

/// A certificate authority with its certificate in a file.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "a farm's CA");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, directory }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A front door with a certificate for this name, changed as a test likes.
    fn front_door(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Server {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        Server::start_tls(tls, |_| Reply::json(200, json!({ "nodes": [] })))
    }
}

fn nodes(server: &str, set: &[(&str, &str)], args: &[&str]) -> Ran {
    let mut command = hatchery(&["nodes", "--server", server]);
    command.args(args).envs(set.iter().copied()).env_remove("SSL_CERT_DIR");
    command.output().unwrap().into()
}

#[test]
fn a_private_ca_is_trusted_by_flag_by_variable_and_as_one_of_the_systems() {
    let authority = Authority::new();
    let server = authority.front_door("127.0.0.1", |_| {});
    let ca = authority.file();
    let ca = ca.to_str().unwrap();
    for (set, args) in
        [(&[][..], &["--ca", ca][..]), (&[("HATCHERY_CA", ca)], &[]), (&[("SSL_CERT_FILE", ca)], &[])]
    {
        let set = [&[("HATCHERY_TOKEN", "t")], set].concat();
        let ran = nodes(&server.url(), &set, args);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    }
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|request| request.header("authorization") == Some("Bearer t")), "{seen:?}");
}

#[test]
fn what_is_wrong_with_a_certificate_is_said_in_words() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (ours_file, theirs_file) = (ours.file(), theirs.file());
    let (ca, other) = (ours_file.to_str().unwrap(), theirs_file.to_str().unwrap());
    let good = ours.front_door("127.0.0.1", |_| {});
    let elsewhere = ours.front_door("door.example", |_| {});
    let old = ours.front_door("127.0.0.1", |params| params.not_after = date_time_ymd(2001, 1, 1));
    let early = ours.front_door("127.0.0.1", |params| params.not_before = date_time_ymd(4001, 1, 1));
    let plain = Server::always(Reply::json(200, json!({ "nodes": [] })));
    let no_tls = plain.url().replace("http:", "https:");
    for (server, ca, wanted) in [
        (good.url(), other, format!("its certificate is not of the CA in {other}")),
        (elsewhere.url(), ca, "its certificate is for door.example, not for 127.0.0.1".to_owned()),
        (old.url(), ca, "its certificate has expired".to_owned()),
        (early.url(), ca, "its certificate is not valid yet".to_owned()),
        (no_tls, ca, "is it http:// ?".to_owned()),
    ] {
        for args in [&["--ca", ca][..], &["--ca", ca, "--watch"]] {
            let ran = nodes(&server, &[("HATCHERY_TOKEN", "hush")], args);
            assert_eq!(ran.code, 1, "{ran:?}");
            assert!(ran.stderr.contains(&wanted), "{wanted}: {ran:?}");
        }
    }
    // The system has authorities, and this is none of them.
    let ran = nodes(&good.url(), &[("SSL_CERT_FILE", other)], &[]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("does not know (--ca or HATCHERY_CA names"), "{ran:?}");
    for server in [good, elsewhere, old, early] {
        assert!(server.seen().is_empty(), "no token is told to whom one does not trust");
    }
}

#[test]
fn a_ca_that_is_none_is_an_error_that_names_flag_and_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    let path = path.to_str().unwrap();
    for text in [
        None,
        Some(""),
        Some("no PEM"),
        Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    ] {
        if let Some(text) = text {
            fs::write(path, text).unwrap();
        }
        for (set, args, place) in
            [(&[][..], &["--ca", path][..], "--ca"), (&[("HATCHERY_CA", path)], &[], "HATCHERY_CA")]
        {
            let ran = nodes("https://127.0.0.1:9", set, args);
            assert_eq!(ran.code, 2, "{ran:?}");
            assert!(
                ran.stderr.starts_with(&format!("error: invalid {place}: expected certificates")),
                "{ran:?}"
            );
            assert!(ran.stderr.contains(path), "{ran:?}");
        }
    }
}
