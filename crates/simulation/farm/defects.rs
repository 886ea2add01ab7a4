//! Defects of the programs: what they log as an error, and panics. Each breaks a run.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// What was logged since it was last asked for.
pub(crate) type Defects = Arc<Mutex<Vec<String>>>;

struct Watch(Defects);

impl<S: Subscriber> Layer<S> for Watch {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() == Level::ERROR {
            let mut text = Text(String::new());
            event.record(&mut text);
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text.0);
        }
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, "{field}={value:?} ").ok();
    }
}

/// Watches this process. With `shows`, the whole log goes to standard error.
pub(crate) fn watch(shows: bool) -> Defects {
    let defects = Defects::default();
    let level = if shows { Level::DEBUG } else { Level::ERROR };
    let filter = tracing_subscriber::filter::LevelFilter::from_level(level);
    let shown = shows.then(|| tracing_subscriber::fmt::layer().without_time().with_writer(std::io::stderr));
    tracing_subscriber::registry().with(filter).with(Watch(Arc::clone(&defects))).with(shown).init();
    let panics = Arc::clone(&defects);
    std::panic::set_hook(Box::new(move |panic| {
        panics.lock().unwrap_or_else(PoisonError::into_inner).push(panic.to_string());
    }));
    defects
}
