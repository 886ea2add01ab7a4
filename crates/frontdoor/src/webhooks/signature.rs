//! Signatures of posts, as Standard Webhooks has them: HMAC-SHA256 over id, time and body.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

use crate::settings::WebhookSecret;

/// The header `webhook-signature`: one signature for each key, with spaces between them.
pub(super) fn signatures(secret: &WebhookSecret, id: &str, timestamp: u64, body: &[u8]) -> String {
    let signature = |key: &Vec<u8>| {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
        context.update(format!("{id}.{timestamp}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    };
    secret.0.iter().map(signature).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with Python's `hmac`, as docs/user/webhooks.md shows it.
    #[test]
    fn a_signature_is_what_receivers_compute() {
        let secret = WebhookSecret(vec![vec![7; 32], vec![9; 24]]);
        let made = signatures(&secret, "evt_1", 1_700_000_000, br#"{"seq":1}"#);
        assert_eq!(
            made,
            "v1,6s4PJlRqdPhje5WFETScRho2rbxpA2ES9zd3Se9dMpU= v1,w+BcyilJU/a1VosIVDOgNG9xWR8HTVwCI51v75ZyF/Y="
        );
    }
}
