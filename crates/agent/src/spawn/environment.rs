//! The environment of spawned servers: nothing of the agent's own but what they need to run, and the node's name.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use super::xauthority;
use crate::config::Config;

/// All variables of a server but the one that marks its processes.
pub(crate) fn environment(config: &Config, executable: &Path) -> BTreeMap<OsString, OsString> {
    let libraries = executable.parent().map(Path::to_path_buf).unwrap_or_default();
    let named = |name: &str, value: OsString| (OsString::from(name), value);
    let mut environment = BTreeMap::from([
        named("HATCHERY_NODE", OsString::from(config.node.as_str())),
        named("LD_LIBRARY_PATH", libraries.clone().into()),
        named("DYLD_LIBRARY_PATH", libraries.into()),
    ]);
    // With EGL a display does harm.
    if !config.egl {
        let display = std::env::var_os("DISPLAY").filter(|display| !display.is_empty());
        environment.extend([named("DISPLAY", display.unwrap_or_else(|| ":0".into()))]);
        environment.extend(xauthority::of_agent().map(|file| named("XAUTHORITY", file.into())));
    }
    environment.extend(config.env.iter().map(|(name, value)| named(name, value.into())));
    environment
}
