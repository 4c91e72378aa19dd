//! What `kms check` shows of this provider.

use k8s_openapi::api::{
    authentication::v1::SelfSubjectReview,
    authorization::v1::{
        ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SelfSubjectRulesReview,
        SelfSubjectRulesReviewSpec,
    },
};
use kms_core::{Error, ErrorKind, KeyName, Probe, Result, UpdateRight};
use serde::Deserialize;

use crate::{
    PROVIDER,
    api::{Secrets, read, review},
    error::{Cause, Failure, Target},
    name::Names,
};

const CONNECT: &str = "connect";
const LOGIN: &str = "login";
const PERMISSIONS: &str = "permissions";

/// What is done to Secrets, and what cannot be done without it. Opening a device takes the first alone.
const VERBS: [(&str, &str); 5] = [
    ("get", "no key can be read"),
    ("create", "no key can be created"),
    ("update", "no key can be rotated or overwritten"),
    ("delete", "no key can be deleted"),
    ("list", "keys cannot be listed"),
];

/// What the server says of itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    git_version: String,
}

pub(crate) async fn probe(secrets: &Secrets) -> Probe {
    let Secrets { connection, kube_namespace } = secrets;
    let mut probe = Probe::new();
    let server = connection.server().unwrap_or("the client's own server");
    probe.pass("config", format!("{server}, namespace {kube_namespace}"));

    match read::<Version>(connection, "/version", &target("get", "", "version")).await {
        Ok(version) => probe.pass(CONNECT, format!("Kubernetes {}", version.git_version)),
        // Some clusters do not tell strangers their version; that they refuse is an answer as well.
        Err(Failure { error, .. })
            if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unauthenticated) =>
        {
            probe.pass(CONNECT, "an API server that does not show its version");
        }
        Err(failure) => return failed(probe, CONNECT, failure, &[LOGIN, PERMISSIONS]),
    }

    let question = SelfSubjectReview::default();
    let about = target("create", "authentication.k8s.io", "selfsubjectreviews");
    let account = match review(connection, &question, &about).await {
        Ok(answer) => {
            let account = answer.status.and_then(|status| status.user_info?.username).unwrap_or_default();
            probe.pass(LOGIN, format!("as {account}"));
            account
        }
        // Kubernetes before 1.28, or an account that may not even ask who it is.
        Err(Failure { cause: Cause::NoSuchResource, .. }) => {
            probe.pass(LOGIN, "done, the API server does not say as whom");
            "this account".to_owned()
        }
        Err(Failure { error, .. }) if error.kind() == ErrorKind::PermissionDenied => {
            probe.pass(LOGIN, "done, the account may not ask as whom");
            "this account".to_owned()
        }
        Err(failure) => return failed(probe, LOGIN, failure, &[PERMISSIONS]),
    };

    for (verb, loss) in VERBS {
        match may(secrets, verb).await {
            Ok(May::All) => probe.pass(PERMISSIONS, format!("{verb} secrets: yes")),
            Ok(May::Named(names)) => {
                probe.pass(PERMISSIONS, format!("{verb} secrets: only those of {names} given names"));
            }
            Ok(May::No) if verb == "get" => {
                let error = Error::new(
                    ErrorKind::PermissionDenied,
                    format!(
                        "{account} may not get secrets in namespace {kube_namespace}, so {loss}: add to its Role the \
                         rule {{apiGroups: [\"\"], resources: [\"secrets\"], verbs: [\"get\"]}}"
                    ),
                );
                return failed(probe, PERMISSIONS, error.into(), &[]);
            }
            Ok(May::No) => probe.pass(PERMISSIONS, format!("{verb} secrets: missing, so {loss}")),
            Err(failure) if failure.error.kind() == ErrorKind::PermissionDenied => {
                probe.pass(PERMISSIONS, "the account may not ask what it may do");
                break;
            }
            Err(failure) => return failed(probe, PERMISSIONS, failure, &[]),
        }
    }
    probe
}

/// Whether something is allowed.
enum May {
    All,
    Named(usize),
    No,
}

/// Whether the Secrets of these keys may be updated: one question about all Secrets, and one about each if not.
pub(crate) async fn may_update(secrets: &Secrets, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
    let ask = async |name: Option<String>| match allowed(secrets, "update", name).await {
        Ok(true) => Ok(UpdateRight::Granted),
        Ok(false) => Ok(UpdateRight::Denied),
        Err(failure) if failure.error.kind() == ErrorKind::PermissionDenied => Ok(UpdateRight::Unknown),
        Err(failure) => Err(failure.error.operation("rights").provider(PROVIDER)),
    };
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let all = ask(None).await?;
    if all != UpdateRight::Denied {
        return Ok(vec![all; names.len()]);
    }
    let mut rights = Vec::with_capacity(names.len());
    for name in names {
        rights.push(ask(Some(Names::of(name).secret)).await?);
    }
    Ok(rights)
}

/// Whether our account may do something with Secrets: with all, or with the one of a name.
async fn allowed(secrets: &Secrets, verb: &str, name: Option<String>) -> Result<bool, Failure> {
    let Secrets { connection, kube_namespace } = secrets;
    let question = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(kube_namespace.clone()),
                resource: Some("secrets".to_owned()),
                verb: Some(verb.to_owned()),
                name,
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let about = target("create", "authorization.k8s.io", "selfsubjectaccessreviews");
    Ok(review(connection, &question, &about).await?.status.is_some_and(|status| status.allowed))
}

async fn may(secrets: &Secrets, verb: &str) -> Result<May, Failure> {
    let Secrets { connection, kube_namespace } = secrets;
    if allowed(secrets, verb, None).await? {
        return Ok(May::All);
    }
    // A Role may allow it for Secrets of given names only, which the first question is not about.
    let question = SelfSubjectRulesReview {
        spec: SelfSubjectRulesReviewSpec { namespace: Some(kube_namespace.clone()) },
        ..SelfSubjectRulesReview::default()
    };
    let about = target("create", "authorization.k8s.io", "selfsubjectrulesreviews");
    let rules = review(connection, &question, &about).await?.status.map(|status| status.resource_rules);
    let has = |list: &Option<Vec<String>>, wanted: &str| {
        list.iter().flatten().any(|one| one == wanted || one == "*")
    };
    let names = rules
        .iter()
        .flatten()
        .filter(|rule| {
            rule.verbs.iter().any(|one| one == verb || one == "*")
                && has(&rule.resources, "secrets")
                && has(&rule.api_groups, "")
        })
        .map(|rule| rule.resource_names.as_ref().map_or(0, Vec::len))
        .sum();
    Ok(if names == 0 { May::No } else { May::Named(names) })
}

fn failed(probe: Probe, step: &'static str, failure: Failure, not_run: &[&'static str]) -> Probe {
    probe.fail(step, failure.error.operation("probe").provider(PROVIDER), not_run)
}

fn target(verb: &'static str, group: &'static str, resource: &'static str) -> Target<'static> {
    Target { verb, group, resource, kube_namespace: None, name: None, hidden: &[] }
}
