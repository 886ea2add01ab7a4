//! The load balancers that are believed when they say who a caller is (`--trusted-proxy`).

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::error::ConfigError;

/// Flags about load balancers.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(id = "proxies")]
pub struct ProxyOptions {
    /// Address or network of load balancers that are believed when they say who a caller is, by `X-Forwarded-For` or the PROXY
    /// protocol; repeat it or separate with commas
    #[arg(long, env = "HATCHERY_TRUSTED_PROXY", value_name = "CIDR", value_delimiter = ',')]
    pub trusted_proxy: Vec<String>,
}

impl ProxyOptions {
    pub(super) fn resolve(&self) -> Result<TrustedProxies, ConfigError> {
        TrustedProxies::parse(&self.trusted_proxy)
    }
}

/// Addresses and networks of load balancers. There are none by default: then a caller is the other end of its connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Arc<[IpNet]>);

impl TrustedProxies {
    /// Addresses, and networks in CIDR notation.
    fn parse(texts: &[String]) -> Result<Self, ConfigError> {
        let network = |text: &String| {
            let address = || text.parse::<IpAddr>().map(IpNet::from);
            text.parse::<IpNet>().or_else(|_| address()).map_err(|_| ConfigError {
                flag: "--trusted-proxy",
                wants: "an address or a network of load balancers, such as 10.0.0.4 or 10.0.0.0/24".into(),
                found: format!("{text:?}"),
            })
        };
        texts.iter().filter(|text| !text.is_empty()).map(network).collect::<Result<_, _>>().map(Self)
    }

    /// Of these, which are right.
    #[cfg(test)]
    pub(crate) fn of(networks: &[&str]) -> Self {
        Self(
            networks
                .iter()
                .map(|text| text.parse().unwrap_or_else(|_| text.parse::<IpAddr>().unwrap().into()))
                .collect(),
        )
    }

    /// Whether a proxy at this address is believed.
    pub(crate) fn trust(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(texts: &[&str]) -> Result<TrustedProxies, ConfigError> {
        TrustedProxies::parse(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn addresses_and_networks_of_both_families_are_believed() {
        let proxies = parse(&["10.0.0.4", "192.168.0.0/16", "fd00::/8", ""]).unwrap();
        for (address, trusted) in [
            ("10.0.0.4", true),
            ("10.0.0.5", false),
            ("192.168.7.7", true),
            ("::ffff:192.168.7.7", true),
            ("fd12::1", true),
            ("fe80::1", false),
        ] {
            assert_eq!(proxies.trust(address.parse().unwrap()), trusted, "{address}");
        }
        assert!(!TrustedProxies::default().trust([127, 0, 0, 1].into()));
    }

    #[test]
    fn what_is_no_network_is_named() {
        for wrong in ["10.0.0.0/33", "balancer.internal", "*", "10.0.0.4:80", "10.0.0"] {
            let error = parse(&["10.0.0.1", wrong]).unwrap_err();
            assert_eq!((error.flag, error.found), ("--trusted-proxy", format!("{wrong:?}")));
        }
    }
}
