//! What a server is started with, in one short text: an agent takes over a warm server only if it would start the same one.
//!
//! It covers the command line but for id, port and secret, the environment, the user, the limits, and the executable itself, which may have
//! been replaced at its path. Pool, labels and the form of endpoints are no part of it: they are given with the claim.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;

use model::{RendererType, SpawnId};

use super::args::{Fixed, PerSpawn, command_line};
use super::environment::environment;
use crate::config::{Config, Launcher};

/// The settings of an agent that shape its servers.
pub(crate) fn fingerprint(config: &Config, fixed: &Fixed) -> String {
    let mut hasher = DefaultHasher::new();
    if let Launcher::Executable(executable) = &config.launcher {
        executable.hash(&mut hasher);
        if let Ok(file) = std::fs::metadata(executable) {
            (file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()).hash(&mut hasher);
        }
        environment(config, executable).hash(&mut hasher);
    }
    for renderer in [RendererType::Csr, RendererType::Ssr] {
        let any = PerSpawn {
            id: SpawnId::mint(),
            port: 0,
            renderer,
            gpu: None,
            model: None,
            session_token: None,
            secret: None,
            is_warm: true,
        };
        // Its id comes first.
        command_line(fixed, &any)[2..].hash(&mut hasher);
    }
    let users = config.spawn_users.as_ref().map(ToString::to_string);
    let cpus = config.spawn_cpus.map(f64::to_bits);
    (users, config.spawn_memory, cpus, &config.cgroup, config.gpus).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn of(change: impl FnOnce(&mut Config)) -> String {
        let launcher = Launcher::Executable("/opt/sc/ts3d_sc_server".into());
        let mut config = Config::new("n".parse().unwrap(), launcher, "/s".into());
        change(&mut config);
        fingerprint(&config, &Fixed::new(&config, "http://127.0.0.1:7071".to_owned()))
    }

    #[test]
    fn it_is_another_one_for_another_server_and_the_same_for_another_pool() {
        let plain = of(|_| ());
        type Change = fn(&mut Config);
        let others: [Change; 6] = [
            |c| c.env.push(("A".to_owned(), "b".to_owned())),
            |c| c.args.push("--sc-verbose-logging".to_owned()),
            |c| c.license_file = Some("/k".into()),
            |c| c.ping_interval = Duration::from_secs(1),
            |c| c.spawn_memory = Some(1 << 30),
            |c| c.launcher = Launcher::Executable("/opt/other/ts3d_sc_server".into()),
        ];
        for other in others {
            assert_ne!(of(other), plain);
        }
        assert_eq!(of(|c| c.pool = "other".to_owned()), plain);
        assert_eq!(of(|c| c.warm = [(RendererType::Csr, 3)].into()), plain);
    }
}
