//! Where a front door is.

use std::str::FromStr;

use hyper::Uri;

/// Where a front door listens: `http://host[:port][/prefix]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// Without the slash at the end.
    base: String,
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wants = "wants http://host[:port]";
        let uri: Uri = text.parse().map_err(|e| format!("{wants}, not {text:?}: {e}"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(format!("{wants}: this build speaks http only, {text:?} asks for https"));
            }
            _ => return Err(format!("{wants}, not {text:?}")),
        }
        match uri.authority() {
            Some(authority) if authority.as_str().contains('@') => {
                return Err(format!("{wants}, without a user"));
            }
            Some(authority) if !authority.host().is_empty() => {}
            _ => return Err(format!("{wants}, not {text:?}: there is no host")),
        }
        if uri.query().is_some() {
            return Err(format!("{wants}, without a query"));
        }
        Ok(Self { base: text.trim_end_matches('/').to_owned() })
    }
}

impl Server {
    /// Where its live feed is.
    pub(crate) fn live_url(&self) -> String {
        format!("ws{}/v1/live", self.base.trim_start_matches("http"))
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_an_http_url() {
        for good in ["http://127.0.0.1:8080", "http://door", "http://door/prefix/", "http://[::1]:1"] {
            assert!(good.parse::<Server>().is_ok(), "{good}");
        }
        for bad in ["", "door:8080", "ftp://door", "http://", "http://me@door", "http://door?x=1", "/x"] {
            assert!(bad.parse::<Server>().is_err(), "{bad}");
        }
        let https = "https://door".parse::<Server>().unwrap_err();
        assert!(https.contains("http only"), "{https}");
        let server = "http://door/prefix/".parse::<Server>().unwrap();
        assert_eq!(server.to_string(), "http://door/prefix");
        assert_eq!(server.live_url(), "ws://door/prefix/v1/live");
    }
}
