//! The rules over the inventory of OSDs and keys.

use super::{
    code::Code,
    codes::{MISSING, ORPHAN, STALE},
    commands::Commands,
    diagnosis::{Diagnosis, Finding},
};
use crate::inventory::{Inventory, Row, State};

/// Checks the rows of an inventory. A check that a gap of the inventory keeps from being made is left out, so that
/// [`Diagnosis::settle`] names the finding behind the gap.
///
/// `with_age` says whether the inventory was made with an age from which a key is stale.
pub fn keys(inventory: &Inventory, with_age: bool, commands: &Commands, diagnosis: &mut Diagnosis) {
    let osds = inventory.rows.iter().filter(|row| row.osd.is_some()).count();
    let checks: [(Code, State, String); 3] = [
        (MISSING, State::Missing, format!("{osds} OSDs have their keys")),
        (ORPHAN, State::Orphan, "every key has an OSD or a PVC".to_owned()),
        (STALE, State::Stale, "no key is older than allowed".to_owned()),
    ];
    for (code, state, fine) in checks {
        let found: Vec<_> = inventory.rows.iter().filter(|row| row.state == state).collect();
        let can_rule_out = inventory.cannot_exclude(&[state]).is_empty();
        if found.is_empty() && (!can_rule_out || (state == State::Stale && !with_age)) {
            continue;
        }
        diagnosis.add_all(code, found.into_iter().map(|row| finding(code, row, commands)), "keys", fine);
    }
}

fn finding(code: Code, row: &Row, commands: &Commands) -> Finding {
    let key = row.name.as_ref().map(ToString::to_string).unwrap_or_default();
    let reason = row.reason.as_deref().unwrap_or_default();
    let osd = row.osd.as_ref().and_then(|osd| osd.id);
    let object = osd.map_or_else(|| format!("key {key}"), |id| format!("{key} (OSD {id})"));
    let (message, next) = match (row.state, &row.name) {
        (State::Missing, Some(name)) => {
            (format!("{reason}: the OSD does not start again"), commands.recover(name))
        }
        (State::Stale, Some(name)) => (reason.to_owned(), commands.kms(&format!("rotate {name} DEVICE"))),
        _ => (format!("{reason}: it is left over, or of another cluster"), commands.kms("inventory")),
    };
    Finding::new(code, object, message, next)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use kms_core::{Error, ErrorKind, KeyInfo};

    use super::*;
    use crate::{
        doctor::diagnosis::State as Checked,
        inventory::{Facts, Gap, OsdFacts, Source},
    };

    fn checked(gaps: Vec<Gap>, older_than: Option<Duration>) -> Vec<(Code, Checked, Option<String>)> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let old =
            |name: &str| KeyInfo::new(name.parse().unwrap()).with_times(Some(SystemTime::UNIX_EPOCH), None);
        let facts = Facts {
            osds: vec![
                OsdFacts::on_host(Some(0), "a".parse().unwrap(), None),
                OsdFacts::on_host(Some(1), "b".parse().unwrap(), None),
            ],
            keys: vec![old("a"), old("c")],
            gaps,
            ..Facts::default()
        };
        let mut diagnosis = Diagnosis::new();
        let commands = Commands::new("kms", "kubectl", "c");
        keys(&Inventory::new(facts, now, older_than), older_than.is_some(), &commands, &mut diagnosis);
        let entries = diagnosis.settle(&[MISSING, ORPHAN, STALE], &[]);
        entries.into_iter().map(|entry| (entry.code, entry.state, entry.object)).collect()
    }

    #[test]
    fn each_state_of_a_row_is_a_finding_about_its_key() {
        let some = |object: &str| Some(object.to_owned());
        let mut expected =
            vec![(MISSING, Checked::Error, some("b (OSD 1)")), (ORPHAN, Checked::Warning, some("key c"))];
        assert_eq!(checked(Vec::new(), None), expected);
        expected.push((STALE, Checked::Warning, some("a (OSD 0)")));
        assert_eq!(checked(Vec::new(), Some(Duration::from_secs(60))), expected);
        expected.pop();
        expected.push((STALE, Checked::Ok, some("keys")));
        assert_eq!(checked(Vec::new(), Some(Duration::from_secs(2_000_000))), expected);
    }

    #[test]
    fn a_gap_leaves_out_what_it_does_not_rule_out() {
        let denied = || Error::new(ErrorKind::PermissionDenied, "no");
        let found = checked(vec![Gap::failed(Source::Claims, "no", denied())], None);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(checked(vec![Gap::failed(Source::Keys, "no", denied())], None).is_empty());
    }
}
