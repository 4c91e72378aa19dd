//! Looks at both sides before a migration, and says what stands in its way. Writes nothing.

use std::collections::BTreeSet;

use kms_core::{
    ErrorKind, Freshness, Guarantee, KeyInfo, KeyName, KeyState, KmsProvider, KmsProviderExt as _, Result,
    Stored, UpdateRight,
};

use crate::{
    pair::{Fit, Pair, list, only_at_target},
    run::{Failed, Observer, OnConflict, Options, each},
};

/// How many keys one question about rights names.
const ASKED: usize = 100;

/// What a look at both sides has found.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Plan {
    /// The number of keys at the source.
    pub keys: usize,
    /// The names of these keys.
    pub names: Vec<KeyName>,
    /// The number of keys that the target lacks.
    pub to_create: usize,
    /// The number of keys that the target has with the same KEK.
    pub equal: usize,
    /// The number of keys that the target has with another KEK, and that the migration may replace.
    pub to_replace: usize,
    /// The number of keys that only the target has, which are not part of the migration.
    pub only_at_target: usize,
    /// What stops the migration as a whole.
    pub stops: Vec<String>,
    /// What deserves attention, and stops nothing.
    pub notes: Vec<String>,
    /// The keys that cannot be copied as they are.
    pub failed: Vec<Failed>,
}

impl Plan {
    /// Whether nothing stands in the way.
    pub fn is_clear(&self) -> bool {
        self.stops.is_empty() && self.failed.is_empty()
    }
}

/// What a look at one key has found.
enum Seen {
    Absent,
    Equal { same_place: bool },
    Different,
}

/// Looks at both sides: connection and login, lists, rights, and every KEK of the source.
///
/// # Errors
///
/// Those of the connections and of the lists; `Incomplete` if a list leaves keys out. Everything else is in the result.
pub async fn plan(pair: Pair<'_>, options: &Options, observer: &dyn Observer) -> Result<Plan> {
    let mut plan = Plan::default();
    for (kms, side) in [(pair.from, "from"), (pair.to, "to")] {
        let probe = kms.probed().await;
        if let Some((step, error)) = probe.failed {
            return Err(error.context("side", side).context("step", step));
        }
        plan.notes.extend(probe.warned.into_iter().map(|(step, note)| format!("{side}: {step}: {note}")));
    }
    let listed = list(pair.from, "from").await?;
    marked(&listed, &mut plan);
    let there = list(pair.to, "to").await?;
    plan.only_at_target = only_at_target(&listed, &there);
    let there: BTreeSet<KeyName> = there.into_iter().map(|key| key.name).collect();
    let names = options.select(listed)?;
    let shared = names.iter().filter(|name| there.contains(name)).count();
    plan.keys = names.len();
    plan.names.clone_from(&names);
    abilities(pair.to, options, shared, &mut plan);
    rights(pair.to, &names, &mut plan).await?;

    let fit = Fit::new(pair, options.decodes_base64);
    let work = |name: KeyName| {
        let is_there = there.contains(&name);
        async move {
            let seen = look(pair, &name, is_there, fit).await;
            (name, seen)
        }
    };
    let mut same_place = 0;
    let found = each(names, options.jobs, observer, work, |name, seen| match seen {
        Seen::Absent => {
            plan.to_create += 1;
            Ok("to-create")
        }
        Seen::Equal { same_place: same } => {
            same_place += usize::from(same);
            plan.equal += 1;
            Ok("equal")
        }
        Seen::Different if options.on_conflict == OnConflict::Replace => {
            plan.to_replace += 1;
            Ok("to-replace")
        }
        Seen::Different => Err(kms_core::Error::new(
            ErrorKind::AlreadyExists,
            "the target has this key with another KEK: find out which device it opens, then delete it or give \
             --on-conflict replace",
        )
        .context("key", name.as_str())),
    })
    .await?;
    plan.failed = found;
    if same_place > 0 && same_place == plan.keys {
        plan.stops.push(
            "both sides have the same keys in the same versions with the same times: they are one place under two \
             names, and deleting the source would delete the target"
                .to_owned(),
        );
    }
    Ok(plan)
}

/// Notes the keys that a list marks.
fn marked(keys: &[KeyInfo], plan: &mut Plan) {
    for state in [KeyState::Disabled, KeyState::Expired] {
        let count = keys.iter().filter(|key| key.state == Some(state)).count();
        if count > 0 {
            plan.notes.push(format!("{count} keys of the source are {}", state.as_str()));
        }
    }
}

/// What the target must be able to do.
fn abilities(to: &dyn KmsProvider, options: &Options, shared: usize, plan: &mut Plan) {
    let capability = to.capability();
    match capability.create {
        Guarantee::Atomic => {}
        Guarantee::CheckThenAct => plan.notes.push(
            "the target cannot create a key only if it is absent: let no other program write keys there during the copy"
                .to_owned(),
        ),
        _ => plan.stops.push("the target cannot create a key only if it is absent".to_owned()),
    }
    if shared > 0 && options.on_conflict == OnConflict::Replace && capability.update != Guarantee::Atomic {
        plan.notes.push(
            "the target cannot replace a KEK only if it has not changed: let no other program write keys there"
                .to_owned(),
        );
    }
}

/// Asks the target whether its account may write the keys.
async fn rights(to: &dyn KmsProvider, names: &[KeyName], plan: &mut Plan) -> Result<()> {
    let mut rights = Vec::with_capacity(names.len());
    for some in names.chunks(ASKED) {
        rights.extend(to.may_update(some).await?);
    }
    conclude(&rights, plan);
    Ok(())
}

/// Notes what the answers about rights mean.
fn conclude(rights: &[UpdateRight], plan: &mut Plan) {
    let denied = rights.iter().filter(|right| **right == UpdateRight::Denied).count();
    let unknown =
        rights.iter().filter(|right| !matches!(right, UpdateRight::Granted | UpdateRight::Denied)).count();
    if denied > 0 {
        plan.stops.push(format!("the account of the target may not write {denied} of {} keys", rights.len()));
    }
    if unknown > 0 {
        plan.notes.push(format!(
            "the target does not say whether its account may write {unknown} of {} keys: only the copy shows it",
            rights.len()
        ));
    }
}

async fn look(pair: Pair<'_>, name: &KeyName, is_there: bool, fit: Fit) -> Result<Seen> {
    let source = pair.from.get(name, Freshness::Fresh).await?;
    fit.check(name, &source.kek)?;
    if !is_there {
        return Ok(Seen::Absent);
    }
    let target = match pair.to.get(name, Freshness::Fresh).await {
        Ok(target) => target,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Seen::Absent),
        Err(error) => return Err(error),
    };
    if source.kek.ct_eq(&target.kek) {
        Ok(Seen::Equal { same_place: looks_the_same(&source, &target) })
    } else {
        Ok(Seen::Different)
    }
}

/// Whether two reads look like reads of one object: the same version, and the same known time.
fn looks_the_same(a: &Stored, b: &Stored) -> bool {
    let times = |stored: &Stored| stored.updated.or(stored.created);
    a.version == b.version && times(a).is_some() && times(a) == times(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_that_is_denied_stops_and_one_that_is_unknown_is_noted() {
        let mut plan = Plan::default();
        conclude(&[UpdateRight::Granted; 3], &mut plan);
        assert!(plan.is_clear() && plan.notes.is_empty());
        conclude(&[UpdateRight::Granted, UpdateRight::Unknown], &mut plan);
        assert!(plan.is_clear() && plan.notes[0].contains("1 of 2"));
        conclude(&[UpdateRight::Denied, UpdateRight::Granted], &mut plan);
        assert!(!plan.is_clear() && plan.stops[0].contains("1 of 2"));
    }
}
