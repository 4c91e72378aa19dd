//! What an `OsdKey` shows.

use jiff::Timestamp;
use kms_core::ErrorKind;

use crate::{
    api::{
        Condition,
        ConditionStatus::{self, False, True, Unknown},
        ConditionType, OsdKeyStatus,
    },
    clock::whole_seconds,
    escrow::EscrowPlan,
    facts::{Facts, Obstacle, OsdFacts},
    outlook::Outlook,
    proof::Proof,
    reports::{Failure, Refutation},
};

/// The reason of `Verified` if nothing has proven the KEK yet.
pub(crate) const NOT_VERIFIED: &str = "NotVerified";
/// The reason of `Verified` if the KMS could not be reached, or could not work.
const KMS_UNAVAILABLE: &str = "KmsUnavailable";
/// The reason of `Verified` if the KMS did not accept the credentials of a verification, or did not allow it to read the KEK.
const KMS_DENIED: &str = "KmsDenied";
/// The reason of `Verified` if a verification could not be made for any other reason, such as a device that is in use.
const VERIFICATION_INCOMPLETE: &str = "VerificationIncomplete";

/// A state, why in one word, and why in a sentence.
type State = (ConditionStatus, &'static str, String);

/// The status of an OSD's key. Nothing in it changes by the passing of time alone, so that nothing is written without a reason.
pub(crate) fn of(osd: &OsdFacts, outlook: &Outlook, escrow: &EscrowPlan, facts: &Facts) -> OsdKeyStatus {
    let stopped = facts.rules.is_err() || is_paused(osd, facts);
    let text = |time: Timestamp| whole_seconds(time).to_string();
    let states = [
        (ConditionType::Ready, ready(osd, outlook, facts)),
        (ConditionType::Rotating, rotating(outlook)),
        (ConditionType::Verified, verified(osd, outlook)),
        (ConditionType::Escrowed, escrowed(osd, outlook, escrow, facts)),
    ];
    OsdKeyStatus {
        provider: facts.provider.clone(),
        node: osd.node.clone(),
        key_version: osd.last.as_ref().and_then(|last| last.generation),
        rotated_at: outlook.rotated.map(text),
        verified_at: outlook.proof.made.map(text),
        escrowed_at: facts.escrow.made.filter(|at| !is_newer(osd, outlook, *at)).map(text),
        next_rotation_at: outlook.earliest.filter(|_| !stopped).map(text),
        failed_attempts: outlook.failures,
        rotate_now: outlook.answered.clone(),
        job: outlook.active.clone(),
        conditions: states.map(|(type_, state)| condition(type_, state, osd, facts.now)).into(),
    }
}

/// A condition. Its transition time stays while its status is the same.
pub(crate) fn condition(type_: ConditionType, state: State, osd: &OsdFacts, now: Timestamp) -> Condition {
    let (status, reason, message) = state;
    let before = osd.status.conditions.iter().find(|before| before.type_ == type_ && before.status == status);
    Condition {
        type_,
        status,
        reason: reason.to_owned(),
        message,
        last_transition_time: before
            .map_or_else(|| whole_seconds(now).to_string(), |before| before.last_transition_time.clone()),
        observed_generation: osd.generation,
    }
}

fn is_paused(osd: &OsdFacts, facts: &Facts) -> bool {
    facts.is_paused || osd.is_paused
}

fn ready(osd: &OsdFacts, outlook: &Outlook, facts: &Facts) -> State {
    let Outlook { rotated, failures, active, due, earliest, too_old, .. } = outlook;
    match &facts.rules {
        Err(Obstacle::RookRotates(why)) => return (False, "RookRotates", why.clone()),
        Err(Obstacle::Invalid(why)) => return (False, "Invalid", why.clone()),
        Ok(_) => {}
    }
    let at = |time: &Option<Timestamp>| {
        time.map_or_else(|| "an unknown time".to_owned(), |time| whole_seconds(time).to_string())
    };
    if let Some(claim) = &osd.lost_claim {
        let why = format!(
            "the PersistentVolumeClaim {claim} of its devices is absent or being deleted, so no Job could use them"
        );
        return (False, "NoClaim", why);
    }
    if let Some(refuted) = refuted(osd, &outlook.proof) {
        return refuted;
    }
    let waits = earliest.is_some_and(|earliest| earliest > facts.now);
    if *failures > 0 {
        let next = if waits {
            format!("the next one may begin at {}", at(earliest))
        } else {
            "the next one is due".to_owned()
        };
        let count =
            if *failures == 1 { "a rotation has".to_owned() } else { format!("{failures} rotations have") };
        return (False, "RotationFailed", format!("{count} failed, see the logs of the Jobs; {next}"));
    }
    if too_old.is_some_and(|too_old| too_old <= facts.now) {
        return (False, "TooOld", format!("the key is older than the policy allows since {}", at(too_old)));
    }
    if is_paused(osd, facts) {
        let is_due = if due.is_some() { False } else { True };
        return (is_due, "Paused", "the operator is paused here".to_owned());
    }
    match (active, due) {
        (Some(job), _) => (True, "Rotating", format!("the Job {job} rotates the key")),
        (None, Some(_)) if osd.domain.is_none() => (
            False,
            "NoNode",
            "a rotation is due, and the OSD has no node that its Job could run on".to_owned(),
        ),
        (None, Some(_)) if waits => {
            (True, "Due", format!("a rotation is due since {}, and may begin at {}", at(due), at(earliest)))
        }
        (None, Some(_)) => {
            (True, "Due", format!("a rotation is due since {}, and waits for its turn", at(due)))
        }
        (None, None) => match rotated {
            Some(_) => (True, "UpToDate", format!("the key was rotated at {}", at(rotated))),
            None => (True, "UpToDate", "no rotation was due since the OSD was created".to_owned()),
        },
    }
}

fn rotating(outlook: &Outlook) -> State {
    match &outlook.active {
        Some(job) => (True, "JobRuns", format!("the Job {job} rotates the key")),
        None => (False, "NoJob", "no Job of the operator rotates the key".to_owned()),
    }
}

fn verified(osd: &OsdFacts, outlook: &Outlook) -> State {
    let Outlook { rotated, proof, .. } = outlook;
    if let Some(refuted) = refuted(osd, proof) {
        return refuted;
    }
    if let Some((at, failure)) = proof.untried {
        return untried(at, failure, proof.made);
    }
    let Some(made) = proof.made.map(whole_seconds) else {
        return (Unknown, NOT_VERIFIED, "no rotation and no verification is recorded".to_owned());
    };
    // A rotation ends with success only after the new KEK has opened every device.
    if rotated.is_some_and(|rotated| whole_seconds(rotated) >= made) {
        return (
            True,
            "RotationSucceeded",
            format!("the rotation of {made} has opened every device with the new KEK"),
        );
    }
    (True, "VerificationSucceeded", format!("the verification of {made} has opened every device"))
}

/// The state of a key whose OSD was seen not to start; `None` if it was not.
fn refuted(osd: &OsdFacts, proof: &Proof) -> Option<State> {
    let (at, refutation) = proof.refuted?;
    let (at, key) = (whole_seconds(at), &osd.key);
    let why = match refutation {
        Refutation::Kek => format!(
            "the Job that ended at {at} has seen that the KEK does not open every device, or that the KMS has no such KEK, see \
             its log; do not restart the OSD before the KEK opens its devices"
        ),
        Refutation::Header => format!(
            "the Job that ended at {at} has seen a device without a LUKS header that can be used, see its log; while the OSD runs \
             it has its data, so do not restart it, and write nothing to the device; if an escrow has the header, prove it (kms \
             escrow drill), then stop the OSD and put the header back (kms escrow restore DIR {key} --header DEVICE --uuid \
             UUID); if none has it, move the data away (ceph osd out {})",
            osd.id
        ),
    };
    Some((False, refutation.reason(), why))
}

/// The state of a key whose last verification could not be made. Nothing follows from that about the KEK.
fn untried(at: Timestamp, failure: Option<Failure>, made: Option<Timestamp>) -> State {
    let reason = match failure.filter(|failure| failure.is_of_kms).map(|failure| failure.kind) {
        Some(ErrorKind::RateLimited | ErrorKind::Timeout | ErrorKind::Unavailable) => KMS_UNAVAILABLE,
        Some(ErrorKind::PermissionDenied | ErrorKind::Unauthenticated) => KMS_DENIED,
        _ => VERIFICATION_INCOMPLETE,
    };
    let why =
        failure.map_or_else(|| "its pod reports nothing".to_owned(), |failure| failure.kind.to_string());
    let last =
        made.map(whole_seconds).map_or_else(|| "there is none".to_owned(), |made| format!("it is of {made}"));
    let at = whole_seconds(at);
    let message = format!(
        "the verification of {at} could not be made ({why}), see the log of its Job; it is tried again, and the last proof counts \
         until then: {last}"
    );
    (Unknown, reason, message)
}

fn escrowed(osd: &OsdFacts, outlook: &Outlook, escrow: &EscrowPlan, facts: &Facts) -> State {
    let made = facts.escrow.made;
    // A KEK that is in an escrow stays there, whatever becomes of the next one.
    if made.is_none_or(|at| is_newer(osd, outlook, at))
        && let Some(why) = escrow.problem()
    {
        return (False, "EscrowFailed", why);
    }
    match made {
        None => (
            Unknown,
            "NotRecorded",
            "the CephCluster records no escrow of all keys (kms escrow create --cluster)".to_owned(),
        ),
        Some(at) if is_newer(osd, outlook, at) => {
            (False, "ChangedSince", format!("the last escrow of all keys is of {at}, and the KEK is newer"))
        }
        Some(at) => (True, "Saved", format!("the KEK was there when the escrow of {at} was made")),
    }
}

/// Whether the current KEK is newer than an escrow of this time. Both times are whole seconds.
fn is_newer(osd: &OsdFacts, outlook: &Outlook, escrow: Timestamp) -> bool {
    outlook.rotated.or(osd.created).is_some_and(|since| whole_seconds(since) > escrow)
}
