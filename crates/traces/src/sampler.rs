//! Whether the spans of a request are recorded: decided once, where its trace enters or begins.
//!
//! The samplers and their words are those of `OTEL_TRACES_SAMPLER`. A ratio looks at the trace's id as the SDKs of OpenTelemetry do, so that
//! several processes with the same ratio choose the same traces.

use model::TraceId;

use crate::context::Context;

/// A decision for traces of which nothing else is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Root {
    On,
    Off,
    /// The part of all traces, from 0 to 1.
    Ratio(f64),
}

/// See the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    pub(crate) root: Root,
    /// A caller's own decision holds.
    pub(crate) parent_based: bool,
}

impl Default for Sampler {
    /// `parentbased_always_on`.
    fn default() -> Self {
        Self { root: Root::On, parent_based: true }
    }
}

impl Sampler {
    /// Whether a request of this caller's trace is recorded.
    pub(crate) fn takes(self, caller: &Context) -> bool {
        if self.parent_based { caller.is_sampled() } else { self.begins(caller.trace) }
    }

    /// Whether a trace that begins here is recorded.
    pub(crate) fn begins(self, trace: TraceId) -> bool {
        match self.root {
            Root::On => true,
            Root::Off => false,
            Root::Ratio(ratio) => is_below(trace, ratio),
        }
    }
}

fn is_below(trace: TraceId, ratio: f64) -> bool {
    /// The numbers of 63 bits.
    const ALL: f64 = (1_u64 << 63) as f64;
    let [.., a, b, c, d, e, f, g, h] = trace.number().get().to_be_bytes();
    let number = u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1;
    // A float of that size is exact enough to sample by.
    ratio >= 1.0 || (number as f64) < ratio * ALL
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracer::random_trace;

    #[test]
    fn a_ratio_takes_about_so_many_traces_and_always_the_same() {
        let ids: Vec<TraceId> = (0..20_000).map(|_| random_trace()).collect();
        for ratio in [0.0, 0.1, 0.5, 1.0] {
            let sampler = Sampler { root: Root::Ratio(ratio), parent_based: false };
            let taken: Vec<bool> = ids.iter().map(|id| sampler.begins(*id)).collect();
            let part = taken.iter().filter(|taken| **taken).count() as f64 / 20_000.0;
            assert!((part - ratio).abs() < 0.02, "{part} of {ratio}");
            assert!(ids.iter().zip(taken).all(|(id, taken)| sampler.begins(*id) == taken));
        }
    }

    #[test]
    fn the_decision_of_a_caller_holds_where_the_sampler_says_so() {
        let caller = |flags| {
            let text = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
            Context::read([text.as_bytes()].into_iter(), std::iter::empty()).unwrap()
        };
        for (root, parent_based, unsampled, sampled) in [
            (Root::On, true, false, true),
            (Root::Off, true, false, true),
            (Root::On, false, true, true),
            (Root::Off, false, false, false),
        ] {
            let sampler = Sampler { root, parent_based };
            assert_eq!((sampler.takes(&caller("00")), sampler.takes(&caller("01"))), (unsampled, sampled));
        }
    }
}
