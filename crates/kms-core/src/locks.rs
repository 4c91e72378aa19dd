//! One lock for each key, within one process.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
};

use tokio::sync::{Mutex, MutexGuard};

/// How many locks there are. Keys that share one wait for each other, which costs time and nothing else.
const STRIPES: u64 = 16;

/// Locks that keep two writers of this process from working on the same key at the same time.
///
/// A provider whose server has no compare-and-set holds the lock of a key from its look to its write.
/// Writers of other processes are not kept out: the provider remains a
/// [`CheckThenAct`](crate::Guarantee::CheckThenAct) one.
/// Several keys may share a lock, so hold one at a time only: a second one may be the same.
pub struct KeyLocks {
    first: Mutex<()>,
    others: Vec<Mutex<()>>,
}

impl KeyLocks {
    /// Locks that are all free.
    pub fn new() -> Self {
        Self { first: Mutex::default(), others: (1..STRIPES).map(|_| Mutex::default()).collect() }
    }

    /// Waits for the lock of a key and holds it until the guard is dropped.
    ///
    /// `key` is what names the key on the server, so that two names for one object share a lock.
    pub async fn lock(&self, key: &str) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let at = usize::try_from(hasher.finish() % STRIPES).unwrap_or_default();
        self.others.get(at).unwrap_or(&self.first).lock().await
    }
}

impl Default for KeyLocks {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for KeyLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyLocks").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_lock_of_a_key_is_held_by_one_at_a_time() {
        let locks = KeyLocks::new();
        let held = locks.lock("a").now_or_never();
        assert!(held.is_some());
        assert!(locks.lock("a").now_or_never().is_none());
        drop(held);
        assert!(locks.lock("a").now_or_never().is_some());
    }

    #[test]
    fn most_keys_do_not_wait_for_each_other() {
        let locks = KeyLocks::new();
        let _held = locks.lock("set1-data-0").now_or_never();
        let free = (1..100).filter(|at| locks.lock(&format!("set1-data-{at}")).now_or_never().is_some());
        assert!(free.count() > 80);
    }
}
