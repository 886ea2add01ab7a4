//! Which GPU a server-side rendering spawn gets: the one with the fewest, of those the first (row 12 of `docs/operator/hoops-server.md`).

use model::GpuSlots;

/// The use of each GPU.
#[derive(Debug)]
pub(crate) struct Gpus {
    used: Vec<u32>,
    each: u32,
}

impl Gpus {
    pub(crate) fn new(gpus: u32, each: u32) -> Self {
        Self { used: vec![0; usize::try_from(gpus).unwrap_or(0)], each }
    }

    /// Whether the choice is left to the server.
    pub(crate) fn unlimited(&self) -> bool {
        self.used.is_empty()
    }

    /// The GPU that [`Self::take`] would take.
    fn best(&self) -> Option<usize> {
        let (index, used) = self.used.iter().enumerate().min_by_key(|(_, used)| **used)?;
        (*used < self.each).then_some(index)
    }

    /// Whether there is room on one of them.
    pub(crate) fn has_room(&self) -> bool {
        self.unlimited() || self.best().is_some()
    }

    pub(crate) fn take(&mut self) -> Option<u32> {
        let index = self.best()?;
        self.used[index] += 1;
        u32::try_from(index).ok()
    }

    /// Counts a spawn of an earlier agent, also beyond the limit; a GPU that is not there any more is not counted.
    pub(crate) fn claim(&mut self, gpu: u32) {
        if let Some(used) = usize::try_from(gpu).ok().and_then(|i| self.used.get_mut(i)) {
            *used += 1;
        }
    }

    pub(crate) fn give_back(&mut self, gpu: u32) {
        if let Some(used) = usize::try_from(gpu).ok().and_then(|i| self.used.get_mut(i)) {
            *used = used.saturating_sub(1);
        }
    }

    pub(crate) fn slots(&self) -> Vec<GpuSlots> {
        (0..).zip(&self.used).map(|(index, used)| GpuSlots { index, total: self.each, used: *used }).collect()
    }

    /// How many more there is room for.
    pub(crate) fn room(&self) -> usize {
        if self.unlimited() {
            return usize::MAX;
        }
        let free = self.used.iter().map(|used| self.each.saturating_sub(*used)).sum::<u32>();
        usize::try_from(free).unwrap_or(usize::MAX)
    }

    pub(crate) fn used(&self) -> u32 {
        self.used.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_least_used_gpu_is_taken_and_ties_go_to_the_lowest() {
        let mut gpus = Gpus::new(3, 2);
        assert_eq!([(); 4].map(|()| gpus.take()), [Some(0), Some(1), Some(2), Some(0)]);
        gpus.give_back(1);
        assert_eq!([(); 4].map(|()| gpus.take()), [Some(1), Some(1), Some(2), None]);
        assert!(!gpus.has_room());
        gpus.give_back(2);
        assert_eq!(gpus.take(), Some(2));
    }

    #[test]
    fn spawns_of_an_earlier_agent_may_be_too_many() {
        let mut gpus = Gpus::new(1, 1);
        for gpu in [0, 0, 3] {
            gpus.claim(gpu);
        }
        assert_eq!((gpus.used(), gpus.has_room()), (2, false));
        for gpu in [3, 0] {
            gpus.give_back(gpu);
        }
        assert_eq!((gpus.used(), gpus.take()), (1, None));
        gpus.give_back(0);
        assert_eq!(gpus.take(), Some(0));
    }

    #[test]
    fn without_gpus_nothing_is_chosen_and_nothing_is_full() {
        let mut gpus = Gpus::new(0, 4);
        assert!(gpus.has_room());
        assert_eq!(gpus.take(), None);
    }

    proptest! {
        #[test]
        fn no_gpu_goes_beyond_its_limit_and_use_stays_even(
            count in 1u32..5, each in 1u32..5, steps in prop::collection::vec(any::<bool>(), 1..100),
        ) {
            let mut gpus = Gpus::new(count, each);
            let mut out = Vec::new();
            for take in steps {
                if take {
                    let room = gpus.has_room();
                    let got = gpus.take();
                    prop_assert_eq!(room, got.is_some());
                    out.extend(got);
                } else if let Some(gpu) = out.pop() {
                    gpus.give_back(gpu);
                }
                prop_assert_eq!(gpus.used() as usize, out.len());
                prop_assert!(gpus.slots().iter().all(|g| g.used <= g.total));
            }
        }
    }
}
