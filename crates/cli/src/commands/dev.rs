//! `hatchery dev`: a whole farm in one process.
//!
//! [`args`] are the flags, [`settings`] has the configuration of each part, [`stand_in`] finds or makes the simulated server, [`farm`] starts and ends
//! the parts, [`notice`] prints the addresses.

mod args;
mod farm;
mod notice;
mod settings;
mod stand_in;

use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub(crate) use self::args::DevArgs;
pub(crate) use self::stand_in::simulator_named;

use super::role;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::logging;
use crate::runtime::block_on;
use crate::signals::Signals;

/// Runs until a signal.
pub(crate) fn run(args: &DevArgs) -> Result<Exit, Failure> {
    let traced = role::trace_settings()?;
    logging::start(&args.log)?;
    block_on(Builder::new_multi_thread(), async {
        let mut settings = settings::Settings::prepare(args)?;
        let door = role::tracer(traced.clone(), "hatchery-frontdoor", None)?;
        let agents = role::tracer(traced, "hatchery-agent", None)?;
        settings.door.tracer = door.clone();
        settings.agents.iter_mut().for_each(|config| config.tracer = agents.clone());
        let mut signals = Signals::catch()?;
        let farm = tokio::select! {
            farm = farm::Farm::start(&settings) => farm?,
            name = signals.next() => {
                info!(signal.name = name, "ended before it had started");
                return Ok(Exit::Done);
            }
        };
        notice::show(&settings, &farm);
        let name = signals.next().await;
        info!(signal.name = name, "ending, and every spawn with it");
        let hurry = CancellationToken::new();
        signals.hurry_on_next(&hurry, farm.end(&hurry)).await;
        if !hurry.is_cancelled() {
            role::end_traces(&[&door, &agents], &mut signals).await;
        }
        Ok(Exit::Done)
    })
}
