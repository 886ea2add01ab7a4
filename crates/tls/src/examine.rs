//! Looks at a certificate, its key and its CA for an operator, without serving anything: `hatchery doctor` asks.

use model::Finding;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::sign::CertifiedKey;
use webpki::{EndEntityCert, KeyUsage};

use crate::files::{Identity, Named, is_for};
use crate::fresh::NEAR;
use crate::provider::provider;
use crate::validity;

const DAY: u64 = 24 * 3600;

/// Judges until when, and from when on, a certificate is valid, by this machine's clock.
#[must_use]
pub fn examine_validity(check: &'static str, whose: &str, certificate: &CertificateDer<'_>) -> Finding {
    let Some((begin, end)) = validity::valid_between(certificate) else {
        let found = format!("the certificate of {whose} cannot be read");
        return Finding::problem(
            check,
            found,
            "peers refuse it",
            "make it again (`hatchery certs new --renew`)",
        );
    };
    judge_validity(check, whose, (begin, end), UnixTime::now().as_secs())
}

fn judge_validity(check: &'static str, whose: &str, (begin, end): (u64, u64), now: u64) -> Finding {
    const REFUSED: &str = "every peer refuses it";
    const RENEW: &str =
        "make it again (`hatchery certs new --renew`, or as you did); roles take it up without a restart";
    if now < begin {
        let found = format!("the certificate of {whose} is not valid before another {}", span(begin - now));
        return Finding::problem(check, found, REFUSED, "set this machine's clock right, or wait");
    }
    if end <= now {
        let found = format!("the certificate of {whose} expired {} ago", span(now - end));
        return Finding::problem(check, found, REFUSED, RENEW);
    }
    let found = format!("the certificate of {whose} expires in {}", span(end - now));
    if end - now < NEAR.as_secs() {
        return Finding::warning(check, found, "from then on every peer refuses it", RENEW);
    }
    Finding::ok(check, found)
}

/// `3 days`, or hours where it is less than two days.
fn span(seconds: u64) -> String {
    match seconds {
        0..3600 => format!("{} min", seconds.div_ceil(60)),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / DAY),
    }
}

/// Looks at a pair, and whether it is of this CA and for one of these hosts. The first host is the one that callers use.
#[must_use]
pub fn examine(
    check: &'static str,
    identity: &Identity,
    ca: Option<&Named>,
    host: Option<&str>,
) -> Vec<Finding> {
    const NOT_STARTED: &str =
        "the role does not start with it, and a running one keeps the certificate of before";
    let path = identity.certificate.path.display();
    let pair = identity.read().and_then(|(chain, key)| {
        identity.check_role(&chain)?;
        CertifiedKey::from_der(chain.clone(), key, &provider()).map_err(|error| identity.refused(&error))?;
        Ok(chain)
    });
    let chain = match pair {
        Ok(chain) => chain,
        Err(error) => {
            let advice = "name the certificate of this role and its key; `hatchery certs new` makes both";
            return vec![Finding::problem(check, error.to_string(), NOT_STARTED, advice)];
        }
    };
    let mut findings = vec![examine_validity(check, &path.to_string(), &chain[0])];
    if identity.lacks_role() {
        findings.push(Finding::warning(
            check,
            format!("the certificate {path} states no role"),
            "the next release refuses it",
            "make it again with `hatchery certs new --renew`",
        ));
    }
    if let Some(ca) = ca {
        findings.push(match ca.roots() {
            Ok(roots) if is_issued_by(&chain, &roots) => {
                Finding::ok(check, format!("{path} has its key, and is of the CA in {}", ca.path.display()))
            }
            Ok(_) => Finding::problem(
                check,
                format!("{path} is not of the CA in {}", ca.path.display()),
                "peers that trust this CA refuse this role, as it refuses them",
                "make the certificate with the farm's CA (`hatchery certs new --dir`), or name the CA that it is of",
            ),
            Err(error) => {
                Finding::problem(check, error.to_string(), NOT_STARTED, "name the file of the farm's CA, ca.pem")
            }
        });
    }
    if let Some(host) = host.filter(|host| !is_for(&chain[0], host)) {
        findings.push(Finding::problem(
            check,
            format!("the certificate {path} is not for {host}"),
            "callers that use this name refuse it",
            "make it again with this name: `hatchery certs new --renew --agent NODE=HOST`",
        ));
    }
    findings
}

/// Whether the chain leads to one of the roots; when it is valid is another question.
fn is_issued_by(chain: &[CertificateDer<'_>], roots: &RootCertStore) -> bool {
    let Some((first, rest)) = chain.split_first() else { return false };
    let algorithms = provider().signature_verification_algorithms.all;
    let verified = EndEntityCert::try_from(first).map_err(drop).and_then(|certificate| {
        let usage = KeyUsage::server_auth();
        match certificate.verify_for_usage(algorithms, &roots.roots, rest, UnixTime::now(), usage, None, None)
        {
            Ok(_) | Err(webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. }) => Ok(()),
            Err(_) => Err(()),
        }
    });
    verified.is_ok()
}

#[cfg(test)]
mod tests {
    use model::Level;

    use super::*;

    #[test]
    fn a_certificate_is_warned_of_two_weeks_before_its_end() {
        let now = 100 * DAY;
        for (begin, end, level, words) in [
            (now - DAY, now + 15 * DAY, Level::Ok, "expires in 15 days"),
            (now - DAY, now + 13 * DAY, Level::Warning, "expires in 13 days"),
            (now - DAY, now + 3600, Level::Warning, "expires in 1 h"),
            (now - DAY, now, Level::Problem, "expired"),
            (0, now - 3 * DAY, Level::Problem, "expired 3 days ago"),
            (now + 90, now + DAY, Level::Problem, "not valid before another 2 min"),
        ] {
            let finding = judge_validity("tls", "x", (begin, end), now);
            assert_eq!(finding.level, level, "{finding:?}");
            assert!(finding.found.contains(words), "{finding:?}");
        }
    }
}
