//! Operations on one key.

use serde_json::json;

use super::{ALIAS_TYPE, Call, KEY_TYPE, deleted, envelope, is_alias, plain, reason, taken};
use crate::fake::{
    http::Response,
    ibmkp::world::{Destroyed, Key, World},
};

/// The time between the deletion of a key and the first possible purge, in seconds.
const PURGE_AFTER: i64 = 4 * 3600;
/// The time in which a deleted key can be restored, in seconds.
const RESTORE_WITHIN: i64 = 30 * 24 * 3600;

impl World {
    /// Runs `work` on the key with this id or alias.
    fn on(
        &mut self,
        call: &Call<'_>,
        which: &str,
        work: impl FnOnce(&mut Self, &str) -> Response,
    ) -> Response {
        match self.find(call, which) {
            Ok(id) => work(self, &id),
            Err(refused) => refused,
        }
    }

    fn key(&mut self, id: &str) -> &mut Key {
        self.keys.get_mut(id).expect("the key was found just now")
    }

    pub(super) fn get(&mut self, call: &Call<'_>, which: &str, with_payload: bool) -> Response {
        self.on(call, which, |world, id| {
            let key = world.keys[id].clone();
            match (key.state, world.switches.destroyed) {
                (5, Destroyed::Gone) => deleted(),
                _ => Response::value(200, envelope(KEY_TYPE, vec![world.shown(&key, with_payload)])),
            }
        })
    }

    pub(super) fn destroy(&mut self, call: &Call<'_>, which: &str) -> Response {
        if !self.keys.contains_key(which) && !self.switches.delete_by_alias {
            return reason(404, "KEY_NOT_FOUND_ERR", "key does not exist");
        }
        let minimal = call.prefers("return=minimal") || !call.prefers("return=representation");
        self.on(call, which, |world, id| {
            if world.keys[id].state == 5 {
                return deleted();
            }
            if world.switches.dual_authorisation {
                return reason(
                    409,
                    "AUTHORIZATIONS_NOT_MET",
                    "Number of authorizations required to delete is not met",
                );
            }
            world.bury(id);
            let key = world.keys[id].clone();
            if minimal {
                Response::status(204)
            } else {
                Response::value(200, envelope(KEY_TYPE, vec![world.shown(&key, false)]))
            }
        })
    }

    /// Deletes a key.
    pub(in crate::fake::ibmkp) fn bury(&mut self, id: &str) {
        let (now, stays) = (self.base.clock.now(), self.switches.alias_stays);
        let key = self.key(id);
        key.state = 5;
        key.deleted = Some(now);
        if !stays {
            key.aliases.clear();
        }
    }

    pub(super) fn restore(&mut self, call: &Call<'_>, which: &str) -> Response {
        self.on(call, which, |world, id| {
            let now = world.base.clock.now();
            let key = world.key(id);
            let Some(deleted) = key.deleted else {
                return reason(409, "KEY_ACTION_INVALID_STATE_ERR", "Key is not in a valid state");
            };
            if now - deleted > RESTORE_WITHIN {
                return reason(409, "KEY_RESTORE_EXPIRED", "The key restoration has expired");
            }
            key.state = 1;
            key.deleted = None;
            let key = key.clone();
            Response::value(201, envelope(KEY_TYPE, vec![world.shown(&key, false)]))
        })
    }

    pub(super) fn purge(&mut self, call: &Call<'_>, which: &str) -> Response {
        self.on(call, which, |world, id| {
            let now = world.base.clock.now();
            match world.keys[id].deleted {
                None => reason(409, "KEY_ACTION_INVALID_STATE_ERR", "Key is not in a valid state"),
                Some(deleted) if now - deleted < PURGE_AFTER => reason(
                    409,
                    "REQ_TOO_EARLY_ERR",
                    "The key was updated recently: Please wait and try again: Purge operation is allowed 4h0m0s after \
                     key is deleted",
                ),
                Some(_) if !world.switches.may_purge => plain(403, "Forbidden: The user may not purge keys"),
                Some(_) => {
                    world.keys.remove(id);
                    Response::status(204)
                }
            }
        })
    }

    pub(super) fn act(&mut self, call: &Call<'_>, which: &str, action: &str) -> Response {
        self.on(call, which, |world, id| {
            let key = world.key(id);
            match (key.state, action) {
                (5, _) => deleted(),
                (1, "disable") => {
                    key.state = 2;
                    Response::status(204)
                }
                (2, "enable") => {
                    key.state = 1;
                    Response::status(204)
                }
                _ => reason(409, "KEY_ACTION_INVALID_STATE_ERR", "Key is not in a valid state"),
            }
        })
    }

    pub(super) fn add_alias(&mut self, call: &Call<'_>, which: &str, alias: &str) -> Response {
        self.on(call, which, |world, id| {
            if world.keys[id].state == 5 {
                return deleted();
            }
            if !is_alias(alias) {
                return reason(400, "INVALID_FIELD_ERR", "The alias is not valid");
            }
            if world.by_alias(alias).is_some() {
                return taken();
            }
            if world.keys[id].aliases.len() >= 5 {
                return reason(409, "KEY_ALIAS_QUOTA_ERR", "A key has at most 5 aliases");
            }
            world.key(id).aliases.push(alias.to_owned());
            let shown = json!({"keyId": id, "alias": alias, "createdBy": "iam-ServiceId-1", "creationDate": world.now()});
            Response::value(201, envelope(ALIAS_TYPE, vec![shown]))
        })
    }

    pub(super) fn remove_alias(&mut self, call: &Call<'_>, which: &str, alias: &str) -> Response {
        self.on(call, which, |world, id| {
            let key = world.key(id);
            if key.state == 5 {
                return deleted();
            }
            if !key.aliases.iter().any(|known| known == alias) {
                return reason(404, "KEY_ALIAS_NOT_FOUND_ERR", "The key does not have this alias");
            }
            key.aliases.retain(|known| known != alias);
            Response::status(204)
        })
    }
}
