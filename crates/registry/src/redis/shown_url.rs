//! The address of a Redis as it may be shown: in an error, in the log.

/// The address without its passwords. One that lacks its `@` by mistake has its password where a port would be.
pub(super) fn without_password(url: &str) -> String {
    let url = match url.split_once("sentinel-password=") {
        Some((before, _)) => format!("{before}sentinel-password=…"),
        None => url.to_owned(),
    };
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) if has_only_ports(host) => format!("{scheme}://…@{host}"),
        (None, Some((_, host))) if has_only_ports(host) => format!("…@{host}"),
        (Some((scheme, _)), Some(_)) => format!("{scheme}://…"),
        (None, Some(_)) => "…".to_owned(),
        (Some((scheme, rest)), None) if !has_only_ports(rest) => format!("{scheme}://…"),
        (None, None) if !has_only_ports(&url) => "…".to_owned(),
        (_, None) => url,
    }
}

/// Whether only ports stand behind the colons of these hosts.
fn has_only_ports(rest: &str) -> bool {
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    authority.split(',').all(|host| {
        let behind =
            host.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(host, |(_, port)| port);
        behind.split_once(':').is_none_or(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    use super::without_password;

    #[test]
    fn a_password_is_not_shown_also_where_the_address_is_wrong() {
        for (url, shown) in [
            ("redis://u:secret@h:1/2", "redis://…@h:1/2"),
            ("u:secret@h", "…@h"),
            ("redis://u:secret.10.0.0.5:6379", "redis://…"),
            ("redis://u:secret?h", "redis://…"),
            ("u:secret", "…"),
            ("redis://u@h:secret", "redis://…"),
            ("redis-sentinel://h/m?sentinel-password=secret", "redis-sentinel://h/m?sentinel-password=…"),
            (
                "redis-cluster://10.0.0.5:7000,[::1]:7001,[::1],c",
                "redis-cluster://10.0.0.5:7000,[::1]:7001,[::1],c",
            ),
            ("localhost:6379", "localhost:6379"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }
}
