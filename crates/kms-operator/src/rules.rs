//! The rules for the keys of one CephCluster: its KeyPolicies, and `security.keyRotation` where they say nothing.

use std::time::Duration;

use jiff::Timestamp;
use kms_core::{Error, Result, config::parse_duration};
use kms_kube::CephCluster;
use kms_rook::Schedule;

use crate::{
    api::{KeyPolicySpec, Verify},
    window::Window,
};

/// The label of nodes that names the failure domain, unless a policy names another one.
const ZONE: &str = "topology.kubernetes.io/zone";

/// How old the proof that the KEK opens the devices may become, unless a policy says so: 30 days.
///
/// Verifications are on without a policy: that a KEK does not open a device shows otherwise when the OSD starts again, and
/// then the data is away. Where keys are rotated in that time, a verification never begins.
const PROOF_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// The least age of a proof: each one is a Job.
const LEAST_PROOF_AGE: Duration = Duration::from_secs(3600);

/// The KeyPolicies, by name.
pub(crate) type Policies<'a> = &'a [(String, KeyPolicySpec)];

/// What is wanted of the keys of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) schedule: Schedule,
    pub(crate) max_age: Option<Duration>,
    pub(crate) window: Option<Window>,
    pub(crate) max_parallel: usize,
    /// The label of nodes that names the failure domain.
    pub(crate) domain_label: String,
    /// How old the proof that the KEK opens the devices may become; `None` if nothing but rotations makes one.
    pub(crate) proof_age: Option<Duration>,
}

impl Rules {
    /// The rules for a cluster.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the policy or the schedule of the cluster is not valid.
    pub(crate) fn of(cluster: &CephCluster, policy: Option<&(String, KeyPolicySpec)>) -> Result<Self> {
        let (name, spec) = match policy {
            Some((name, spec)) => (Some(name), spec.clone()),
            None => (None, KeyPolicySpec::default()),
        };
        let KeyPolicySpec { schedule, window, max_age, max_parallel, failure_domain, verify, .. } = spec;
        let of_cluster = &cluster.spec.security.key_rotation.schedule;
        let read = || {
            Ok(Self {
                schedule: Schedule::parse(schedule.as_deref().unwrap_or(of_cluster))?,
                max_age: max_age.as_deref().map(|age| duration("maxAge", age)).transpose()?,
                window: window.as_ref().map(Window::of).transpose()?,
                max_parallel: max_parallel.and_then(|most| usize::try_from(most).ok()).unwrap_or(1).max(1),
                domain_label: failure_domain
                    .filter(|label| !label.is_empty())
                    .unwrap_or_else(|| ZONE.to_owned()),
                proof_age: proof_age(verify.unwrap_or_default())?,
            })
        };
        let rules: Result<Self> = read();
        rules.map_err(|error| match name {
            Some(name) => error.context("keypolicy", name),
            None => error,
        })
    }

    /// The first moment from `from` on at which a Job may begin. If that moment has passed, it is the moment since which one
    /// may begin. `Timestamp::MAX` stands for no moment.
    pub(crate) fn earliest(&self, from: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let Some(window) = &self.window else { return Some(from).filter(|from| *from != Timestamp::MAX) };
        let at = from.max(now);
        match window.opened(at) {
            Some(opened) => Some(from.max(opened)),
            None => window.next(at),
        }
    }
}

fn duration(setting: &str, text: &str) -> Result<Duration> {
    parse_duration(text).map_err(|why| Error::config(format!("{setting} is {why}")))
}

fn proof_age(verify: Verify) -> Result<Option<Duration>> {
    let Verify { enabled, max_age } = verify;
    let age = max_age.map_or(Ok(PROOF_AGE), |age| duration("verify.maxAge", &age))?;
    if age < LEAST_PROOF_AGE {
        return Err(Error::config("verify.maxAge is shorter than an hour: set a longer one"));
    }
    Ok(enabled.then_some(age))
}

/// The policy for a namespace: one that names the namespace before one for all, then the first by name.
pub(crate) fn policy_for<'a>(
    policies: Policies<'a>,
    kube_namespace: &str,
) -> Option<&'a (String, KeyPolicySpec)> {
    let holds = |(_, spec): &&(String, KeyPolicySpec)| holds(spec, kube_namespace);
    policies.iter().filter(holds).min_by_key(|(name, spec)| (spec.namespaces.is_empty(), name))
}

/// Whether any policy pauses a namespace, also one that another policy outranks.
pub(crate) fn pauses(policies: Policies<'_>, kube_namespace: &str) -> bool {
    policies.iter().any(|(_, spec)| spec.paused && holds(spec, kube_namespace))
}

/// How many Jobs may run at a time for a KMS: the least number that any policy names, also one for other namespaces.
pub(crate) fn limit_of(policies: Policies<'_>, provider: &str) -> Option<usize> {
    let limits = policies.iter().flat_map(|(_, spec)| &spec.limits);
    let of_provider = limits.filter(|limit| limit.provider == provider);
    of_provider.filter_map(|limit| usize::try_from(limit.max_parallel).ok()).min()
}

fn holds(spec: &KeyPolicySpec, kube_namespace: &str) -> bool {
    spec.namespaces.is_empty() || spec.namespaces.iter().any(|name| name == kube_namespace)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(name: &str, spec: serde_json::Value) -> (String, KeyPolicySpec) {
        (name.to_owned(), serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn a_policy_that_names_the_namespace_comes_first_and_any_policy_pauses() {
        let policies = [
            policy("a", json!({"paused": true})),
            policy("b", json!({})),
            policy("y", json!({"namespaces": ["rook-ceph", "other"]})),
            policy("z", json!({"namespaces": ["rook-ceph"]})),
        ];
        let chosen = |kube_namespace: &str| policy_for(&policies, kube_namespace).unwrap().0.as_str();
        assert_eq!((chosen("rook-ceph"), chosen("third")), ("y", "a"));
        assert!(pauses(&policies, "rook-ceph"));
        assert!(!pauses(&policies[1..], "rook-ceph"));
        assert_eq!(policy_for(&policies[2..], "third"), None);
    }

    #[test]
    fn what_a_policy_does_not_say_comes_from_the_cluster_or_is_the_default() {
        let cluster: CephCluster =
            serde_json::from_value(json!({"spec": {"security": {"keyRotation": {"schedule": "@daily"}}}}))
                .unwrap();
        let rules = Rules::of(&cluster, None).unwrap();
        assert_eq!((rules.schedule.as_str(), rules.max_parallel, rules.max_age), ("@daily", 1, None));
        assert!(rules.window.is_none());
        assert_eq!(rules.proof_age, Some(PROOF_AGE));
        assert_eq!(rules.domain_label, ZONE);
        let set = policy(
            "p",
            json!({"schedule": "0 3 * * 0", "maxParallel": 4, "maxAge": "2160h", "failureDomain": "rack"}),
        );
        let rules = Rules::of(&cluster, Some(&set)).unwrap();
        assert_eq!(
            (rules.schedule.as_str(), rules.max_parallel, rules.domain_label.as_str()),
            ("0 3 * * 0", 4, "rack")
        );
        assert_eq!(rules.max_age, Some(Duration::from_secs(2160 * 3600)));
        for (wrong, expected) in [
            (json!({"schedule": "often"}), "is not a cron schedule"),
            (json!({"maxAge": "long"}), "maxAge is "),
            (json!({"verify": {"maxAge": "59m"}}), "verify.maxAge is shorter than an hour"),
        ] {
            let error = Rules::of(&cluster, Some(&policy("p", wrong))).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn the_least_limit_of_all_policies_counts_for_a_provider() {
        let limit = |name: &str, provider: &str, most: u32| {
            policy(
                name,
                json!({"namespaces": [name], "limits": [{"provider": provider, "maxParallel": most}]}),
            )
        };
        let policies = [limit("a", "vault", 4), limit("b", "vault", 2), limit("c", "kmip", 1)];
        let of = |provider: &str| limit_of(&policies, provider);
        assert_eq!((of("vault"), of("kmip"), of("kubernetes")), (Some(2), Some(1), None));
    }

    #[test]
    fn verifications_are_on_unless_a_policy_turns_them_off() {
        let of = |verify: serde_json::Value| {
            let policy = policy("p", json!({"verify": verify}));
            Rules::of(&CephCluster::default(), Some(&policy)).unwrap().proof_age
        };
        assert_eq!(of(json!({})), Some(PROOF_AGE));
        assert_eq!(of(json!({"maxAge": "168h"})), Some(Duration::from_secs(168 * 3600)));
        assert_eq!(of(json!({"enabled": false, "maxAge": "168h"})), None);
    }
}
