//! The farm's CA: made once, and used for as long as its directory is there.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use tls::Role;

use super::subject::Subject;
use super::write::{Secrecy, at, write};
use crate::failure::Failure;

/// What every CA of this program is called, before what distinguishes it from others.
const NAME: &str = "Hatchery farm CA";
const DAY: Duration = Duration::from_secs(24 * 3600);
const CA_DAYS: u32 = 3650;
/// Clocks differ.
const BEFORE: Duration = Duration::from_secs(3600);

/// The CA of a directory.
pub(super) struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// The one that is there, or a new one.
    pub(super) fn open_or_make(dir: &Path, out: &mut impl Write) -> Result<Self, Failure> {
        let (certificate, key) = (dir.join("ca.pem"), dir.join("ca.key"));
        let pair = match (certificate.exists(), key.exists()) {
            (false, false) => {
                let pair = KeyPair::generate().map_err(|e| at(&key, e))?;
                let made = params(&pair)?.self_signed(&pair).map_err(|e| at(&certificate, e))?;
                write(&key, &pair.serialize_pem(), Secrecy::Owner)?;
                write(&certificate, &made.pem(), Secrecy::None)?;
                writeln!(out, "made  {} and {}, good for 10 years", certificate.display(), key.display())?;
                pair
            }
            (true, true) => {
                let pair = read_key(&key)?;
                if !is_ours(&certificate, &pair)? {
                    let why = "it is not a CA of hatchery certs new, or ca.key is not its key";
                    return Err(at(&certificate, why));
                }
                writeln!(out, "kept  {} and {}", certificate.display(), key.display())?;
                pair
            }
            (true, false) => return Err(at(&key, "there is ca.pem, but not its key")),
            (false, true) => return Err(at(&certificate, "there is ca.key, but not its certificate")),
        };
        Ok(Self { dir: dir.to_owned(), issuer: Issuer::new(params(&pair)?, pair) })
    }

    /// Makes a certificate for a subject that has none yet, or whose certificate is to be renewed.
    pub(super) fn certify(
        &self,
        subject: &Subject,
        days: u32,
        renew: bool,
        out: &mut impl Write,
    ) -> Result<(), Failure> {
        let [certificate, key] = ["pem", "key"].map(|end| self.dir.join(format!("{}.{end}", subject.file)));
        let (has_certificate, has_key) = (certificate.exists(), key.exists());
        if has_certificate && !has_key && !renew {
            return Err(at(&key, "its certificate is there, but not its key; --renew makes both"));
        }
        if has_certificate && !renew {
            let remark = keep(&certificate, subject)?;
            return Ok(writeln!(out, "kept  {} and {}{remark}", certificate.display(), key.display())?);
        }
        let new_key = renew || !has_key;
        let pair = if new_key { KeyPair::generate().map_err(|e| at(&key, e))? } else { read_key(&key)? };
        let mut params = CertificateParams::new(subject.hosts.clone()).map_err(|e| at(&certificate, e))?;
        params.distinguished_name = named(&subject.name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let uri = subject.role.to_string().try_into().map_err(|e| at(&certificate, e))?;
        params.subject_alt_names.push(SanType::URI(uri));
        params.extended_key_usages = match subject.role {
            Role::FrontDoor | Role::Relay(_) => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            Role::Agent(_) | Role::Redis => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Role::Metrics => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        last(&mut params, days)?;
        let made = params.signed_by(&pair, &self.issuer).map_err(|e| at(&certificate, e))?;
        if new_key {
            write(&key, &pair.serialize_pem(), Secrecy::Owner)?;
        }
        write(&certificate, &made.pem(), Secrecy::None)?;
        let hosts = [&[subject.role.to_string()], subject.hosts.as_slice()].concat().join(", ");
        let what = if has_certificate { "again" } else { "made " };
        Ok(writeln!(
            out,
            "{what} {} and {}, good for {days} days, for {hosts}",
            certificate.display(),
            key.display()
        )?)
    }
}

/// Whether a certificate that is there serves for this subject: what remains to be said of it.
fn keep(certificate: &Path, subject: &Subject) -> Result<&'static str, Failure> {
    let file = tls::Named::new("--dir", certificate);
    if let Some(host) = subject.hosts.iter().find(|host| !file.is_for(host)) {
        return Err(at(certificate, format!("it is there and not for {host}; --renew makes one that is")));
    }
    let other = match file.role() {
        Ok(Some(role)) if role == subject.role => return Ok(""),
        Ok(None) => return Ok(", but it states no role: make it again with --renew"),
        Ok(Some(role)) => role.to_string(),
        Err(other) => other.to_string(),
    };
    let why = format!("it is there and that of {other}; --renew makes that of {}", subject.role);
    Err(at(certificate, why))
}

/// The CA's certificate, but for its key.
fn params(pair: &KeyPair) -> Result<CertificateParams, Failure> {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&name(pair));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    last(&mut params, CA_DAYS)?;
    Ok(params)
}

/// The name of the CA with this key. Its end is the key's: CAs of one name would differ by failed signatures only.
fn name(pair: &KeyPair) -> String {
    let end: String = pair.public_key_raw().iter().rev().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{NAME} {end}")
}

fn named(name: &str) -> DistinguishedName {
    let mut whole = DistinguishedName::new();
    whole.push(DnType::CommonName, name);
    whole
}

/// From now on, for so many days.
fn last(params: &mut CertificateParams, days: u32) -> Result<(), Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_err(|_| Failure::failed("this machine's clock is before 1970"))?;
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BEFORE);
    params.not_after = epoch + now + DAY * days;
    Ok(())
}

fn read_key(path: &Path) -> Result<KeyPair, Failure> {
    let text = fs::read_to_string(path).map_err(|e| at(path, e))?;
    KeyPair::from_pem(&text).map_err(|_| at(path, "it is no private key that can be used"))
}

/// Whether a certificate was made here with this key: it has the key, and the name.
fn is_ours(certificate: &Path, pair: &KeyPair) -> Result<bool, Failure> {
    let der = tls::Named::new("--dir", certificate).first_certificate();
    let der = der.map_err(|e| Failure::failed(e.to_string()))?;
    let has = |part: &[u8]| der.windows(part.len()).any(|window| window == part);
    Ok(has(pair.public_key_raw()) && has(name(pair).as_bytes()))
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("dir", &self.dir).finish_non_exhaustive()
    }
}
