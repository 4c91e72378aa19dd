//! Questions about the server, the account and its rights.

use k8s_openapi::{
    api::{
        authentication::v1::{SelfSubjectReview, TokenReview, TokenReviewStatus, UserInfo},
        authorization::v1::{
            NonResourceAttributes, ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
            SelfSubjectRulesReview, SelfSubjectRulesReviewSpec, SubjectAccessReview, SubjectAccessReviewSpec,
        },
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kms_core::{ExposeSecret as _, SecretString};
use kube::core::{Resource as _, params::PostParams};
use serde::{Deserialize, Serialize};

use super::{
    connect::Connection,
    error::{Failure, Target},
    exchange::{exchange, json, read, review},
    names::check_object,
    secrets::Secrets,
};

/// The lifetime of a token for an account, in seconds.
const TOKEN_LIFETIME: u32 = 600;

/// Asks the server for its version, such as `v1.36.0`.
///
/// # Errors
///
/// `PermissionDenied` or `Unauthenticated` from a server that hides its version; otherwise errors of the connection.
pub(super) async fn server_version(connection: &Connection) -> Result<String, Failure> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        git_version: String,
    }

    let version: Version = read(connection, "/version", &target("get", "", "version")).await?;
    Ok(version.git_version)
}

/// Asks the server for the name of the account that the connection uses.
///
/// # Errors
///
/// The cause is `NoSuchResource` before Kubernetes 1.28. `PermissionDenied` if the account may not ask.
pub(super) async fn account(connection: &Connection) -> Result<String, Failure> {
    let about = target("create", "authentication.k8s.io", "selfsubjectreviews");
    let answer = review(connection, &SelfSubjectReview::default(), &about).await?;
    Ok(answer.status.and_then(|status| status.user_info?.username).unwrap_or_default())
}

/// Reads the level of the Pod Security Standards that a namespace enforces by its label; `None` without the label.
///
/// # Errors
///
/// `PermissionDenied` if the account may not read the namespace; `ConfigInvalid` if the text cannot be the name of a
/// namespace; otherwise errors of the connection.
pub async fn pod_security(connection: &Connection, kube_namespace: &str) -> Result<Option<String>, Failure> {
    #[derive(Deserialize)]
    struct Namespace {
        metadata: ObjectMeta,
    }

    check_object("namespace", kube_namespace)?;
    let about = Target { name: Some(kube_namespace), ..target("get", "", "namespaces") };
    let found: Namespace = read(connection, &format!("/api/v1/namespaces/{kube_namespace}"), &about).await?;
    Ok(found.metadata.labels.and_then(|mut labels| labels.remove("pod-security.kubernetes.io/enforce")))
}

/// Asks whether a service account may do something.
///
/// # Errors
///
/// `PermissionDenied` if the account of the connection may not ask; otherwise errors of the connection.
pub async fn service_account_may(
    connection: &Connection,
    kube_namespace: &str,
    name: &str,
    what: ResourceAttributes,
) -> Result<bool, Failure> {
    let all = "system:serviceaccounts";
    let question = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{kube_namespace}:{name}")),
            // The groups that the API server puts every service account in.
            groups: Some(vec![
                all.to_owned(),
                format!("{all}:{kube_namespace}"),
                "system:authenticated".to_owned(),
            ]),
            resource_attributes: Some(what),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let about = target("create", "authorization.k8s.io", "subjectaccessreviews");
    Ok(review(connection, &question, &about).await?.status.is_some_and(|status| status.allowed))
}

/// Asks the server for a token of a service account, for the audience of the server itself. The token ends after ten
/// minutes, the least that a server grants. Nothing is stored.
///
/// # Errors
///
/// `PermissionDenied` if the account of the connection may not create tokens of this one; `NotFound` if the account is
/// absent; `ConfigInvalid` if a name cannot be one; otherwise errors of the connection.
pub async fn account_token(
    connection: &Connection,
    kube_namespace: &str,
    name: &str,
) -> Result<SecretString, Failure> {
    // The types of `k8s-openapi` would show the token in `Debug`.
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Question {
        api_version: &'static str,
        kind: &'static str,
        spec: Spec,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec {
        audiences: [&'static str; 0],
        expiration_seconds: u32,
    }
    #[derive(Deserialize)]
    struct Answer {
        status: Status,
    }
    #[derive(Deserialize)]
    struct Status {
        token: String,
    }

    check_object("namespace", kube_namespace)?;
    check_object("ServiceAccount", name)?;
    let path = format!("/api/v1/namespaces/{kube_namespace}/serviceaccounts/{name}/token");
    let request = kube::core::Request::new(path).create(&PostParams::default(), Vec::new());
    let question = Question {
        api_version: "authentication.k8s.io/v1",
        kind: "TokenRequest",
        spec: Spec { audiences: [], expiration_seconds: TOKEN_LIFETIME },
    };
    let about = Target {
        name: Some(name),
        kube_namespace: Some(kube_namespace),
        ..target("create", "", "serviceaccounts/token")
    };
    let Answer { status } = exchange(connection, request, Some(json(&question)?), &about).await?;
    Ok(SecretString::from(status.token))
}

/// Asks whose a token is. `None` if it is not a token of the cluster, or has expired.
///
/// The token is in the request alone: it is wiped with the request's buffer.
///
/// # Errors
///
/// `PermissionDenied` if the account of the connection may not ask; otherwise errors of the connection.
pub async fn token_user(connection: &Connection, token: &SecretString) -> Result<Option<UserInfo>, Failure> {
    // The types of `k8s-openapi` would keep copies of the token.
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Question<'a> {
        api_version: &'static str,
        kind: &'static str,
        spec: Spec<'a>,
    }
    #[derive(Serialize)]
    struct Spec<'a> {
        token: &'a str,
    }
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        status: TokenReviewStatus,
    }

    let question = Question {
        api_version: "authentication.k8s.io/v1",
        kind: "TokenReview",
        spec: Spec { token: token.expose_secret() },
    };
    let request = kube::core::Request::new(TokenReview::url_path(&(), None));
    let request = request.create(&PostParams::default(), Vec::new());
    let about = target("create", "authentication.k8s.io", "tokenreviews");
    let Answer { status } = exchange(connection, request, Some(json(&question)?), &about).await?;
    let TokenReviewStatus { authenticated, user, .. } = status;
    Ok(user.filter(|_| authenticated == Some(true)))
}

/// Asks whether a user may GET a path that is not of a resource.
///
/// # Errors
///
/// `PermissionDenied` if the account of the connection may not ask; otherwise errors of the connection.
pub async fn user_may_get(connection: &Connection, user: UserInfo, path: &str) -> Result<bool, Failure> {
    let UserInfo { extra, groups, uid, username } = user;
    let question = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            extra,
            groups,
            non_resource_attributes: Some(NonResourceAttributes {
                path: Some(path.to_owned()),
                verb: Some("get".to_owned()),
            }),
            resource_attributes: None,
            uid,
            user: username,
        },
        ..SubjectAccessReview::default()
    };
    let about = target("create", "authorization.k8s.io", "subjectaccessreviews");
    Ok(review(connection, &question, &about).await?.status.is_some_and(|status| status.allowed))
}

impl Secrets {
    /// Asks whether the account may use a verb on all Secrets of the namespace, or on the Secret `name`.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if the account may not ask.
    pub async fn is_allowed(&self, verb: &str, name: Option<String>) -> Result<bool, Failure> {
        let question = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    namespace: Some(self.kube_namespace().to_owned()),
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
        Ok(review(self.connection(), &question, &about).await?.status.is_some_and(|status| status.allowed))
    }

    /// Asks how many Secret names the account's rules list in `resourceNames` for this verb.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if the account may not ask.
    pub async fn count_allowed_names(&self, verb: &str) -> Result<usize, Failure> {
        let question = SelfSubjectRulesReview {
            spec: SelfSubjectRulesReviewSpec { namespace: Some(self.kube_namespace().to_owned()) },
            ..SelfSubjectRulesReview::default()
        };
        let about = target("create", "authorization.k8s.io", "selfsubjectrulesreviews");
        let rules = review(self.connection(), &question, &about).await?.status;
        let has = |list: &[String], wanted: &str| list.iter().any(|one| one == wanted || one == "*");
        let rules = rules.into_iter().flat_map(|status| status.resource_rules).filter(|rule| {
            has(&rule.verbs, verb)
                && has(rule.resources.as_deref().unwrap_or_default(), "secrets")
                && has(rule.api_groups.as_deref().unwrap_or_default(), "")
        });
        Ok(rules.map(|rule| rule.resource_names.map_or(0, |names| names.len())).sum())
    }
}

fn target(verb: &'static str, group: &'static str, resource: &'static str) -> Target<'static> {
    Target { verb, group, resource, kube_namespace: None, name: None, hidden: &[] }
}
