//! Webhooks: where events are posted to, and the secret that their signatures are made with.
//!
//! A URL may hold credentials, before its host, in its path or in its query. So nothing shows more of it than scheme, host and port.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Uri;
use hyper::header::HeaderValue;
use tls::{Named, Roots};
use tracing::warn;
use uuid::Uuid;

use super::error::{ConfigError, within};

const SECRET_FLAG: &str = "--webhook-secret-file";
const CA_FLAG: &str = "--webhook-ca";
/// Bytes of a key, as Standard Webhooks has it.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Flags that say where events are posted to, and with which secret.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Webhooks")]
#[group(id = "webhooks")]
pub struct WebhookOptions {
    /// URL that events of spawns and nodes are posted to, http:// or https://; repeat it or separate with commas
    #[arg(
        long,
        env = "HATCHERY_WEBHOOK",
        value_name = "URL",
        value_delimiter = ',',
        requires = "webhook_secret_file",
        hide_env_values = true
    )]
    pub webhook: Vec<String>,

    /// File with the secret that posts are signed with, `whsec_` and base64; with several lines, one signature each; read again when it
    /// changes
    #[arg(long, env = "HATCHERY_WEBHOOK_SECRET_FILE", value_name = "FILE")]
    pub webhook_secret_file: Option<PathBuf>,

    /// CA of the receivers (PEM) [default: those that this machine trusts]
    #[arg(long, env = "HATCHERY_WEBHOOK_CA", value_name = "FILE")]
    pub webhook_ca: Option<PathBuf>,

    /// An event that a receiver refuses (4xx) for so long while it takes others is set aside
    #[arg(long, env = "HATCHERY_WEBHOOK_REFUSED_FOR", value_name = "DURATION", default_value = "10m",
          value_parser = humantime::parse_duration)]
    pub webhook_refused_for: Duration,
}

/// Webhooks after every check.
#[derive(Debug, Clone)]
pub struct WebhookSettings {
    pub(crate) targets: Vec<WebhookTarget>,
    pub(crate) secret_file: PathBuf,
    pub(crate) secret: WebhookSecret,
    pub(crate) tls: tls::Client,
    /// How long an event may be refused before it is set aside.
    pub(crate) refused_for: Duration,
}

/// One receiver of events, checked.
#[derive(Clone)]
pub(crate) struct WebhookTarget {
    /// Without user and password.
    pub(crate) url: Uri,
    /// User and password, as a header.
    pub(crate) authorization: Option<HeaderValue>,
    /// The same for each front door that has this URL, whatever the password.
    pub(crate) id: Uuid,
    /// What may be shown of the URL.
    pub(crate) shown: String,
}

impl fmt::Debug for WebhookTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// The keys that posts are signed with, each of which makes a signature.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct WebhookSecret(pub(crate) Vec<Vec<u8>>);

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl WebhookOptions {
    pub(crate) fn resolve(&self) -> Result<Option<WebhookSettings>, ConfigError> {
        let urls: Vec<&String> = self.webhook.iter().filter(|url| !url.is_empty()).collect();
        let Some(file) = self.webhook_secret_file.as_ref().filter(|_| !urls.is_empty()) else {
            return Ok(None);
        };
        let secret = WebhookSecret::read(file).map_err(|found| ConfigError {
            flag: SECRET_FLAG,
            wants:
                "a file with `whsec_` and 24 to 64 bytes as base64 (echo whsec_$(openssl rand -base64 32))"
                    .into(),
            found,
        })?;
        machine::warn_if_readable_by_everyone(SECRET_FLAG, file);
        let targets = urls.into_iter().map(|url| WebhookTarget::parse(url)).collect::<Result<Vec<_>, _>>()?;
        for target in &targets {
            if targets.iter().filter(|other| other.id == target.id).count() > 1 {
                let wants = "each URL once".into();
                return Err(ConfigError {
                    flag: "--webhook",
                    wants,
                    found: format!("{} twice", target.shown),
                });
            }
        }
        within(
            "--webhook-refused-for",
            self.webhook_refused_for,
            Duration::from_millis(1),
            Duration::from_secs(7 * 24 * 3600),
        )?;
        let roots = self.webhook_ca.as_ref().map_or(Roots::System, |ca| Roots::File(Named::new(CA_FLAG, ca)));
        let tls = tls::Client::open(roots, None, tls::HTTP1)?;
        Ok(Some(WebhookSettings {
            targets,
            secret_file: file.clone(),
            secret,
            tls,
            refused_for: self.webhook_refused_for,
        }))
    }
}

impl WebhookTarget {
    fn parse(text: &str) -> Result<Self, ConfigError> {
        // The text may hold a password, so it is not repeated.
        let wrong = |found: &str| ConfigError {
            flag: "--webhook",
            wants: "a URL such as https://receiver.example.com/hatchery".into(),
            found: found.to_owned(),
        };
        let url: Uri = text.parse().map_err(|_| wrong("what is no URL"))?;
        let (Some(scheme @ ("http" | "https")), Some(authority)) = (url.scheme_str(), url.authority()) else {
            return Err(wrong("one with neither http:// nor https://"));
        };
        let (user, place) = authority
            .as_str()
            .rsplit_once('@')
            .map_or((None, authority.as_str()), |(user, place)| (Some(user), place));
        let host = url.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("one without a host"))?;
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let shown = format!("{scheme}://{place}");
        let stripped = format!("{shown}{path}");
        let id = Uuid::new_v5(&Uuid::NAMESPACE_URL, stripped.as_bytes());
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        if scheme == "http" && host != "localhost" && !address.is_ok_and(|address| address.is_loopback()) {
            warn!(
                webhook = shown,
                "events go there in the clear, and with them the endpoints of viewers: https:// keeps them to the receiver"
            );
        }
        let authorization = user.map(|user| {
            let user: Vec<u8> = percent_encoding::percent_decode_str(user).collect();
            let basic = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(user)));
            basic.map(|mut value| {
                value.set_sensitive(true);
                value
            })
        });
        let authorization = authorization.transpose().map_err(|_| wrong("one whose user is no header"))?;
        let url = stripped.parse().map_err(|_| wrong("what is no URL without its user"))?;
        Ok(Self { url, authorization, id, shown })
    }
}

impl WebhookSecret {
    /// Reads a file of keys. The error says what is wrong, without the secret.
    pub(crate) fn read(file: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let lines =
            text.trim_start_matches('\u{feff}').lines().map(str::trim).filter(|line| !line.is_empty());
        let key = |line: &str| {
            let key = STANDARD.decode(line.strip_prefix("whsec_").unwrap_or(line)).ok();
            key.filter(|key| KEY_BYTES.contains(&key.len()))
        };
        let keys: Option<Vec<Vec<u8>>> = lines.map(key).collect();
        match keys {
            Some(keys) if !keys.is_empty() => Ok(Self(keys)),
            Some(_) => Err(format!("{} without a line", file.display())),
            None => Err(format!("{} with a line that is none", file.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_split_and_no_secret_of_it_is_shown() {
        let target =
            WebhookTarget::parse("https://us%40er:pa%3Ass@hooks.example:8443/in/TOKEN?key=KEY").unwrap();
        assert_eq!(target.url, "https://hooks.example:8443/in/TOKEN?key=KEY");
        assert_eq!(target.shown, "https://hooks.example:8443");
        let header = target.authorization.clone().unwrap();
        assert_eq!(header.to_str().unwrap(), format!("Basic {}", STANDARD.encode("us@er:pa:ss")));
        for shown in [format!("{target:?}"), format!("{header:?}")] {
            assert!(!["TOKEN", "KEY", "pa", "dXM"].iter().any(|secret| shown.contains(secret)), "{shown}");
        }
        let other = WebhookTarget::parse("https://other:pass@hooks.example:8443/in/TOKEN?key=KEY").unwrap();
        assert_eq!(target.id, other.id, "a password may be changed");
        assert_ne!(target.id, WebhookTarget::parse("https://hooks.example:8443/in/other").unwrap().id);
        for bad in ["", "hooks.example", "/in", "ftp://hooks.example/", "https://", "https://user:SECRET@"] {
            let error = WebhookTarget::parse(bad).unwrap_err().to_string();
            assert!(error.contains("--webhook") && !error.contains("SECRET"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_secret_is_lines_of_base64_that_are_long_enough() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |text: &str| {
            fs::write(file.path(), text).unwrap();
            WebhookSecret::read(file.path())
        };
        let [one, two] = [[1; 24], [2; 24]].map(|key| STANDARD.encode(key));
        assert_eq!(read(&format!("\u{feff}whsec_{one}\r\n\n{two}\n")).unwrap().0, [[1; 24], [2; 24]]);
        for bad in ["", "\n", "whsec_", "whsec_c2hvcnQ=", &format!("{one}\nno base64")] {
            let error = read(bad).unwrap_err();
            assert!(!error.contains(&one), "{error}");
        }
        assert_eq!(format!("{:?}", read(&one).unwrap()), "1 keys");
    }
}
