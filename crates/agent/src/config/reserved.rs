//! Options of the server that only the agent sets. A server refuses to start when one comes twice, so `--arg` must not set them.

/// Options the agent sets itself, on some spawns at least.
pub(crate) const OURS: &[&str] = &[
    "--id",
    "--sc-port",
    "--liveliness-endpoint",
    "--liveliness-update-frequency",
    "--model-search-directories",
    "--initial-use-duration",
    "--log-stdout-category-mask",
    "--model-file",
    "--session-token",
    "--csr",
    "--ssr",
    "--ssr-gpu-index",
    "--ssr-egl",
];

/// The option that an extra argument would set a second time.
pub(crate) fn set_by_agent(arg: &str, license_file: bool) -> Option<&'static str> {
    let name = arg.split_once('=').map_or(arg, |(name, _)| name);
    if license_file && matches!(name, "--license" | "--license-file") {
        return Some("the licence when --license-file is given");
    }
    OURS.iter().find(|ours| **ours == name).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extra_argument_that_would_come_twice_is_noticed() {
        assert_eq!(set_by_agent("--id", false), Some("--id"));
        assert_eq!(set_by_agent("--csr=false", false), Some("--csr"));
        assert_eq!(set_by_agent("--license=KEY", false), None);
        assert!(set_by_agent("--license=KEY", true).is_some());
        assert_eq!(set_by_agent("--workspace-dir", true), None);
    }
}
