//! Locks for keys within one process.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
};

use tokio::sync::{Mutex, MutexGuard};

/// The number of locks. Writers of keys that share a lock wait for each other, which only costs time: with 16 locks,
/// most of 64 writers would wait.
const STRIPES: u64 = 256;

/// Locks that keep two writers of this process from working on the same key at the same time.
///
/// If its server has no compare-and-set, a provider holds the lock of a key from its read to its write.
/// The locks do not keep out writers of other processes: the guarantee of the provider is still
/// [`CheckThenAct`](crate::Guarantee::CheckThenAct).
/// Several keys may share a lock, so a task must hold one lock at a time: a second lock may be the same one.
pub struct KeyLocks {
    first: Mutex<()>,
    others: Vec<Mutex<()>>,
}

impl KeyLocks {
    /// Makes the locks, all of them free.
    pub fn new() -> Self {
        Self { first: Mutex::default(), others: (1..STRIPES).map(|_| Mutex::default()).collect() }
    }

    /// Waits for the lock of a key and holds it until the guard is dropped.
    ///
    /// `key` is the name of the object on the server, so that two names of one object share a lock.
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
    fn few_of_many_writers_wait_for_the_writer_of_another_key() {
        let locks = KeyLocks::new();
        let name = |at: usize| format!("set1-data-{at}");
        let held: Vec<_> = (0..64).filter_map(|at| locks.lock(&name(at)).now_or_never()).collect();
        assert!(held.len() > 50, "{} of 64 writers hold their lock", held.len());
    }
}
