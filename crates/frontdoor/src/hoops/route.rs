//! What a path asks for, by the vendor's rules: letters count alike in either case, and one slash at the end counts for nothing.
//! Paths are taken as they come, without decoding, as the vendor's router does.

use model::{NodeId, SpawnId};

use crate::viewers;

/// A path of the vendor's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known<'a> {
    /// `POST /service`, the older name, and `POST /api/spawn`.
    Spawn(&'static str),
    Status,
    Spawns,
    Help,
    Gc,
    Shutdown,
    /// `POST /api/spawns/:id`, where servers report to the vendor's server.
    Report(&'a str),
}

impl<'a> Known<'a> {
    /// `None`: the vendor's interface has no such path.
    pub(super) fn of(path: &'a str) -> Option<Self> {
        let path = path.strip_suffix('/').unwrap_or(path);
        let is = |known: &str| path.eq_ignore_ascii_case(known);
        Some(match path {
            _ if is("/service") => Self::Spawn("hoops:/service"),
            _ if is("/api/spawn") => Self::Spawn("hoops:/api/spawn"),
            _ if is("/api/status") => Self::Status,
            _ if is("/api/spawns") => Self::Spawns,
            _ if is("/api/help") => Self::Help,
            _ if is("/api/gc") => Self::Gc,
            _ if is("/api/shutdown") => Self::Shutdown,
            _ => {
                const BASE: &str = "/api/spawns/";
                let base = path.get(..BASE.len()).filter(|base| base.eq_ignore_ascii_case(BASE))?;
                let id = &path[base.len()..];
                (!id.is_empty() && !id.contains('/')).then_some(Self::Report(id))?
            }
        })
    }

    /// The methods that are served there, as `Allow` lists them.
    pub(super) fn allow(self) -> &'static str {
        match self {
            Self::Status | Self::Spawns | Self::Help => "GET,HEAD",
            Self::Spawn(_) | Self::Gc | Self::Shutdown | Self::Report(_) => "POST",
        }
    }

    /// In metrics and logs.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Spawn(label) => label,
            Self::Status => "hoops:/api/status",
            Self::Spawns => "hoops:/api/spawns",
            Self::Help => "hoops:/api/help",
            Self::Gc => "hoops:/api/gc",
            Self::Shutdown => "hoops:/api/shutdown",
            Self::Report(_) => "hoops:/api/spawns/{id}",
        }
    }
}

/// Where the upgrade of a connection leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum UpgradeTarget {
    /// To a spawn of its own.
    New,
    /// To the spawn of this URL, whose token it shows.
    Viewer { node: NodeId, spawn: SpawnId, token: String },
    /// To the spawn that has this port.
    Port(u16),
    /// Nowhere: what stands below a prefix of ports is none.
    NoPort,
    /// Nowhere: a viewer's URL that was damaged on its way.
    NoViewer,
}

impl UpgradeTarget {
    /// `prefixes`: first parts of paths whose second part is a port, in lower case.
    pub(super) fn of(path: &str, prefixes: &[String]) -> Self {
        let (first, rest) = path.strip_prefix('/').unwrap_or(path).split_once('/').unwrap_or((path, ""));
        if !prefixes.iter().any(|prefix| prefix.eq_ignore_ascii_case(first)) {
            let damaged = if is_below_viewers(path) { Self::NoViewer } else { Self::New };
            return viewer(path).unwrap_or(damaged);
        }
        let (port, below) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        // A consumer that puts the path of a viewer's URL behind the port has the token in it, whatever the port.
        // The path may be below that of the public URL.
        if let Some(viewer) = below.match_indices('/').find_map(|(at, _)| viewer(&below[at..])) {
            return viewer;
        }
        // `+1` parses as a number in Rust.
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        match port.parse() {
            Ok(port) if digits && port > 0 => Self::Port(port),
            _ => Self::NoPort,
        }
    }

    /// In metrics and logs.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::New => "hoops:proxy",
            Self::Viewer { .. } | Self::NoViewer => "hoops:viewer",
            Self::Port(_) | Self::NoPort => "hoops:port",
        }
    }
}

/// Whether the path is below that of viewers' URLs, in whatever case and with however many slashes in front: it was meant to lead to a
/// spawn that there is, and may start none.
fn is_below_viewers(path: &str) -> bool {
    let (first, rest) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
    first.eq_ignore_ascii_case("s") && !rest.is_empty()
}

fn viewer(path: &str) -> Option<UpgradeTarget> {
    let (node, spawn, token) = viewers::parts(path)?;
    Some(UpgradeTarget::Viewer { node, spawn, token: token.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_the_vendors_in_either_case_and_with_a_slash_at_the_end() {
        for (path, known) in [
            ("/service", Some(Known::Spawn("hoops:/service"))),
            ("/SERVICE/", Some(Known::Spawn("hoops:/service"))),
            ("/api/Spawn", Some(Known::Spawn("hoops:/api/spawn"))),
            ("/Api/Status/", Some(Known::Status)),
            ("/api/spawns", Some(Known::Spawns)),
            ("/api/spawns/", Some(Known::Spawns)),
            ("/API/SPAWNS/aB1", Some(Known::Report("aB1"))),
            ("/api/spawns/a/", Some(Known::Report("a"))),
            ("/api/spawns//a", None),
            ("/api/spawns/a/b", None),
            ("/service//", None),
            ("//service", None),
            ("/%73ervice", None),
            ("/", None),
            ("", None),
            ("/api", None),
            ("/api/spawns\u{e9}", None),
        ] {
            assert_eq!(Known::of(path), known, "{path}");
        }
    }

    #[test]
    fn an_upgrade_leads_to_a_port_a_viewers_own_spawn_or_a_new_one() {
        let prefixes = ["wsproxy", "ws"].map(str::to_owned);
        let id = SpawnId::mint();
        let of = |path: &str| UpgradeTarget::of(path, &prefixes);
        for path in
            ["", "/", "/any/path", "/ws", "/wsx/11000", "/%77s/11000", "//ws/11000", "/s", "/s/", "/sx/a/b/c"]
        {
            assert_eq!(of(path), UpgradeTarget::New, "{path}");
        }
        let damaged = [
            format!("/s/node/{id}"),
            format!("/s/node/{id}/"),
            format!("//s/node/{id}/token"),
            format!("/S/node/{id}/token"),
        ];
        for path in damaged.iter().map(String::as_str).chain(["/s/a/b/c"]) {
            assert_eq!(of(path), UpgradeTarget::NoViewer, "{path}");
        }
        for (path, port) in
            [("/wsproxy/11000", 11000), ("/WS/55001/", 55001), ("/WsProxy/1/any/path", 1), ("/ws/00080", 80)]
        {
            assert_eq!(of(path), UpgradeTarget::Port(port), "{path}");
        }
        for path in ["/ws/", "/ws/0", "/ws/65536", "/ws/-1", "/ws/+1", "/ws/1a", "/ws//11000", "/ws/port"] {
            assert_eq!(of(path), UpgradeTarget::NoPort, "{path}");
        }
        let (node, token) = ("node-a".parse().unwrap(), "t0".repeat(16));
        let viewer = UpgradeTarget::Viewer { node, spawn: id, token: token.clone() };
        for base in ["", "/ws/443", "/wsproxy/8080", "/ws/x", "/ws/443/below/s"] {
            assert_eq!(of(&format!("{base}/s/node-a/{id}/{token}")), viewer, "{base}");
        }
        for path in
            [format!("/s/node-a/{id}/"), format!("/s/node-a/{id}/{token}/more"), format!("/s/A B/{id}/t")]
        {
            assert_eq!(of(&path), UpgradeTarget::NoViewer, "{path}");
        }
    }
}
