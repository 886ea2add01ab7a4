//! What a pool of warm servers is to do next, as a pure function of what there is.
//!
//! Invariants, whatever happens in whatever order: spawns and warm servers together are never more than there are slots, those that are ending
//! included; of a renderer there are never more warm servers than are wanted, also while one replaces another. So a server that has
//! become old ends before its successor starts. What starts already counts, or a slow start would be begun again and again.

use model::{RendererType, SpawnId};

use super::super::pool::{WarmEnd, WarmStage};

/// One warm server, the oldest first among all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) id: SpawnId,
    pub(crate) renderer: RendererType,
    pub(crate) stage: WarmStage,
    /// It has been kept for as long as it may.
    pub(crate) is_old: bool,
}

/// What is wanted of one renderer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) renderer: RendererType,
    pub(crate) count: usize,
    /// Whether any may be kept.
    pub(crate) is_open: bool,
    /// Whether one may be started now.
    pub(crate) may_start: bool,
    /// How many more there is room for beside slots: GPU slots.
    pub(crate) room: usize,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) start: Vec<RendererType>,
    pub(crate) end: Vec<(SpawnId, WarmEnd)>,
}

/// What to end and to start, with so many slots of which spawns use so many.
pub(crate) fn plan(slots: usize, used: usize, wanted: &[Wanted], kept: &[Kept]) -> Plan {
    let mut plan = Plan::default();
    let mut living: Vec<Kept> = kept.iter().copied().filter(|one| one.stage != WarmStage::Ending).collect();
    let mut end = |living: &mut Vec<Kept>, at: usize, why| plan.end.push((living.remove(at).id, why));
    let limit = |renderer| wanted.iter().find(|wanted| wanted.renderer == renderer);
    while let Some(at) = living.iter().position(|one| limit(one.renderer).is_none_or(|of| !of.is_open)) {
        let is_wanted = limit(living[at].renderer).is_some_and(|of| of.count > 0);
        end(&mut living, at, if is_wanted { WarmEnd::Closed } else { WarmEnd::Surplus });
    }
    while let Some(at) = living.iter().position(|one| one.is_old) {
        end(&mut living, at, WarmEnd::Aged);
    }
    for of in wanted {
        while living.iter().filter(|one| one.renderer == of.renderer).count() > of.count {
            let Some(at) = worst(&living, |one| one.renderer == of.renderer) else { break };
            end(&mut living, at, WarmEnd::Surplus);
        }
    }
    while used + living.len() > slots {
        let Some(at) = worst(&living, |_| true) else { break };
        end(&mut living, at, WarmEnd::Room);
    }
    let mut free = slots.saturating_sub(used + kept.len());
    for of in wanted.iter().filter(|of| of.is_open && of.may_start) {
        let there = kept.iter().filter(|one| one.renderer == of.renderer).count();
        let count = of.count.saturating_sub(there).min(free).min(of.room);
        free -= count;
        plan.start.extend(std::iter::repeat_n(of.renderer, count));
    }
    plan
}

/// The one whose end costs least: one that is not ready, else the oldest.
fn worst(living: &[Kept], may: impl Fn(&Kept) -> bool) -> Option<usize> {
    let candidates = living.iter().enumerate().filter(|(_, one)| may(one));
    candidates.min_by_key(|(at, one)| (one.stage == WarmStage::Ready, *at)).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CSR: RendererType = RendererType::Csr;
    const SSR: RendererType = RendererType::Ssr;

    fn of(renderer: RendererType, count: usize) -> Wanted {
        Wanted { renderer, count, is_open: true, may_start: true, room: usize::MAX }
    }

    fn one(renderer: RendererType, stage: WarmStage) -> Kept {
        Kept { id: SpawnId::mint(), renderer, stage, is_old: false }
    }

    #[test]
    fn each_situation_has_its_plan() {
        use WarmStage::{Ending, Ready, Starting, Suspect};
        let old = Kept { is_old: true, ..one(CSR, Ready) };
        let closed = |of: Wanted| Wanted { is_open: false, ..of };
        let later = |of: Wanted| Wanted { may_start: false, ..of };
        // Slots, spawns, wanted, kept; what is started, and what is ended by its place among the kept.
        type Row = (usize, usize, Vec<Wanted>, Vec<Kept>, Vec<RendererType>, Vec<(usize, WarmEnd)>);
        let table: Vec<Row> = vec![
            (4, 0, vec![of(CSR, 2), of(SSR, 1)], vec![], vec![CSR, CSR, SSR], vec![]),
            (4, 0, vec![of(CSR, 2)], vec![one(CSR, Starting), one(CSR, Ready)], vec![], vec![]),
            (4, 0, vec![of(CSR, 2)], vec![one(CSR, Starting)], vec![CSR], vec![]),
            (4, 0, vec![of(CSR, 1)], vec![one(CSR, Suspect)], vec![], vec![]),
            (4, 4, vec![of(CSR, 2)], vec![], vec![], vec![]),
            (4, 3, vec![of(CSR, 2), of(SSR, 1)], vec![], vec![CSR], vec![]),
            (4, 3, vec![of(CSR, 2)], vec![one(CSR, Ending)], vec![], vec![]),
            (4, 0, vec![of(CSR, 1)], vec![one(CSR, Ending)], vec![], vec![]),
            (4, 0, vec![of(CSR, 1)], vec![old], vec![], vec![(0, WarmEnd::Aged)]),
            (4, 0, vec![closed(of(CSR, 1))], vec![one(CSR, Ready)], vec![], vec![(0, WarmEnd::Closed)]),
            (4, 0, vec![closed(of(CSR, 1)), of(SSR, 1)], vec![one(CSR, Ending)], vec![SSR], vec![]),
            (4, 0, vec![later(of(CSR, 1))], vec![], vec![], vec![]),
            (4, 0, vec![of(CSR, 0)], vec![one(CSR, Ready)], vec![], vec![(0, WarmEnd::Surplus)]),
            (4, 0, vec![], vec![one(SSR, Ready)], vec![], vec![(0, WarmEnd::Surplus)]),
            (
                4,
                0,
                vec![of(CSR, 1)],
                vec![one(CSR, Ready), one(CSR, Starting)],
                vec![],
                vec![(1, WarmEnd::Surplus)],
            ),
            (
                2,
                1,
                vec![of(CSR, 2)],
                vec![one(CSR, Ready), one(CSR, Ready)],
                vec![],
                vec![(0, WarmEnd::Room)],
            ),
            (2, 1, vec![of(CSR, 2)], vec![one(CSR, Ready), one(CSR, Ending)], vec![], vec![]),
            (4, 0, vec![Wanted { room: 1, ..of(SSR, 3) }], vec![], vec![SSR], vec![]),
        ];
        for (row, (slots, used, wanted, kept, start, end)) in table.into_iter().enumerate() {
            let want = Plan { start, end: end.into_iter().map(|(at, why)| (kept[at].id, why)).collect() };
            assert_eq!(plan(slots, used, &wanted, &kept), want, "row {row}");
        }
    }

    proptest! {
        /// Whatever plans are followed in whatever order, with spawns that come and go and servers that die.
        #[test]
        fn no_plan_goes_beyond_slots_or_what_is_wanted_and_all_is_kept_in_the_end(
            slots in 1_usize..7,
            csr in 0_usize..4,
            ssr in 0_usize..4,
            steps in prop::collection::vec((0_u8..7, any::<prop::sample::Index>()), 0..60),
        ) {
            let wanted = [of(CSR, csr), Wanted { room: 3, ..of(SSR, ssr) }];
            let (mut used, mut kept): (usize, Vec<Kept>) = (0, Vec::new());
            let settle = steps.len();
            for (at, (step, pick)) in steps.into_iter().chain((0..40).map(|n| (n % 3 + 4, any_index()))).enumerate() {
                match step {
                    // A spawn comes where there is room for it: a warm server makes some, which has ended before it starts.
                    0 if used < slots && at < settle => {
                        used += 1;
                        if used + kept.len() > slots {
                            kept.remove(pick.index(kept.len()));
                        }
                    }
                    1 if used > 0 => used -= 1,
                    2 if !kept.is_empty() && at < settle => drop(kept.remove(pick.index(kept.len()))),
                    3 if !kept.is_empty() && at < settle => {
                        let at = pick.index(kept.len());
                        kept[at].is_old = true;
                    }
                    4 => kept.iter_mut().filter(|one| one.stage == WarmStage::Starting)
                        .for_each(|one| one.stage = WarmStage::Ready),
                    5 => kept.retain(|one| one.stage != WarmStage::Ending),
                    _ => {
                        let of_ssr = kept.iter().filter(|one| one.renderer == SSR).count();
                        let wanted = wanted.map(|of| if of.renderer == SSR {
                            Wanted { room: 3 - of_ssr, ..of }
                        } else {
                            of
                        });
                        let Plan { start, end } = plan(slots, used, &wanted, &kept);
                        for (id, _) in end {
                            let one = kept.iter_mut().find(|one| one.id == id).unwrap();
                            prop_assert!(one.stage != WarmStage::Ending, "it ends already");
                            one.stage = WarmStage::Ending;
                        }
                        kept.extend(start.into_iter().map(|renderer| one(renderer, WarmStage::Starting)));
                    }
                }
                let count = |renderer| kept.iter().filter(|one| one.renderer == renderer).count();
                prop_assert!(used + kept.len() <= slots);
                prop_assert!(count(CSR) <= csr && count(SSR) <= ssr.min(3));
            }
            prop_assert_eq!(kept.len(), (csr + ssr.min(3)).min(slots - used));
        }
    }

    fn any_index() -> prop::sample::Index {
        use proptest::strategy::ValueTree as _;
        any::<prop::sample::Index>()
            .new_tree(&mut proptest::test_runner::TestRunner::default())
            .unwrap()
            .current()
    }
}
