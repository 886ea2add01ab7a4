//! What a server is started with, in one short text: an agent takes over a warm server only if it would start the same one.
//!
//! It covers the command line but for id, port and secret, the environment, the user, the limits, and the executable itself, which may have
//! been replaced at its path. Pool, labels and the form of endpoints are no part of it: they are given with the claim.
//!
//! Invariant: the form that is hashed is fixed, because agents of different builds compare it. One that changes ends the warm servers of every
//! node at the next upgrade, and nothing worse.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use model::{RendererType, SpawnId};
use ring::digest::{Context, SHA256};

use super::args::{Fixed, PerSpawn, command_line};
use super::environment::environment;
use crate::config::{Config, Launcher};

/// Bytes of the digest that are kept: two different settings never have the same.
const KEPT: usize = 16;

/// The settings of an agent that shape its servers.
pub(crate) fn fingerprint(config: &Config, fixed: &Fixed) -> String {
    let mut form = Form(Context::new(&SHA256));
    if let Launcher::Executable(executable) = &config.launcher {
        form.text(executable);
        form.list(std::fs::metadata(executable).into_iter().flat_map(|file| {
            [
                file.dev(),
                file.ino(),
                file.size(),
                file.mtime().cast_unsigned(),
                file.mtime_nsec().cast_unsigned(),
            ]
            .map(|number| number.to_string())
        }));
        form.list(environment(config, executable).into_iter().flat_map(|(name, value)| [name, value]));
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
        form.list(command_line(fixed, &any).into_iter().skip(2));
    }
    form.list(config.spawn_users.iter().map(ToString::to_string));
    form.list(config.spawn_memory.map(|bytes| bytes.to_string()));
    form.list(config.spawn_file_size.map(|bytes| bytes.to_string()));
    form.list(config.spawn_cpus.map(|share| share.to_bits().to_string()));
    form.list(&config.cgroup);
    form.text(config.gpus.to_string());
    form.digest()
}

/// What is hashed: texts, each after its length, so that no two lists of texts read alike.
struct Form(Context);

impl Form {
    fn text(&mut self, text: impl AsRef<OsStr>) {
        let bytes = text.as_ref().as_bytes();
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn list(&mut self, texts: impl IntoIterator<Item: AsRef<OsStr>>) {
        let texts: Vec<_> = texts.into_iter().collect();
        self.0.update(&(texts.len() as u64).to_le_bytes());
        texts.into_iter().for_each(|text| self.text(text));
    }

    fn digest(self) -> String {
        let digest = self.0.finish();
        digest.as_ref().iter().take(KEPT).map(|byte| format!("{byte:02x}")).collect()
    }
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

    /// Whatever toolchain has built it: a change of this value ends all warm servers once.
    #[test]
    fn it_is_the_same_in_every_build() {
        let config = |c: &mut Config| {
            c.egl = true;
            c.env.push(("A".to_owned(), "b".to_owned()));
        };
        assert_eq!(of(config), "59bf1785a87ba49b48b85d590f188765");
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
