//! The inventory: the OSDs of a cluster beside the keys of its KMS, and what is wrong with each.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, SystemTime},
};

use k8s_openapi::jiff::Timestamp;
use kms_core::{Error, ErrorKind, KeyInfo, KeyName, KeyState};
use serde::{Serialize, Serializer};

use crate::{client::LastRotation, discover::Discovery};

/// Where an inventory takes its facts from.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Source {
    /// The OSDs: Deployments, or Rook's folders on a host.
    Osds,
    /// The PVCs.
    Claims,
    /// The nodes where the OSDs run.
    Nodes,
    /// The keys in the KMS.
    Keys,
    /// The LUKS devices of this host.
    Devices,
}

impl Source {
    /// The word for it in the output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Osds => "osds",
            Self::Claims => "pvcs",
            Self::Nodes => "nodes",
            Self::Keys => "keys",
            Self::Devices => "devices",
        }
    }
}

/// What an inventory does not know of a source.
#[derive(Debug)]
#[non_exhaustive]
pub struct Gap {
    /// The source.
    pub source: Source,
    /// What is missing, and what to do.
    pub reason: String,
    /// The error, if the source failed. `None` if the source was not given, or has less than the whole cluster by its
    /// nature, as a host has.
    pub error: Option<Error>,
}

impl Gap {
    /// A source that was not given, or that never has everything.
    pub fn new(source: Source, reason: impl Into<String>) -> Self {
        Self { source, reason: reason.into(), error: None }
    }

    /// A source that failed. `reason` is the error in words.
    pub fn failed(source: Source, reason: impl Into<String>, error: Error) -> Self {
        Self { source, reason: reason.into(), error: Some(error) }
    }
}

/// The state of an OSD and its key, the worst first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum State {
    /// An OSD whose key the KMS does not have, or has disabled: it cannot start again.
    Missing,
    /// A device that the current KEK does not open.
    Mixed,
    /// A key that no OSD and no PVC has the name of.
    Orphan,
    /// A key whose current version is older than allowed.
    Stale,
    /// A source does not tell enough.
    Unknown,
    /// Nothing is wrong, as far as was looked.
    Ok,
}

impl State {
    /// Every state, the worst first.
    pub const ALL: [Self; 6] =
        [Self::Missing, Self::Mixed, Self::Orphan, Self::Stale, Self::Unknown, Self::Ok];

    /// The word for it in the output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Mixed => "mixed",
            Self::Orphan => "orphan",
            Self::Stale => "stale",
            Self::Unknown => "unknown",
            Self::Ok => "ok",
        }
    }

    /// The sources without which a row may have this state unseen.
    const fn needs(self) -> &'static [Source] {
        match self {
            Self::Missing | Self::Stale => &[Source::Osds, Source::Keys],
            Self::Mixed => &[Source::Osds, Source::Keys, Source::Devices],
            Self::Orphan => &[Source::Osds, Source::Claims, Source::Keys],
            Self::Unknown | Self::Ok => &[],
        }
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An OSD, as a Deployment or a folder on a host shows it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct OsdFacts {
    /// Its number, if known.
    pub id: Option<u32>,
    /// The name of its key, which is the name of its data PVC. `None` if its Deployment cannot be understood.
    pub name: Option<KeyName>,
    /// The name of its Deployment, if it comes from one.
    pub deployment: Option<String>,
    /// The node where it runs, if known.
    pub node: Option<String>,
    /// When its Deployment says that its KEK was last replaced.
    pub rotated: Option<SystemTime>,
    /// The outcome of the last rotation that its Deployment records.
    pub outcome: Option<String>,
    /// Why nothing more is known about it.
    pub fault: Option<String>,
}

impl OsdFacts {
    /// An OSD on a host.
    pub fn on_host(id: Option<u32>, name: KeyName, node: Option<String>) -> Self {
        Self { id, name: Some(name), node, ..Self::default() }
    }

    /// The OSDs of Deployments. `nodes` has the node of each OSD, by its number.
    pub fn of_deployments(found: &Discovery, nodes: &BTreeMap<u32, String>) -> Vec<Self> {
        let Discovery { osds, faults, plain: _ } = found;
        let node = |id: Option<u32>| nodes.get(&id?).cloned();
        let faults = faults.iter().map(|fault| Self {
            id: fault.osd_id,
            deployment: Some(fault.deployment.clone()),
            node: node(fault.osd_id),
            fault: Some(fault.error.message().to_owned()),
            ..Self::default()
        });
        let osds = osds.iter().map(|osd| {
            let last = LastRotation::of(&osd.annotations);
            let rotated =
                last.as_ref().and_then(|last| last.rotated_at.as_deref()?.parse::<Timestamp>().ok());
            Self {
                id: Some(osd.id),
                node: node(Some(osd.id)),
                name: Some(osd.name.clone()),
                deployment: Some(osd.deployment.clone()),
                rotated: rotated.map(SystemTime::from),
                outcome: last.and_then(|last| last.outcome),
                fault: None,
            }
        });
        osds.chain(faults).collect()
    }
}

/// What the sources have.
#[derive(Debug, Default)]
pub struct Facts {
    /// The OSDs.
    pub osds: Vec<OsdFacts>,
    /// The names of the PVCs.
    pub claims: BTreeSet<String>,
    /// The keys.
    pub keys: Vec<KeyInfo>,
    /// For each key whose devices were tried: why its KEK does not open all of them; `None` if it opens them.
    pub devices: BTreeMap<KeyName, Option<String>>,
    /// What the sources do not tell.
    pub gaps: Vec<Gap>,
}

/// An OSD and its key, or one of them.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Row {
    /// The name of the key; `None` for an OSD whose Deployment cannot be understood.
    pub name: Option<KeyName>,
    /// The OSD; `None` for a key without one.
    pub osd: Option<OsdFacts>,
    /// Whether a PVC has this name. `None` if that is not known.
    pub has_claim: Option<bool>,
    /// The key; `None` if the KMS has not listed it.
    pub key: Option<KeyInfo>,
    /// The state.
    pub state: State,
    /// Why it is in this state; `None` if it is [`State::Ok`].
    pub reason: Option<String>,
}

impl Row {
    /// When the current version of the key was stored, as far as the KMS tells.
    pub fn stored(&self) -> Option<SystemTime> {
        let key = self.key.as_ref()?;
        key.updated.or(key.created)
    }
}

/// A key that no OSD and no PVC has the name of.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Orphan<'a> {
    /// Its name.
    pub name: &'a KeyName,
    /// Its row.
    pub row: &'a Row,
    /// Why it is to be kept. `None` if it may be deleted.
    pub kept: Option<&'static str>,
}

/// OSDs and keys side by side, with what is not known.
#[derive(Debug)]
#[non_exhaustive]
pub struct Inventory {
    /// One row for each OSD, by its number, and then one for each key without an OSD, by its name.
    pub rows: Vec<Row>,
    /// What the sources do not tell.
    pub gaps: Vec<Gap>,
}

impl Inventory {
    /// Joins OSDs and keys by the name of the key. With `older_than` a key whose current version is older is
    /// [`State::Stale`].
    ///
    /// A key is an orphan only if all OSDs, all PVCs and all keys are known. An OSD misses its key only if all keys are
    /// known.
    pub fn new(facts: Facts, now: SystemTime, older_than: Option<Duration>) -> Self {
        let Facts { mut osds, claims, keys, devices, gaps } = facts;
        let judge = Judge { claims, devices, gaps: &gaps, now, older_than };
        let mut keys: BTreeMap<KeyName, KeyInfo> =
            keys.into_iter().map(|key| (key.name.clone(), key)).collect();
        osds.sort_by(|a, b| (a.id, &a.name, &a.deployment).cmp(&(b.id, &b.name, &b.deployment)));
        let used: BTreeSet<KeyName> = osds.iter().filter_map(|osd| osd.name.clone()).collect();
        let mut rows: Vec<Row> = osds
            .into_iter()
            .map(|osd| {
                let key = osd.name.as_ref().and_then(|name| keys.get(name).cloned());
                judge.osd(osd, key)
            })
            .collect();
        keys.retain(|name, _| !used.contains(name));
        rows.extend(keys.into_values().map(|key| judge.key(key)));
        Self { rows, gaps }
    }

    /// The orphans, each with the reason why it is to be kept, if there is one. An age of zero takes every orphan, also one
    /// whose age the KMS does not tell.
    ///
    /// # Errors
    ///
    /// The error of the source that failed; `Incomplete` if a source does not tell enough for a key to be an orphan.
    pub fn orphans(&self, older_than: Duration, now: SystemTime) -> Result<Vec<Orphan<'_>>, Error> {
        if let Some(gap) = self.gaps.iter().find(|gap| State::Orphan.needs().contains(&gap.source)) {
            let unknown = || Error::new(ErrorKind::Incomplete, "which keys are orphans is not known");
            let error = gap.error.clone().unwrap_or_else(|| unknown().context("why", &gap.reason));
            return Err(error.context("source", gap.source.as_str()));
        }
        let kept = |row: &Row| match row.stored() {
            _ if older_than.is_zero() => None,
            None => Some("the KMS does not tell its age"),
            Some(stored) if is_older(stored, older_than, now) => None,
            Some(_) => Some("it is not old enough"),
        };
        let orphans = self.rows.iter().filter(|row| row.state == State::Orphan);
        Ok(orphans
            .filter_map(|row| Some(Orphan { name: row.name.as_ref()?, row, kept: kept(row) }))
            .collect())
    }

    /// Whether every source was complete.
    pub fn is_complete(&self) -> bool {
        self.gaps.is_empty()
    }

    /// The number of rows in each state that occurs, the worst first.
    pub fn counts(&self) -> BTreeMap<State, usize> {
        let mut counts = BTreeMap::new();
        for row in &self.rows {
            *counts.entry(row.state).or_default() += 1;
        }
        counts
    }

    /// The states of this list that occur, or that cannot be ruled out since a source does not tell enough.
    pub fn cannot_exclude(&self, states: &[State]) -> BTreeSet<State> {
        let occurs = |state: &State| self.rows.iter().any(|row| row.state == *state);
        // A host or a file that has less than the whole cluster still knows its own OSDs.
        let counts = |gap: &&Gap, state: &State| gap.error.is_some() || *state == State::Orphan;
        let unseen = |state: &State| {
            self.gaps.iter().filter(|gap| counts(gap, state)).any(|gap| state.needs().contains(&gap.source))
        };
        states.iter().filter(|state| occurs(state) || unseen(state)).copied().collect()
    }
}

/// Whether a version is older than a limit. A time in the future comes from a clock that differs from ours, and counts as
/// now.
fn is_older(stored: SystemTime, limit: Duration, now: SystemTime) -> bool {
    now.duration_since(stored).unwrap_or_default() > limit
}

/// Finds the state of rows.
struct Judge<'a> {
    claims: BTreeSet<String>,
    devices: BTreeMap<KeyName, Option<String>>,
    gaps: &'a [Gap],
    now: SystemTime,
    older_than: Option<Duration>,
}

impl Judge<'_> {
    fn lacks(&self, sources: &[Source]) -> Option<&Gap> {
        self.gaps.iter().find(|gap| sources.contains(&gap.source))
    }

    /// Whether a PVC has this name. `None` if it is not known.
    fn has_claim(&self, name: &KeyName) -> Option<bool> {
        let found = self.claims.contains(name.as_str());
        (found || self.lacks(&[Source::Claims]).is_none()).then_some(found)
    }

    fn osd(&self, osd: OsdFacts, key: Option<KeyInfo>) -> Row {
        let (state, reason) = match (&osd.name, &key) {
            (None, _) => (State::Unknown, osd.fault.clone()),
            (Some(_), None) => match self.lacks(&[Source::Keys]) {
                None => (State::Missing, Some("the KMS has no key of this name".to_owned())),
                Some(_) => (State::Unknown, Some("not every key was listed".to_owned())),
            },
            (Some(_), Some(key)) if key.state == Some(KeyState::Disabled) => {
                (State::Missing, Some("the key is disabled, and the KMS does not hand it out".to_owned()))
            }
            (Some(_), Some(key)) if key.state == Some(KeyState::Destroyed) => {
                (State::Missing, Some("the KMS has the name of the key, and no longer its KEK".to_owned()))
            }
            (Some(name), Some(key)) => match self.devices.get(name) {
                Some(Some(problem)) => (State::Mixed, Some(problem.clone())),
                _ => self.age(key),
            },
        };
        let has_claim = osd.name.as_ref().and_then(|name| self.has_claim(name));
        Row { name: osd.name.clone(), has_claim, key, state, reason, osd: Some(osd) }
    }

    fn key(&self, key: KeyInfo) -> Row {
        let has_claim = self.has_claim(&key.name);
        let (state, reason) = match (has_claim, self.lacks(State::Orphan.needs())) {
            (Some(true), _) => match self.age(&key) {
                (State::Ok, _) => (State::Ok, Some("no OSD uses it yet; its PVC exists".to_owned())),
                other => other,
            },
            (_, Some(gap)) => {
                let reason =
                    format!("no OSD is known to use it, but not all {} are known", gap.source.as_str());
                (State::Unknown, Some(reason))
            }
            (_, None) => (State::Orphan, Some("no OSD and no PVC has this name".to_owned())),
        };
        Row { name: Some(key.name.clone()), osd: None, has_claim, key: Some(key), state, reason }
    }

    /// The state that follows from the age of a key.
    fn age(&self, key: &KeyInfo) -> (State, Option<String>) {
        let Some(limit) = self.older_than else { return (State::Ok, None) };
        let Some(stored) = key.updated.or(key.created) else {
            return (State::Unknown, Some("the KMS does not tell when it was stored".to_owned()));
        };
        if is_older(stored, limit, self.now) {
            (State::Stale, Some("its current version is older than allowed".to_owned()))
        } else {
            (State::Ok, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use kms_core::KeyVersion;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + 1_000 * DAY
    }

    fn name(text: &str) -> KeyName {
        text.parse().unwrap()
    }

    fn osd(id: u32, key: &str) -> OsdFacts {
        OsdFacts { id: Some(id), name: Some(name(key)), ..OsdFacts::default() }
    }

    fn key(text: &str, days: u32) -> KeyInfo {
        KeyInfo::new(name(text)).with_version(KeyVersion::new("3")).with_times(None, Some(now() - days * DAY))
    }

    /// OSDs a and b, PVCs a, b and c, keys a, c and d; b has no key and d no OSD.
    fn facts(gaps: Vec<Gap>) -> Facts {
        Facts {
            osds: vec![osd(1, "b"), osd(0, "a")],
            claims: ["a", "b", "c"].map(str::to_owned).into(),
            keys: vec![key("d", 1), key("c", 1), key("a", 100)],
            devices: BTreeMap::new(),
            gaps,
        }
    }

    fn states(facts: Facts, older_than: Option<Duration>) -> Vec<(String, State)> {
        let rows = Inventory::new(facts, now(), older_than).rows;
        rows.into_iter()
            .map(|row| (row.name.map(|name| name.to_string()).unwrap_or_default(), row.state))
            .collect()
    }

    fn expected(states: [State; 4]) -> Vec<(String, State)> {
        ["a", "b", "c", "d"].map(str::to_owned).into_iter().zip(states).collect()
    }

    #[test]
    fn osds_come_by_number_and_then_the_keys_without_one() {
        use State::{Missing, Ok, Orphan, Stale};
        assert_eq!(states(facts(Vec::new()), None), expected([Ok, Missing, Ok, Orphan]));
        assert_eq!(states(facts(Vec::new()), Some(90 * DAY)), expected([Stale, Missing, Ok, Orphan]));
        assert_eq!(states(facts(Vec::new()), Some(100 * DAY)), expected([Ok, Missing, Ok, Orphan]));
    }

    #[test]
    fn nothing_is_an_orphan_and_nothing_is_missing_while_a_source_is_incomplete() {
        use State::{Missing, Ok, Unknown};
        let gap = |source| vec![Gap::new(source, "cut")];
        for (source, second) in [(Source::Keys, Unknown), (Source::Osds, Missing), (Source::Claims, Missing)]
        {
            assert_eq!(states(facts(gap(source)), None), expected([Ok, second, Ok, Unknown]), "{source:?}");
        }
        assert_eq!(states(facts(gap(Source::Nodes)), None), states(facts(Vec::new()), None));
        // Without the list of PVCs, c has no claim either.
        let mut without = facts(gap(Source::Claims));
        without.claims.clear();
        assert_eq!(states(without, None), expected([Ok, Missing, Unknown, Unknown]));
    }

    #[test]
    fn a_device_that_does_not_open_makes_its_osd_mixed() {
        let mut facts = facts(Vec::new());
        facts.devices = [(name("a"), Some("slot".to_owned())), (name("b"), None)].into();
        let rows = Inventory::new(facts, now(), Some(90 * DAY)).rows;
        assert_eq!((rows[0].state, rows[0].reason.as_deref()), (State::Mixed, Some("slot")));
    }

    #[test]
    fn an_age_that_is_not_known_is_not_stale() {
        let facts =
            Facts { osds: vec![osd(0, "a")], keys: vec![KeyInfo::new(name("a"))], ..Facts::default() };
        assert_eq!(states(facts, Some(DAY)), [("a".to_owned(), State::Unknown)]);
        // A key that the KMS does not hand out is no key.
        for state in [KeyState::Disabled, KeyState::Destroyed] {
            let kept = key("a", 0).with_state(Some(state));
            let facts = Facts { osds: vec![osd(0, "a")], keys: vec![kept], ..Facts::default() };
            assert_eq!(states(facts, None), [("a".to_owned(), State::Missing)]);
        }
        // The server's clock is ahead of ours.
        let ahead = key("a", 0).with_times(None, Some(now() + DAY));
        let facts = Facts { osds: vec![osd(0, "a")], keys: vec![ahead], ..Facts::default() };
        assert_eq!(states(facts, Some(DAY)), [("a".to_owned(), State::Ok)]);
    }

    #[test]
    fn a_deployment_that_cannot_be_understood_is_a_row_of_its_own() {
        let fault = OsdFacts { id: Some(7), fault: Some("odd".to_owned()), ..OsdFacts::default() };
        let error = Error::new(ErrorKind::ConfigInvalid, "odd");
        let gaps = vec![Gap::failed(Source::Osds, "odd", error)];
        let facts = Facts { osds: vec![fault], keys: vec![key("a", 1)], gaps, ..Facts::default() };
        let inventory = Inventory::new(facts, now(), None);
        let states: Vec<_> = inventory.rows.iter().map(|row| row.state).collect();
        assert_eq!(states, [State::Unknown, State::Unknown]);
        assert!(!inventory.is_complete());
    }

    #[test]
    fn a_state_is_excluded_only_if_its_sources_were_seen() {
        let cannot = |gaps, devices: &[(&str, Option<&str>)]| {
            let mut facts =
                Facts { osds: vec![osd(0, "a")], keys: vec![key("a", 1)], gaps, ..Facts::default() };
            facts.devices = devices.iter().map(|(key, why)| (name(key), why.map(str::to_owned))).collect();
            let inventory = Inventory::new(facts, now(), None);
            inventory.cannot_exclude(&[State::Missing, State::Mixed, State::Orphan, State::Stale])
        };
        let set = |states: &[State]| states.iter().copied().collect::<BTreeSet<_>>();
        let failed = |source| vec![Gap::failed(source, "x", Error::new(ErrorKind::PermissionDenied, "x"))];
        assert_eq!(cannot(Vec::new(), &[]), set(&[]));
        assert_eq!(cannot(Vec::new(), &[("a", Some("x"))]), set(&[State::Mixed]));
        assert_eq!(cannot(failed(Source::Nodes), &[]), set(&[]));
        assert_eq!(cannot(failed(Source::Devices), &[]), set(&[State::Mixed]));
        assert_eq!(cannot(failed(Source::Claims), &[]), set(&[State::Orphan]));
        assert_eq!(
            cannot(failed(Source::Keys), &[]),
            set(&[State::Missing, State::Mixed, State::Orphan, State::Stale])
        );
        // A host knows its own OSDs: only what needs all OSDs is open.
        assert_eq!(cannot(vec![Gap::new(Source::Osds, "host")], &[]), set(&[State::Orphan]));
    }

    #[test]
    fn an_orphan_is_kept_if_it_is_too_young_or_if_its_age_is_unknown() {
        let mut facts = facts(Vec::new());
        facts.keys.extend([key("e", 100), KeyInfo::new(name("f"))]);
        let inventory = Inventory::new(facts, now(), None);
        let kept = |days: u32| -> Vec<_> {
            let orphans = inventory.orphans(DAY * days, now()).unwrap();
            orphans.iter().map(|orphan| (orphan.name.as_str(), orphan.kept)).collect()
        };
        let young = Some("it is not old enough");
        assert_eq!(kept(90), [("d", young), ("e", None), ("f", Some("the KMS does not tell its age"))]);
        assert_eq!(kept(100)[1], ("e", young));
        assert_eq!(kept(0), [("d", None), ("e", None), ("f", None)]);
    }

    #[test]
    fn no_key_is_an_orphan_to_be_deleted_while_a_source_is_incomplete() {
        for source in [Source::Osds, Source::Claims, Source::Keys] {
            let inventory = Inventory::new(facts(vec![Gap::new(source, "cut")]), now(), None);
            let error = inventory.orphans(Duration::ZERO, now()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Incomplete, "{source:?}");
            let denied = Error::new(ErrorKind::PermissionDenied, "no");
            let inventory = Inventory::new(facts(vec![Gap::failed(source, "no", denied)]), now(), None);
            let error = inventory.orphans(Duration::ZERO, now()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{source:?}");
        }
        // The nodes do not matter.
        let inventory = Inventory::new(facts(vec![Gap::new(Source::Nodes, "cut")]), now(), None);
        assert_eq!(inventory.orphans(Duration::ZERO, now()).unwrap().len(), 1);
    }
}
