//! Files of certificates and keys, as operators get them wrong.

use std::fs;

use crate::files::Named;

#[test]
fn a_damaged_certificate_or_key_is_refused_by_its_flag_without_what_is_in_it_or_read() {
    let words = [
        "-----BEGIN CERTIFICATE-----",
        "-----END CERTIFICATE-----",
        "-----BEGIN PRIVATE KEY-----",
        "MIIB",
        "\n",
        "\u{feff}",
    ];
    let directory = tempfile::tempdir().unwrap();
    let file = Named::new("--tls-cert", directory.path().join("file.pem"));
    fuzzing::fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/pem"), &words, |bytes| {
        fs::write(&file.path, bytes).unwrap();
        if let Err(error) = file.first_certificate() {
            let error = error.to_string();
            assert!(error.contains("--tls-cert") && !error.contains("MIIB"), "{error}");
        }
        assert!(!file.is_for("nowhere.example"));
        file.role().ok();
        file.roots().ok();
    });
}
