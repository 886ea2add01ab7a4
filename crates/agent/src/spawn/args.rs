//! The command line of a spawned server. An option given twice makes it refuse to start, so each has one author.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use model::{RendererType, SpawnId};

use crate::config::Config;
use crate::secret::{self, Secret};

/// A warm server ends itself so much later than its agent ends it or its spawn.
const WARM_MARGIN: Duration = Duration::from_secs(60);

/// What is the same for all spawns of an agent.
#[derive(Debug, Clone)]
pub(crate) struct Fixed {
    /// `http://` and the address that spawns report to.
    liveliness: String,
    ping_interval: Duration,
    model_dirs: OsString,
    initial_use: Duration,
    warm_age: Duration,
    ssr_egl: bool,
    extra: Vec<String>,
    license_file: Option<PathBuf>,
}

impl Fixed {
    pub(crate) fn new(config: &Config, liveliness: String) -> Self {
        let dirs: Vec<&OsStr> = config.model_dirs.iter().map(|dir| dir.as_os_str()).collect();
        Self {
            liveliness,
            ping_interval: config.ping_interval,
            model_dirs: dirs.join(OsStr::new(";")),
            initial_use: config.initial_use,
            warm_age: config.warm_age,
            ssr_egl: config.egl,
            extra: config.args.clone(),
            license_file: config.license_file.clone(),
        }
    }

    /// How long a server waits for its viewer. One that is kept warm outlives its time in the pool and that of the spawn that gets it; both
    /// are its agent's to watch. It ends in the end, should no agent be there to end it.
    fn initial_use(&self, is_warm: bool) -> Duration {
        if is_warm && !self.initial_use.is_zero() {
            self.initial_use.saturating_add(self.warm_age).saturating_add(WARM_MARGIN)
        } else {
            self.initial_use
        }
    }

    /// `http://` and the address that spawns report to.
    pub(crate) fn liveliness(&self) -> &str {
        &self.liveliness
    }
}

/// What one spawn adds.
#[derive(Debug, Clone)]
pub(crate) struct PerSpawn<'a> {
    pub(crate) id: SpawnId,
    pub(crate) port: u16,
    pub(crate) renderer: RendererType,
    pub(crate) gpu: Option<u32>,
    pub(crate) model: Option<&'a str>,
    pub(crate) session_token: Option<&'a str>,
    /// What it reports with.
    pub(crate) secret: Option<&'a Secret>,
    /// It is kept warm, and ends of its own accord only after it has been old for as long as a spawn may have no viewer.
    pub(crate) is_warm: bool,
}

#[derive(Default)]
struct CommandLine(Vec<OsString>);

impl CommandLine {
    /// The server takes a value that begins with a dash for the next option, unless it is tied to its own.
    fn add(&mut self, option: &str, value: impl AsRef<OsStr>) {
        let value = value.as_ref();
        if value.as_encoded_bytes().first() == Some(&b'-') || value.is_empty() {
            let mut tied = OsString::from(option);
            tied.push("=");
            tied.push(value);
            self.0.push(tied);
        } else {
            self.0.push(option.into());
            self.0.push(value.into());
        }
    }
}

/// The whole command line after the executable.
pub(crate) fn command_line(fixed: &Fixed, spawn: &PerSpawn<'_>) -> Vec<OsString> {
    let mut line = CommandLine(Vec::with_capacity(28 + fixed.extra.len()));
    line.add("--id", spawn.id.to_string());
    line.add("--sc-port", spawn.port.to_string());
    line.add("--liveliness-endpoint", secret::endpoint(&fixed.liveliness, spawn.secret));
    line.add("--liveliness-update-frequency", fixed.ping_interval.as_secs_f64().to_string());
    if !fixed.model_dirs.is_empty() {
        line.add("--model-search-directories", &fixed.model_dirs);
    }
    line.add("--initial-use-duration", whole_seconds(fixed.initial_use(spawn.is_warm)).to_string());
    // Errors, warnings and information: what explains an end.
    line.add("--log-stdout-category-mask", "7");
    if let Some(model) = spawn.model {
        line.add("--model-file", model);
    }
    if let Some(token) = spawn.session_token {
        line.add("--session-token", token);
    }
    match spawn.renderer {
        RendererType::Csr => line.add("--csr", "true"),
        RendererType::Ssr => {
            line.add("--ssr", "true");
            if let Some(gpu) = spawn.gpu {
                line.add("--ssr-gpu-index", gpu.to_string());
            }
            if fixed.ssr_egl {
                line.add("--ssr-egl", "true");
            }
        }
    }
    line.0.extend(fixed.extra.iter().map(OsString::from));
    if let Some(file) = &fixed.license_file {
        line.add("--license-file", file);
    }
    line.0
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Launcher;
    use crate::config::reserved::OURS;

    fn fixed(change: impl FnOnce(&mut Config)) -> Fixed {
        let mut config = Config::new("n".parse().unwrap(), Launcher::Nothing, "/s".into());
        change(&mut config);
        Fixed::new(&config, "http://127.0.0.1:7071".into())
    }

    fn spawn(renderer: RendererType) -> PerSpawn<'static> {
        PerSpawn {
            id: SpawnId::mint(),
            port: 55000,
            renderer,
            gpu: None,
            model: None,
            session_token: None,
            secret: None,
            is_warm: false,
        }
    }

    fn text(line: &[OsString]) -> String {
        line.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_plain_spawn_gets_the_short_line() {
        let spawn = spawn(RendererType::Csr);
        assert_eq!(
            text(&command_line(&fixed(|_| ()), &spawn)),
            format!(
                "--id {} --sc-port 55000 --liveliness-endpoint http://127.0.0.1:7071/liveliness \
                 --liveliness-update-frequency 5 --initial-use-duration 60 --log-stdout-category-mask 7 --csr true",
                spawn.id
            )
        );
    }

    #[test]
    fn everything_comes_in_order_with_the_licence_last() {
        let fixed = fixed(|c| {
            c.model_dirs = vec!["/m".into(), "/n o".into()];
            c.egl = true;
            c.args = vec!["--sc-verbose-logging".into(), "true".into()];
            c.license_file = Some("/etc/key".into());
            c.initial_use = Duration::from_millis(1500);
            c.ping_interval = Duration::from_millis(200);
        });
        let spawn = PerSpawn {
            gpu: Some(1),
            model: Some("a/b.scz"),
            session_token: Some("-secret"),
            ..spawn(RendererType::Ssr)
        };
        let line = text(&command_line(&fixed, &spawn));
        assert_eq!(
            line.split_once("/liveliness ").unwrap().1,
            "--liveliness-update-frequency 0.2 --model-search-directories /m;/n o --initial-use-duration 2 \
             --log-stdout-category-mask 7 --model-file a/b.scz --session-token=-secret --ssr true \
             --ssr-gpu-index 1 --ssr-egl true --sc-verbose-logging true --license-file /etc/key"
        );
    }

    #[test]
    fn a_warm_server_outlives_its_time_in_the_pool_and_that_of_its_spawn() {
        let warm = PerSpawn { is_warm: true, ..spawn(RendererType::Csr) };
        let of = |initial_use: u64| {
            let fixed = fixed(|c| {
                c.initial_use = Duration::from_secs(initial_use);
                c.warm_age = Duration::from_secs(600);
            });
            text(&command_line(&fixed, &warm))
        };
        assert!(of(60).contains("--initial-use-duration 720 "), "{}", of(60));
        assert!(of(0).contains("--initial-use-duration 0 "), "{}", of(0));
    }

    #[test]
    fn egl_and_gpus_are_for_server_side_rendering_only() {
        let line = text(&command_line(&fixed(|c| c.egl = true), &spawn(RendererType::Csr)));
        assert!(!line.contains("ssr"), "{line}");
    }

    proptest! {
        #[test]
        fn no_value_from_a_request_can_become_an_option(token in ".*", model in ".*") {
            let spawn = PerSpawn { session_token: Some(&token), model: Some(&model), ..spawn(RendererType::Csr) };
            let line = command_line(&fixed(|_| ()), &spawn);
            let mut arguments = line.iter().map(|a| a.to_str().unwrap());
            while let Some(option) = arguments.next() {
                prop_assert!(option.starts_with("--"));
                let name = option.split_once('=').map_or(option, |(name, _)| name);
                prop_assert!(OURS.contains(&name));
                if !option.contains('=') {
                    prop_assert!(!arguments.next().unwrap().starts_with('-'));
                }
            }
        }
    }
}
