//! The cookie file of the X server on whose display servers draw: without it an X server that asks for a cookie admits no client.

use std::env;
use std::path::{Path, PathBuf};

/// The agent's own: `XAUTHORITY`, or else `.Xauthority` in its home directory, where there is one.
pub(crate) fn of_agent() -> Option<PathBuf> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    find(variable("XAUTHORITY"), variable("HOME"), Path::exists)
}

fn find(named: Option<PathBuf>, home: Option<PathBuf>, exists: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    named.or_else(|| home.map(|home| home.join(".Xauthority")).filter(|file| exists(file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_is_where_x_clients_look_for_it() {
        let path = |text: &str| Some(PathBuf::from(text));
        for (named, home, there, wanted) in [
            (path("/run/gdm/auth"), path("/home/a"), true, path("/run/gdm/auth")),
            (None, path("/home/a"), true, path("/home/a/.Xauthority")),
            (None, path("/home/a"), false, None),
            (None, None, true, None),
        ] {
            assert_eq!(find(named, home, |_| there), wanted);
        }
    }
}
