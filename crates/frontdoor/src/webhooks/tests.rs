//! Posts over TLS.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tls::{Callers, HTTP1, Identity, Named};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::post::Poster;
use super::window::{Post, Subject};
use crate::settings::{WebhookOptions, WebhookSettings};

/// A CA in this file, and a receiver's end with a certificate of it for `localhost`.
fn receiver(directory: &Path, ca_name: &str) -> tls::Server {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    fs::write(directory.join(ca_name), ca.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(ca, key);
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let [pem, secret] = [("pem", certificate.pem()), ("key", key.serialize_pem())].map(|(end, text)| {
        let path = directory.join(format!("{ca_name}.receiver.{end}"));
        fs::write(&path, text).unwrap();
        Named::new("--tls-cert", path)
    });
    tls::Server::open(Identity::new(pem, secret), Callers::Anyone, HTTP1).unwrap()
}

fn settings(directory: &Path, url: String, ca: &str) -> WebhookSettings {
    let secret = directory.join("secret");
    fs::write(&secret, "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").unwrap();
    let (webhook_secret_file, webhook_ca) = (Some(secret), Some(directory.join(ca)));
    let webhook_refused_for = Duration::from_secs(600);
    WebhookOptions { webhook: vec![url], webhook_secret_file, webhook_ca, webhook_refused_for }
        .resolve()
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn a_post_by_tls_goes_to_a_receiver_whose_ca_is_trusted_and_to_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let server = receiver(directory.path(), "ca.pem");
    receiver(directory.path(), "other.pem");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = server.accept(stream).await else { continue };
            let mut head = [0; 4096];
            let length = stream.read(&mut head).await.unwrap();
            assert!(head[..length].starts_with(b"POST /in HTTP/1.1\r\n"));
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            stream.shutdown().await.ok();
        }
    });
    let post = Post {
        number: 0,
        subject: Subject::Delivery,
        id: "evt_1".to_owned(),
        body: Bytes::from_static(b"{}"),
        is_notice: false,
    };
    for (host, ca, trusted) in
        [("localhost", "ca.pem", true), ("localhost", "other.pem", false), ("127.0.0.1", "ca.pem", false)]
    {
        let settings = settings(directory.path(), format!("https://{host}:{port}/in"), ca);
        let outcome = Poster::new(&settings).attempt(&settings.targets[0], &post).await;
        assert_eq!(outcome.is_ok(), trusted, "{host} {ca}: {outcome:?}");
    }
}
