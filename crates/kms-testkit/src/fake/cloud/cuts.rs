//! Cut lists, for the conformance suite.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use kms_conformance::{Cut, ListCuts};

use super::{Cloud, Double, lock};

/// A way in which a double cuts its lists: its name, what a client can do about it, and its switches.
pub type CutWay<W> = (&'static str, Cut, fn(&mut W));

/// Cuts the lists of a double.
struct Cuts<S: Cloud> {
    state: Arc<Mutex<S>>,
    ways: &'static [CutWay<S::Switches>],
    /// The switches before the cut.
    before: Mutex<Option<S::Switches>>,
}

impl<S: Cloud> Double<S> {
    /// A switch that cuts the lists of this double in these ways.
    #[must_use]
    pub fn cuts(&self, ways: &'static [CutWay<S::Switches>]) -> Arc<dyn ListCuts> {
        Arc::new(Cuts { state: Arc::clone(&self.state), ways, before: Mutex::new(None) })
    }
}

impl<S: Cloud> fmt::Debug for Cuts<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { state: _, ways, before: _ } = self;
        f.debug_list().entries(ways.iter().map(|(name, ..)| name)).finish()
    }
}

impl<S: Cloud> ListCuts for Cuts<S> {
    fn ways(&self) -> Vec<(&'static str, Cut)> {
        self.ways.iter().map(|(name, cut, _)| (*name, *cut)).collect()
    }

    fn begin(&self, way: usize) {
        let mut state = lock(&self.state);
        let switches = state.switches();
        *lock(&self.before) = Some(switches.clone());
        let (_, _, set) = self.ways[way];
        set(switches);
    }

    fn end(&self) {
        if let Some(before) = lock(&self.before).take() {
            *lock(&self.state).switches() = before;
        }
    }
}
