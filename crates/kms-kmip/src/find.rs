//! Finds the current object of a key by its name, once no other object can come before it.
//!
//! A server orders objects by their Initial Date, in whole seconds, and identifiers break ties in any order. So an object
//! that is registered later in the same second may come first. While that second lasts, no reader and no writer may rely
//! on the object:
//!
//! ```text
//! A looks, finds nothing, registers "z" in second 5, and finds only "z": reports "stored"
//! B has looked before A registered, registers "a" in second 5, and finds "a" first: reports "stored"
//! ```
//!
//! So [`Api::find`] looks again until the server's clock has left that second, and once more after a pause: the server may
//! take a moment from the date of an object to the object's appearance in a Locate, and another moment from a Locate to
//! the time stamp of its response. An object whose second has been over for a whole second counts at once.

use std::time::{Duration, SystemTime};

use kms_core::{Kek, KeyName, Result};
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::{
    api::Api,
    classify::{Object, Objects, classify},
    error::busy,
    name::object_name,
    named::{Found, Want},
};

/// The maximum number of searches for the current object of a key that other clients update at the same time.
const FIND_ROUNDS: usize = 8;
/// The time between two looks at an object that may not be the first of its second; each pause is twice as long as the
/// one before, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(160);
/// The time, in seconds of the server's clock, after the second of an object, from which on one look is enough.
const MARGIN: i64 = 1;
/// How long to wait for the server's clock to leave the second of an object. The clock of one node of a server may be
/// behind the clock that has dated the object.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How long to wait by our own clock if responses have no time stamp: the second of the object, and [`MARGIN`].
const UNSTAMPED_WAIT: Duration = Duration::from_millis(2100);
/// The age, in seconds by our own clock, from which on an object counts at once on a server without time stamps. Clocks
/// of hosts may differ, but not by this much.
const OLD: i64 = 3600;

impl Api {
    /// Finds and classifies the objects of a key. `None` if the key has no current object.
    ///
    /// An object whose server tells no Initial Date counts at once; without an index, no writer registers such an object.
    pub(crate) async fn find(&self, name: &KeyName, fresh: bool) -> Result<Option<Objects>> {
        Ok(self.find_kek(name, fresh, false).await?.map(|(objects, _)| objects))
    }

    /// Finds and classifies the objects of a key, and with `read` reads the KEK, if that takes no further request. `None`
    /// if the key has no current object.
    pub(crate) async fn find_kek(
        &self,
        name: &KeyName,
        fresh: bool,
        read: bool,
    ) -> Result<Option<(Objects, Option<Kek>)>> {
        let mut pause = FIRST_PAUSE;
        let mut seen: Option<(String, Instant)> = None;
        // The server's time of the look before, which has ended a pause ago.
        let mut before: Option<i64> = None;
        loop {
            let (found, stamp) = self.look(name, fresh, read).await?;
            let Some((objects, kek)) = found else { return Ok(None) };
            let Object { uid, initial_date, .. } = &objects.current;
            let server_time = stamp.unwrap_or_else(|| host_time().saturating_sub(OLD));
            let counts = |date: i64| {
                date.saturating_add(MARGIN) < server_time || before.is_some_and(|before| date < before)
            };
            if initial_date.is_none_or(counts) {
                return Ok(Some((objects, kek)));
            }
            before = stamp;
            let since = match &seen {
                Some((known, since)) if known == uid => *since,
                _ => seen.insert((uid.clone(), Instant::now())).1,
            };
            let waited = since.elapsed();
            match stamp {
                None if waited >= UNSTAMPED_WAIT => return Ok(Some((objects, kek))),
                Some(_) if waited >= LONGEST_WAIT => {
                    warn!(
                        key = %name, object = uid,
                        "the object is dated later than the server's time: another object may still come before it; check \
                         the clocks of the server"
                    );
                    return Ok(Some((objects, kek)));
                }
                _ => {}
            }
            sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause.saturating_mul(2));
        }
    }

    /// Finds and classifies the objects of a key as they are now, and returns the server's time of the Locate.
    ///
    /// An object that has lost the name of the key since the Locate was superseded in between, so there is a successor that
    /// this Locate may have come too early for. The search is repeated until it finds the same such objects twice.
    async fn look(
        &self,
        name: &KeyName,
        mut fresh: bool,
        read: bool,
    ) -> Result<(Option<(Objects, Option<Kek>)>, Option<i64>)> {
        let mut before = Vec::new();
        for _ in 0..FIND_ROUNDS {
            let want = Want::Current { kek: read };
            let Found { objects: found, kek, stamp } =
                self.search(name, &object_name(name), fresh, want).await?;
            let superseded: Vec<_> = found
                .iter()
                .filter(|object| object.superseded.contains(name))
                .map(|object| object.uid.clone())
                .collect();
            let objects = classify(name, self.cluster.as_deref(), found)?;
            if objects.is_some() || superseded == before {
                let kek = |uid: &str| kek.filter(|(read, _)| read == uid).map(|(_, kek)| kek);
                let found = objects.map(|objects| {
                    let kek = kek(&objects.current.uid);
                    (objects, kek)
                });
                return Ok((found, stamp));
            }
            (before, fresh) = (superseded, true);
        }
        Err(busy())
    }
}

/// The time of this host, in seconds since 1970.
fn host_time() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
