//! The checks on a configuration that need nothing of the machine. Each error names the flag, what was expected and what was given.

use std::ops::RangeInclusive;
use std::time::Duration;

use model::{RendererType, timing};

use super::{Config, ConfigError, Launcher};
use crate::address::{host_of, is_host, is_host_and_port};
use crate::config::reserved::set_by_agent;
use crate::ports;

/// Nothing starts with less.
const MIN_MEMORY: u64 = 1 << 20;
/// A spawn's output is cut at 8 MiB, and that must be seen before the server meets its limit.
const MIN_FILE_SIZE: u64 = 32 << 20;

impl Config {
    /// Checks everything that can be checked without touching the machine.
    ///
    /// # Errors
    /// The first flag whose value will not do.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_capacity()?;
        self.check_addresses()?;
        self.check_names()?;
        self.check_durations()?;
        self.check_process()
    }

    fn check_capacity(&self) -> Result<(), ConfigError> {
        if self.slots == 0 {
            return Err(ConfigError::new("--slots", "expected at least 1, got 0"));
        }
        if self.starts == 0 {
            return Err(ConfigError::new("--starts", "expected at least 1, got 0"));
        }
        self.check_warm()?;
        if *self.ports.start() == 0 || self.ports.is_empty() {
            let problem = format!("expected FIRST-LAST with 1 <= FIRST <= LAST, got {}", range(&self.ports));
            return Err(ConfigError::new("--ports", problem));
        }
        let usable = ports::usable(&self.ports).count();
        if usable < usize::try_from(self.slots).unwrap_or(usize::MAX) {
            let problem = format!(
                "it must hold a port for each of the {} slots, but {} has only {usable} that browsers connect to",
                self.slots,
                range(&self.ports)
            );
            return Err(ConfigError::new("--ports", problem));
        }
        if let Some((users, count)) =
            self.spawn_users.as_ref().and_then(|users| Some((users, users.count()?)))
            && count < u64::from(self.slots)
        {
            let problem = format!(
                "it must hold a user for each of the {} slots (--slots), but {users} has only {count}",
                self.slots
            );
            return Err(ConfigError::new("--spawn-user", problem));
        }
        if !self.csr && !self.ssr {
            return Err(ConfigError::new(
                "--csr",
                "--csr and --ssr must not both be false: nothing could be spawned",
            ));
        }
        if self.gpus > 0 && self.gpu_slots == 0 {
            return Err(ConfigError::new("--gpu-slots", "expected at least 1 with --gpus, got 0"));
        }
        if self.gpus > 1024 {
            return Err(ConfigError::new("--gpus", format!("expected at most 1024, got {}", self.gpus)));
        }
        Ok(())
    }

    fn check_warm(&self) -> Result<(), ConfigError> {
        let count = |renderer| self.warm.get(&renderer).copied().unwrap_or(0);
        let (csr, ssr) = (count(RendererType::Csr), count(RendererType::Ssr));
        let all = u64::from(csr) + u64::from(ssr);
        let wrong = |problem: String| Err(ConfigError::new("--warm", problem));
        if all > u64::from(self.slots) {
            return wrong(format!("expected at most the {} slots (--slots) together, got {all}", self.slots));
        }
        if csr > 0 && !self.csr {
            return wrong(format!("it must not keep csr={csr}: --csr is false"));
        }
        if ssr > 0 && !self.ssr {
            return wrong(format!("it must not keep ssr={ssr}: --ssr is false"));
        }
        let gpu_slots = u64::from(self.gpus) * u64::from(self.gpu_slots);
        if self.gpus > 0 && u64::from(ssr) > gpu_slots {
            return wrong(format!("it must keep at most the {gpu_slots} GPU slots of ssr, not {ssr}"));
        }
        if all > 0 && self.launcher == Launcher::Nothing {
            return wrong("it needs --executable: without processes there is nothing to keep".to_owned());
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), ConfigError> {
        let listeners = [
            ("--listen", self.listen),
            ("--admin-listen", self.admin_listen),
            ("--liveliness-listen", self.liveliness_listen),
        ];
        for (i, (flag, addr)) in listeners.iter().enumerate() {
            if let Some((other, _)) =
                listeners[..i].iter().find(|(_, taken)| taken == addr && addr.port() != 0)
            {
                return Err(ConfigError::new(flag, format!("it must not be the same as {other}, {addr}")));
            }
        }
        if let Some(url) = &self.advertise {
            host_of(url).map_err(|why| {
                ConfigError::new(
                    "--advertise",
                    format!("expected a URL like http://10.0.0.7:7070, got {url:?}: {why}"),
                )
            })?;
        }
        if let Some(relay) = &self.viewer_relay {
            if !is_host_and_port(relay) {
                let problem = format!("expected HOST:PORT, for example node-a.example:8091, got {relay:?}");
                return Err(ConfigError::new("--viewer-relay", problem));
            }
            if self.tls.grpc.is_none() {
                return Err(ConfigError::new(
                    "--viewer-relay",
                    "it needs --tls-cert, --tls-key and --tls-client-ca: the relay is known by its certificate",
                ));
            }
        }
        if let Some(host) = &self.public_host
            && !is_host(host)
        {
            return Err(ConfigError::new(
                "--public-host",
                format!("expected a host name or address, got {host:?}"),
            ));
        }
        Ok(())
    }

    fn check_names(&self) -> Result<(), ConfigError> {
        model::id::check_name(&self.pool)
            .map_err(|e| ConfigError::new("--pool", format!("the pool {:?} {e}", self.pool)))?;
        for (k, v) in &self.labels {
            model::node::check_label(k, v).map_err(|e| ConfigError::new("--label", e))?;
        }
        Ok(())
    }

    fn check_durations(&self) -> Result<(), ConfigError> {
        for (flag, duration) in [
            ("--ready-timeout", self.ready_timeout),
            ("--ping-interval", self.ping_interval),
            ("--heartbeat", self.heartbeat),
            ("--warm-age", self.warm_age),
        ] {
            if duration.is_zero() {
                return Err(ConfigError::new(flag, "expected a duration longer than nothing, got 0s"));
            }
        }
        for (flag, duration) in [
            ("--ready-timeout", self.ready_timeout),
            ("--ping-interval", self.ping_interval),
            ("--stop-grace", self.stop_grace),
            ("--initial-use", self.initial_use),
            ("--warm-age", self.warm_age),
        ] {
            if duration > Duration::from_secs(7 * 24 * 3600) {
                let given = humantime::format_duration(duration);
                return Err(ConfigError::new(flag, format!("expected at most 7days, got {given}")));
            }
        }
        let kept = timing::MIN_KEEP_ENDED..=timing::MAX_KEEP_ENDED;
        if !kept.contains(&self.keep_ended) {
            let [least, most, given] =
                [*kept.start(), *kept.end(), self.keep_ended].map(humantime::format_duration);
            return Err(ConfigError::new(
                "--keep-ended",
                format!("expected from {least} to {most}, got {given}"),
            ));
        }
        Ok(())
    }

    fn check_process(&self) -> Result<(), ConfigError> {
        if self.spawn_memory.is_some_and(|bytes| bytes < MIN_MEMORY) {
            return Err(ConfigError::new("--spawn-memory", "expected at least 1MiB, got less"));
        }
        if self.spawn_file_size.is_some_and(|bytes| bytes < MIN_FILE_SIZE) {
            return Err(ConfigError::new("--spawn-file-size", "must be at least 32MiB, or 0 for no limit"));
        }
        if let Some(cpus) = self.spawn_cpus.filter(|cpus| !(0.01..=4096.0).contains(cpus)) {
            return Err(ConfigError::new("--spawn-cpus", format!("expected from 0.01 to 4096, got {cpus}")));
        }
        for dir in &self.model_dirs {
            // The server joins directories with `;` and refuses `*`.
            if dir.to_string_lossy().contains([';', '*', '\0']) {
                let problem = format!("it must not contain ';' or '*', as {} does", dir.display());
                return Err(ConfigError::new("--model-dir", problem));
            }
        }
        for (key, value) in &self.env {
            if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
                return Err(ConfigError::new("--env", format!("expected NAME=VALUE, got {key:?}={value:?}")));
            }
        }
        for arg in &self.args {
            if let Some(ours) = set_by_agent(arg, self.license_file.is_some()) {
                return Err(ConfigError::new("--arg", format!("it must not set {ours}: the agent does")));
            }
            if arg.contains('\0') {
                return Err(ConfigError::new("--arg", format!("it must not contain NUL, as {arg:?} does")));
            }
        }
        Ok(())
    }
}

fn range(ports: &RangeInclusive<u16>) -> String {
    format!("{}-{}", ports.start(), ports.end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::SpawnUsers;

    fn good() -> Config {
        Config::new(
            "node-a".parse().unwrap(),
            Launcher::Executable("/opt/sc/ts3d_sc_server".into()),
            "/tmp/state".into(),
        )
    }

    #[test]
    fn the_defaults_are_good() {
        assert_eq!(good().check(), Ok(()));
    }

    #[test]
    fn a_wrong_value_names_its_flag() {
        type Spoil = fn(&mut Config);
        let cases: &[(&str, Spoil)] = &[
            ("--slots", |c| c.slots = 0),
            ("--starts", |c| c.starts = 0),
            ("--warm", |c| c.warm = [(RendererType::Csr, 20), (RendererType::Ssr, 13)].into()),
            ("--warm", |c| {
                c.ssr = false;
                c.warm = [(RendererType::Ssr, 1)].into();
            }),
            ("--warm", |c| {
                c.gpus = 1;
                c.warm = [(RendererType::Ssr, 5)].into();
            }),
            ("--warm", |c| {
                c.launcher = Launcher::Nothing;
                c.warm = [(RendererType::Csr, 1)].into();
            }),
            ("--warm-age", |c| c.warm_age = Duration::ZERO),
            ("--warm-age", |c| c.warm_age = Duration::MAX),
            ("--ports", |c| c.ports = 0..=10),
            ("--ports", |c| c.ports = 55000..=55030),
            ("--ports", |c| {
                c.ports = 6665..=6670;
                c.slots = 2;
            }),
            ("--spawn-user", |c| c.spawn_users = Some(SpawnUsers::Each((20_000..=20_030).into()))),
            ("--csr", |c| {
                c.csr = false;
                c.ssr = false;
            }),
            ("--gpu-slots", |c| {
                c.gpus = 1;
                c.gpu_slots = 0;
            }),
            ("--admin-listen", |c| c.admin_listen = c.listen),
            ("--liveliness-listen", |c| c.liveliness_listen = c.admin_listen),
            ("--advertise", |c| c.advertise = Some("10.0.0.7:7070".into())),
            ("--advertise", |c| c.advertise = Some("ftp://x".into())),
            ("--viewer-relay", |c| c.viewer_relay = Some("node-a".into())),
            ("--viewer-relay", |c| c.viewer_relay = Some("node-a:8091".into())),
            ("--public-host", |c| c.public_host = Some("a/b".into())),
            ("--pool", |c| c.pool = "a b".into()),
            ("--label", |c| drop(c.labels.insert("a b".into(), "c".into()))),
            ("--ready-timeout", |c| c.ready_timeout = Duration::ZERO),
            ("--ping-interval", |c| c.ping_interval = Duration::ZERO),
            ("--stop-grace", |c| c.stop_grace = Duration::MAX),
            ("--keep-ended", |c| c.keep_ended = Duration::from_secs(59)),
            ("--keep-ended", |c| c.keep_ended = Duration::from_secs(31 * 24 * 3600)),
            ("--model-dir", |c| c.model_dirs.push("/a;b".into())),
            ("--env", |c| c.env.push((String::new(), "x".into()))),
            ("--arg", |c| c.args.push("--sc-port=1".into())),
            ("--spawn-memory", |c| c.spawn_memory = Some(4)),
            ("--spawn-file-size", |c| c.spawn_file_size = Some(MIN_FILE_SIZE - 1)),
            ("--spawn-cpus", |c| c.spawn_cpus = Some(0.0)),
            ("--spawn-cpus", |c| c.spawn_cpus = Some(f64::NAN)),
        ];
        for (flag, spoil) in cases {
            let mut config = good();
            spoil(&mut config);
            let error = config.check().expect_err(flag);
            assert_eq!(error.flag, *flag, "{error}");
            assert!(error.to_string().starts_with(&format!("invalid {flag}: ")));
        }
    }
}
