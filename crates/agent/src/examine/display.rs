//! What server-side rendering needs of a machine: GPUs, and a display or EGL.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::{Path, PathBuf};

use model::Finding;

use crate::config::{Config, Launcher};

const NO_SSR: &str = "a request for server-side rendering that is placed here fails";
/// Where the loader looks for libraries on the usual distributions.
const LIBRARIES: [&str; 7] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
    "/usr/local/nvidia/lib64",
];

/// Whether the GPUs that are spread over are there.
pub(super) fn gpus(config: &Config) -> Vec<Finding> {
    if !config.ssr || config.launcher == Launcher::Nothing {
        return Vec::new();
    }
    judge_gpus(config, &devices(Path::new("/dev")))
}

/// The devices of GPUs: NVIDIA's own where there are any, else those that render.
fn devices(dev: &Path) -> Vec<PathBuf> {
    let named = |dir: &Path, prefix: &str| {
        let names = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let is = |path: &PathBuf| {
            let number = path.file_name().and_then(|name| name.to_str()?.strip_prefix(prefix));
            number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
        };
        let mut found: Vec<PathBuf> = names.filter(is).collect();
        found.sort();
        found
    };
    let nvidia = named(dev, "nvidia");
    if nvidia.is_empty() { named(&dev.join("dri"), "renderD") } else { nvidia }
}

fn judge_gpus(config: &Config, found: &[PathBuf]) -> Vec<Finding> {
    let there = u32::try_from(found.len()).unwrap_or(u32::MAX);
    let count = |count: u32| format!("{count} {}", if count == 1 { "GPU" } else { "GPUs" });
    if config.gpus > there {
        return vec![Finding::problem(
            "gpus",
            format!(
                "--gpus is {}, and this machine shows {} (/dev/nvidia*, /dev/dri/renderD*)",
                config.gpus,
                count(there)
            ),
            "spawns are given the number of a GPU that is not there, and fail",
            "lower --gpus, load the driver (`nvidia-smi`), or give the container its devices (--gpus all, --device /dev/dri)",
        )];
    }
    let users = config.spawn_users.as_ref();
    let shut = found.iter().find_map(|device| users.and_then(|users| users.shut_out_of(device)));
    if let Some(why) = shut {
        return vec![Finding::problem(
            "gpus",
            format!("spawns cannot use a GPU: {why}"),
            NO_SSR,
            "give spawns the group of the device: --spawn-user FIRST-LAST:render (or video)",
        )];
    }
    if there == 0 {
        return vec![Finding::warning(
            "gpus",
            "server-side rendering is offered (--ssr), and this machine shows no GPU",
            "servers render on the processor, a few pictures a second",
            "start the agent with --ssr false, or load the driver of the GPU",
        )];
    }
    vec![Finding::ok("gpus", format!("{} for --gpus {}", count(there), config.gpus))]
}

/// Whether servers can draw: a display, or EGL.
pub(super) fn display(config: &Config) -> Vec<Finding> {
    if !config.ssr || config.launcher == Launcher::Nothing {
        return Vec::new();
    }
    if config.egl { vec![egl(config)] } else { on_display(config) }
}

fn egl(config: &Config) -> Finding {
    let beside = match &config.launcher {
        Launcher::Executable(path) => path.parent().map(Path::to_path_buf),
        Launcher::Nothing | Launcher::Simulated(_) => None,
    };
    let path = variable(config, "LD_LIBRARY_PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = env::split_paths(&path).chain(beside).collect();
    places.extend(LIBRARIES.map(PathBuf::from));
    match places.iter().map(|dir| dir.join("libEGL.so.1")).find(|file| file.exists()) {
        Some(file) => Finding::ok("display", format!("servers draw through EGL ({})", file.display())),
        None => Finding::problem(
            "display",
            "--egl is on, and libEGL.so.1 is in none of the usual places",
            NO_SSR,
            "install libegl1 and the driver's own EGL (libnvidia-gl, mesa), or start the agent with --ssr false",
        ),
    }
}

/// A variable as servers get it.
fn variable(config: &Config, name: &str) -> Option<OsString> {
    config.env.iter().rev().find(|(given, _)| given == name).map(|(_, value)| value.into())
}

fn on_display(config: &Config) -> Vec<Finding> {
    let of_agent = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let display = variable(config, "DISPLAY").or_else(|| of_agent("DISPLAY")).unwrap_or_else(|| ":0".into());
    let display = display.to_string_lossy().into_owned();
    let Some(number) = local(&display) else {
        return vec![Finding::warning(
            "display",
            format!("servers draw on {display} (DISPLAY), which is not looked at from here"),
            "whether an X server answers there is not known, and pictures of every server go over the network",
            "use a display of this machine, or --egl",
        )];
    };
    let path = format!("/tmp/.X11-unix/X{number}");
    let by_name =
        SocketAddr::from_abstract_name(&path).and_then(|address| UnixStream::connect_addr(&address));
    if by_name.or_else(|_| UnixStream::connect(&path)).is_err() {
        return vec![Finding::problem(
            "display",
            format!("no X server answers on display {display}, and --egl is off"),
            NO_SSR,
            "start the agent with --ssr false, or with --egl on a machine without a screen, or start the X server and name it in DISPLAY",
        )];
    }
    let cookies =
        variable(config, "XAUTHORITY").or_else(|| crate::spawn::xauthority::of_agent().map(Into::into));
    if let (Some(users), Some(file)) = (&config.spawn_users, cookies)
        && let Some(why) = users.shut_out_of(Path::new(&file))
    {
        return vec![Finding::problem(
            "display",
            format!("spawns cannot read the X server's cookie: {why}"),
            NO_SSR,
            "let their group read it (chmod 0640), or let them in with xhost",
        )];
    }
    vec![Finding::ok("display", format!("an X server answers on display {display}"))]
}

/// The number of a display of this machine: `:0`, `unix:1.0`.
fn local(display: &str) -> Option<&str> {
    let (host, rest) = display.rsplit_once(':')?;
    let number = rest.split('.').next().filter(|number| number.bytes().all(|b| b.is_ascii_digit()))?;
    (host.is_empty() || host == "unix").then_some(number).filter(|number| !number.is_empty())
}

#[cfg(test)]
mod tests {
    use model::Level;

    use super::*;

    fn config(gpus: u32) -> Config {
        let launcher = Launcher::Executable("/opt/sc/ts3d_sc_server".into());
        Config { gpus, ..Config::new("n".parse().unwrap(), launcher, "/s".into()) }
    }

    #[test]
    fn a_gpu_is_a_device_with_a_number() {
        let dev = tempfile::tempdir().unwrap();
        let make = |name: &str| fs::write(dev.path().join(name), "").unwrap();
        fs::create_dir(dev.path().join("dri")).unwrap();
        for name in ["dri/card0", "dri/renderD128", "dri/renderD129", "nvidiactl", "nvidia-uvm", "null"] {
            make(name);
        }
        assert_eq!(devices(dev.path()).len(), 2);
        for name in ["nvidia0", "nvidia1", "nvidia10"] {
            make(name);
        }
        let all = devices(dev.path());
        assert_eq!(all.len(), 3, "those of the vendor stand for themselves: {all:?}");
        for (gpus, found, level) in [
            (0, 3, Level::Ok),
            (3, 3, Level::Ok),
            (4, 3, Level::Problem),
            (0, 0, Level::Warning),
            (1, 0, Level::Problem),
        ] {
            let findings = judge_gpus(&config(gpus), &all[..found]);
            assert_eq!(findings[0].level, level, "{gpus} of {found}: {findings:?}");
        }
    }

    #[test]
    fn a_display_of_this_machine_has_a_number() {
        for (display, number) in [
            (":0", Some("0")),
            (":12.1", Some("12")),
            ("unix:3", Some("3")),
            ("far:0", None),
            ("", None),
            (":", None),
            (":x", None),
        ] {
            assert_eq!(local(display), number, "{display}");
        }
    }
}
