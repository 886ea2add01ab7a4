//! The host names that a role answers to, as a guard against DNS rebinding.
//!
//! The attack: a page is loaded from the attacker's name, which then points at another machine, and the browser takes that
//! machine's answers for the page's own. The `Host` header still carries the attacker's name. So a role answers only to
//! names that it knows. An IP literal is always known, because it cannot be pointed at another machine.

use std::net::IpAddr;

/// The flag that adds names.
pub const ALLOWED_HOST: &str = "--allowed-host";

/// The flag of host names.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(id = "host")]
pub struct HostOptions {
    /// Host name that requests may be sent to, beside localhost, the machine's own name and every IP address; repeat it or
    /// separate with commas, `*` for any
    #[arg(long, env = "HATCHERY_ALLOWED_HOST", value_name = "HOST", value_delimiter = ',')]
    pub allowed_host: Vec<String>,
}

/// A value of `--allowed-host` that is no host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a host name without scheme and port, such as farm.example.com, or `*`, got {0:?}")]
pub struct HostError(pub String);

/// The names that a role knows. The default knows `localhost` and IP literals alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts {
    any: bool,
    names: Vec<String>,
}

impl Hosts {
    /// The names of the option, and this machine's own.
    ///
    /// # Errors
    /// A value of the option is no host name.
    pub fn of(options: &HostOptions) -> Result<Self, HostError> {
        let mut hosts = Self::default();
        hosts.add(&rustix::system::uname().nodename().to_string_lossy());
        for value in options.allowed_host.iter().map(|value| value.trim()).filter(|value| !value.is_empty()) {
            if value == "*" {
                hosts.any = true;
            } else if is_name(value) {
                hosts.add(value);
            } else {
                return Err(HostError(value.to_owned()));
            }
        }
        Ok(hosts)
    }

    /// Adds a name, without a port; case and a final dot do not count.
    pub fn add(&mut self, name: &str) {
        self.names.push(name.trim_end_matches('.').to_ascii_lowercase());
    }

    /// Whether a `Host` header, with or without a port, names this role.
    ///
    /// ```
    /// let mut hosts = access::Hosts::default();
    /// hosts.add("farm.example.com");
    /// assert!(hosts.knows("farm.example.com:8080") && hosts.knows("10.0.0.5") && hosts.knows("localhost"));
    /// assert!(!hosts.knows("attacker.example"));
    /// ```
    #[must_use]
    pub fn knows(&self, host: &str) -> bool {
        if self.any {
            return true;
        }
        let Some(name) = name_of(host) else { return false };
        is_local(name) || name.parse::<IpAddr>().is_ok() || {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            !name.is_empty() && self.names.contains(&name)
        }
    }
}

/// The host of `host[:port]`, without the brackets of IPv6.
#[must_use]
pub fn name_of(host: &str) -> Option<&str> {
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(rest) = host.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        return port.strip_prefix(':').map_or(port.is_empty(), is_port).then_some(address);
    }
    match host.split_once(':') {
        None => Some(host),
        Some((name, port)) => is_port(port).then_some(name),
    }
}

/// Whether browsers resolve a name to this machine without asking the DNS: `localhost` and names below it.
#[must_use]
pub fn is_local(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// Whether an origin, `scheme://host[:port]`, is that of a page on this machine.
#[must_use]
pub fn is_local_origin(origin: &str) -> bool {
    let host = ["http://", "https://"].iter().find_map(|scheme| origin.strip_prefix(scheme));
    let Some(name) = host.and_then(name_of) else { return false };
    is_local(name) || name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

fn is_name(text: &str) -> bool {
    let byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    text.len() <= 255 && text.bytes().all(byte) && text.bytes().any(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowing(values: &[&str]) -> Hosts {
        let allowed_host = values.iter().map(|&value| value.to_owned()).collect();
        Hosts::of(&HostOptions { allowed_host }).unwrap()
    }

    #[test]
    fn a_role_answers_to_addresses_local_names_its_machine_and_the_names_of_its_flag() {
        let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let hosts = allowing(&["farm.example.com", "Door-1"]);
        for (host, known) in [
            ("127.0.0.1:8080", true),
            ("10.0.0.5", true),
            ("[::1]:8080", true),
            ("[fe80::1]", true),
            ("localhost", true),
            ("localhost:8080", true),
            ("LOCALHOST.:80", true),
            ("farm.localhost:1", true),
            (machine.as_str(), true),
            ("farm.example.com", true),
            ("FARM.example.com.:443", true),
            ("door-1:9080", true),
            ("evil.example.com", false),
            ("x.farm.example.com", false),
            ("farm.example.com.evil.example", false),
            ("localhost.evil.example", false),
            ("notlocalhost", false),
            ("127.0.0.1.evil.example", false),
            ("[::1", false),
            ("[::1]x", false),
            ("localhost:80:80", false),
            ("localhost@evil.example", false),
            ("user@localhost", false),
            ("farm.example.com/x", false),
            ("", false),
            (":80", false),
            (".", false),
        ] {
            assert_eq!(hosts.knows(host), known, "{host:?}");
        }
        assert!(!Hosts::default().knows(&machine) || is_local(&machine), "only addresses and local names");
        assert!(allowing(&["*"]).knows("whatever.example"));
    }

    #[test]
    fn what_is_no_host_name_is_refused() {
        for value in
            ["https://farm.example.com", "farm.example.com:8080", "*.example.com", "a b", "..", "[::1]"]
        {
            let options = HostOptions { allowed_host: vec![value.to_owned()] };
            let error = Hosts::of(&options).unwrap_err().to_string();
            assert!(error.contains(value) && error.contains("expected a host name"), "{error}");
        }
    }

    #[test]
    fn an_origin_is_local_when_its_host_is() {
        for (origin, local) in [
            ("http://localhost", true),
            ("https://localhost:5173", true),
            ("http://app.localhost:3000", true),
            ("http://127.0.0.1:8000", true),
            ("http://127.9.9.9", true),
            ("http://[::1]:3000", true),
            ("http://10.0.0.5", false),
            ("https://localhost.evil.example", false),
            ("https://evil.example", false),
            ("ftp://localhost", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(is_local_origin(origin), local, "{origin:?}");
        }
    }
}
