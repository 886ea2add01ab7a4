//! One batch at a time, to a collector of a few lines.

use rcgen::{CertificateParams, KeyPair};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// Reads the head of one request and answers with this status.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, status: &str) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(answer.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    String::from_utf8(head).unwrap().to_lowercase()
}

fn exporter(url: &str, more: &[(&str, &str)]) -> HttpExporter {
    let settings = Settings::read(|name| {
        let known = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", url),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=k"),
        ];
        let found = known.iter().chain(more).find(|(known, _)| *known == name);
        Ok(found.map(|(_, value)| (*value).to_owned()))
    });
    HttpExporter::new(&settings.unwrap().unwrap()).unwrap()
}

#[tokio::test]
async fn a_batch_is_delivered_by_a_status_of_success_only() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/otlp", listener.local_addr().unwrap());
    for (status, delivered) in
        [("200 OK", true), ("202 Accepted", true), ("503 Busy", false), ("404 No", false)]
    {
        let exporter = exporter(&url, &[]);
        let serve = async { answer(listener.accept().await.unwrap().0, status).await };
        let (head, outcome) = tokio::join!(serve, exporter.export(Vec::new()));
        assert_eq!(outcome.is_ok(), delivered, "{status}: {outcome:?}");
        assert!(head.starts_with("post /otlp/v1/traces http/1.1\r\n"), "{head}");
        assert!(head.contains("\r\ncontent-type: application/x-protobuf\r\n"), "{head}");
        assert!(head.contains("\r\napi-key: k\r\n"), "{head}");
    }
    drop(listener);
    let gone = exporter(&url, &[]).export(Vec::new()).await.unwrap_err();
    assert!(gone.to_string().to_lowercase().contains("refused"), "{gone}");
}

#[tokio::test]
async fn a_collector_by_tls_is_believed_by_the_given_ca_only() {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let (ca, other) = (scratch.path().join("ca.pem"), scratch.path().join("other.pem"));
    std::fs::write(&ca, certificate.pem()).unwrap();
    let stranger = CertificateParams::new(["localhost".to_owned()]).unwrap();
    std::fs::write(&other, stranger.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    for (file, believed) in [(&ca, true), (&other, false)] {
        let exporter = exporter(&url, &[("OTEL_EXPORTER_OTLP_CERTIFICATE", file.to_str().unwrap())]);
        let serve = async {
            let stream = acceptor.accept(listener.accept().await.unwrap().0).await;
            if let Ok(stream) = stream {
                answer(stream, "200 OK").await;
            }
        };
        let ((), outcome) = tokio::join!(serve, exporter.export(Vec::new()));
        assert_eq!(outcome.is_ok(), believed, "{outcome:?}");
        let text = outcome.err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(text.contains("certificate"), !believed, "{text}");
    }
}

#[tokio::test]
async fn a_file_that_is_no_certificate_is_named_with_its_variable() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("empty.pem");
    std::fs::write(&file, "nothing").unwrap();
    let settings = |path: &str| {
        let path = path.to_owned();
        Settings::read(move |name| {
            Ok(match name {
                "OTEL_EXPORTER_OTLP_ENDPOINT" => Some("https://localhost:4318".to_owned()),
                "OTEL_EXPORTER_OTLP_PROTOCOL" => Some("http/protobuf".to_owned()),
                "OTEL_EXPORTER_OTLP_CERTIFICATE" => Some(path.clone()),
                _ => None,
            })
        })
    };
    for path in [file.to_str().unwrap(), "/no/such/file"] {
        let error = HttpExporter::new(&settings(path).unwrap().unwrap()).unwrap_err();
        assert_eq!(error.variable, "OTEL_EXPORTER_OTLP_CERTIFICATE");
        assert!(error.to_string().contains(path), "{error}");
    }
}
