//! Generic access to Kubernetes objects of other kinds than Secrets.

use std::{collections::HashSet, fmt, marker::PhantomData};

use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kms_core::{Error, ErrorKind, Result, layer::RetryPolicy};
use kube::core::params::{DeleteParams, GetParams, ListParams, Patch, PatchParams, Preconditions};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    connect::Connection,
    error::{Cause, Target},
    exchange::{LIST_ROUNDS, Object, PAGE, Page, exchange, json, post_params},
    names::{FIELD_MANAGER, KUBERNETES, check_object},
    retry::retry,
};

/// The number of whole objects on a page of a list. A Deployment of an OSD has 25 kB of JSON, and many times that as a
/// tree of values.
const WHOLE_PAGE: u32 = 25;

/// Makes requests about one kind in one namespace.
type Requests = kube::core::Request;

/// A request that `kube` has made.
type Prepared = Result<http::Request<Vec<u8>>, kube::core::request::Error>;

/// The options of a write.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Write {
    /// The API server does everything but the write.
    pub dry_run: bool,
    /// Takes over fields that other managers have set.
    pub force: bool,
}

/// The objects of one kind in one namespace.
///
/// A list is read page by page, and each page is retried by itself: a list of any length is read as long as each page comes
/// in time. The other requests are sent once, since only the caller knows whether they may be repeated.
pub struct Objects<K> {
    connection: Connection,
    kube_namespace: String,
    policy: RetryPolicy,
    kind: PhantomData<fn() -> K>,
}

impl<K: k8s_openapi::Resource<Scope = NamespaceResourceScope>> Objects<K> {
    /// The objects of this namespace.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the text cannot be the name of a namespace.
    pub fn new(client: impl Into<Connection>, kube_namespace: impl Into<String>) -> Result<Self> {
        let kube_namespace = kube_namespace.into();
        check_object("namespace", &kube_namespace)?;
        let policy = RetryPolicy::default();
        Ok(Self { connection: client.into(), kube_namespace, policy, kind: PhantomData })
    }

    /// Retries each page of a list by this policy.
    #[must_use]
    pub fn with_policy(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Lists all objects with these labels, read as `T`.
    ///
    /// One object that does not deserialize as `T` fails the whole list, so a caller that has to tolerate such an object
    /// asks for a type that accepts it, such as `serde_json::Value`.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if the account may not list the objects; `Incomplete` if a part of the list is missing;
    /// otherwise errors of the connection.
    pub async fn list<T: DeserializeOwned + Send>(&self, labels: &str) -> Result<Vec<T>> {
        self.fold(labels, Vec::new, |found, item| found.push(item)).await
    }

    /// Lists all objects with these labels page by page, and adds each to what `empty` makes. Only one page is in memory at
    /// a time. If a token expires, the list starts again, with a new empty one.
    ///
    /// # Errors
    ///
    /// As [`list`](Self::list).
    pub async fn fold<T: DeserializeOwned + Send, S>(
        &self,
        labels: &str,
        empty: impl Fn() -> S,
        add: impl Fn(&mut S, T),
    ) -> Result<S> {
        let request = |requests: &Requests, params: &ListParams| requests.list(params);
        self.fold_by(ListParams::default().labels(labels).limit(WHOLE_PAGE), request, empty, add).await
    }

    /// The metadata of all objects with these labels, without the managers of their fields. The API server leaves everything
    /// else out.
    ///
    /// # Errors
    ///
    /// As [`list`](Self::list).
    pub async fn metadata(&self, labels: &str) -> Result<Vec<ObjectMeta>> {
        let add = |found: &mut Vec<ObjectMeta>, object: Object| {
            found.push(ObjectMeta { managed_fields: None, ..object.metadata });
        };
        let request = |requests: &Requests, params: &ListParams| requests.list_metadata(params);
        self.fold_by(ListParams::default().labels(labels).limit(PAGE), request, Vec::new, add).await
    }

    async fn fold_by<T: DeserializeOwned + Send, S>(
        &self,
        first: ListParams,
        request: impl Fn(&Requests, &ListParams) -> Prepared + Sync,
        empty: impl Fn() -> S,
        add: impl Fn(&mut S, T),
    ) -> Result<S> {
        let mut found = empty();
        let (mut params, mut tokens, mut rounds) = (first.clone(), HashSet::new(), 1);
        let annotate = |error| self.annotate_error("list", error);
        loop {
            let may_restart = rounds < LIST_ROUNDS;
            let page = || async {
                let request = request(&self.requests(), &params);
                let target = self.target("list", None);
                match exchange::<Page<T>>(&self.connection, request, None, &target).await {
                    Ok(page) => Ok(Some(page)),
                    Err(failure) if failure.cause == Cause::Expired && may_restart => Ok(None),
                    Err(failure) => Err(annotate(failure.list_error())),
                }
            };
            let Some(page) = retry(&self.policy, "list", page).await? else {
                rounds += 1;
                found = empty();
                tokens.clear();
                params = first.clone();
                continue;
            };
            let (items, next) = page.into_parts(&mut tokens);
            items.into_iter().for_each(|item| add(&mut found, item));
            params.continue_token = next.map_err(annotate)?;
            if params.continue_token.is_none() {
                return Ok(found);
            }
        }
    }

    /// Whether an object exists.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if the account may not read the object; otherwise errors of the connection.
    pub async fn exists(&self, name: &str) -> Result<bool> {
        check_object(K::KIND, name)?;
        let request = self.requests().get(name, &GetParams::default());
        let target = self.target("get", Some(name));
        let sent = exchange::<Object>(&self.connection, request, None, &target).await;
        match sent.and_then(|object| object.checked(&target)) {
            Ok(_) => Ok(true),
            Err(failure) if failure.cause == Cause::Absent => Ok(false),
            Err(failure) => Err(self.annotate_error("read", failure.error)),
        }
    }

    /// Reads an object.
    ///
    /// # Errors
    ///
    /// `NotFound` if the object is absent; `PermissionDenied`; otherwise errors of the connection.
    pub async fn read<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        check_object(K::KIND, name)?;
        let request = self.requests().get(name, &GetParams::default());
        let sent = exchange(&self.connection, request, None, &self.target("get", Some(name))).await;
        sent.map_err(|failure| self.annotate_error("read", failure.error))
    }

    /// Replaces an object, and returns its metadata as stored. If `object` has a resource version, the stored object must
    /// still have it.
    ///
    /// # Errors
    ///
    /// `Conflict` if the object has changed; `NotFound` if it is absent; otherwise as [`apply`](Self::apply).
    pub async fn replace(&self, name: &str, object: &impl Serialize) -> Result<ObjectMeta> {
        check_object(K::KIND, name)?;
        let request = self.requests().replace(name, &post_params(), Vec::new());
        self.send("update", "replace", name, request, &self.typed(object)?).await
    }

    /// Creates or changes the status of an object by server-side apply. Fields that an earlier call set and `status` does not
    /// have are removed.
    ///
    /// # Errors
    ///
    /// `NotFound` if the object is absent; otherwise as [`apply`](Self::apply).
    pub async fn apply_status(&self, name: &str, status: &impl Serialize) -> Result<()> {
        check_object(K::KIND, name)?;
        let params = PatchParams { force: true, ..PatchParams::apply(FIELD_MANAGER) };
        let request = self.requests().patch_subresource("status", name, &params, &Patch::Apply(Value::Null));
        let object = json!({"metadata": {"name": name}, "status": status});
        self.send("patch", "apply the status", name, request, &self.typed(&object)?).await.map(drop)
    }

    /// Creates or changes an object by server-side apply, and returns its metadata as stored.
    ///
    /// Fields that are not in `object` stay as they are, except those that an earlier apply set: they are removed.
    ///
    /// # Errors
    ///
    /// `Conflict` if another manager has set a field to another value (the message names both); `PermissionDenied`;
    /// `ConfigInvalid` if the API server refuses the object; otherwise errors of the connection, after which the call
    /// may be repeated.
    pub async fn apply(&self, name: &str, object: &impl Serialize, write: Write) -> Result<ObjectMeta> {
        check_object(K::KIND, name)?;
        let Write { dry_run, force } = write;
        let params = PatchParams { dry_run, force, ..PatchParams::apply(FIELD_MANAGER) };
        let request = self.requests().patch(name, &params, &Patch::Apply(Value::Null));
        self.send("patch", "apply", name, request, &self.typed(object)?).await
    }

    /// Changes the fields of an object that are in `change`, a JSON merge patch.
    ///
    /// # Errors
    ///
    /// `NotFound` if the object is absent; otherwise as [`apply`](Self::apply), without conflicts.
    pub async fn merge(&self, name: &str, change: &Value) -> Result<()> {
        check_object(K::KIND, name)?;
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let request = self.requests().patch(name, &params, &Patch::Merge(Value::Null));
        self.send("patch", "change", name, request, change).await.map(drop)
    }

    /// Creates an object. `name` is the name in its metadata.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` if an object has the name; otherwise as [`apply`](Self::apply).
    pub async fn create(&self, name: &str, object: &impl Serialize) -> Result<()> {
        check_object(K::KIND, name)?;
        let request = self.requests().create(&post_params(), Vec::new());
        self.send("create", "create", name, request, &self.typed(object)?).await.map(drop)
    }

    /// Deletes an object if it still has this UID. Succeeds if the object is gone already.
    ///
    /// # Errors
    ///
    /// `Conflict` if another object has the name now; otherwise as [`apply`](Self::apply).
    pub async fn delete(&self, name: &str, uid: Option<String>, dry_run: bool) -> Result<()> {
        check_object(K::KIND, name)?;
        let mut params =
            DeleteParams::background().preconditions(Preconditions { resource_version: None, uid });
        params.dry_run = dry_run;
        let request = self.requests().delete(name, &params);
        let target = self.target("delete", Some(name));
        let sent = exchange::<Object>(&self.connection, request, None, &target).await;
        match sent.and_then(|object| object.checked(&target)) {
            Err(failure) if failure.cause != Cause::Absent => {
                Err(self.annotate_error("delete", failure.error))
            }
            _ => Ok(()),
        }
    }

    /// Sends a write, and checks that the response confirms it.
    async fn send(
        &self,
        verb: &'static str,
        operation: &'static str,
        name: &str,
        request: Prepared,
        body: &impl Serialize,
    ) -> Result<ObjectMeta> {
        let target = self.target(verb, Some(name));
        let sent = async {
            // The request that kube built has an empty body.
            let object: Object = exchange(&self.connection, request, Some(json(body)?), &target).await?;
            object.checked(&target)
        };
        let object = sent.await.map_err(|failure| self.annotate_error(operation, failure.error))?;
        Ok(object.metadata)
    }

    /// Adds the kind to an object, since types other than those of `k8s-openapi` may not serialize it.
    fn typed(&self, object: &impl Serialize) -> Result<Value> {
        let mut value = serde_json::to_value(object).map_err(|cause| {
            Error::new(ErrorKind::Unexpected, "the object could not be serialized")
                .source(cause)
                .provider(KUBERNETES)
        })?;
        if let Some(fields) = value.as_object_mut() {
            fields.insert("apiVersion".to_owned(), json!(K::API_VERSION));
            fields.insert("kind".to_owned(), json!(K::KIND));
        }
        Ok(value)
    }

    fn requests(&self) -> kube::core::Request {
        let group = match K::GROUP {
            "" => "/api".to_owned(),
            group => format!("/apis/{group}"),
        };
        let (version, resource) = (K::VERSION, K::URL_PATH_SEGMENT);
        kube::core::Request::new(format!("{group}/{version}/namespaces/{}/{resource}", self.kube_namespace))
    }

    fn target<'a>(&'a self, verb: &'static str, name: Option<&'a str>) -> Target<'a> {
        Target {
            verb,
            group: K::GROUP,
            resource: K::URL_PATH_SEGMENT,
            kube_namespace: Some(&self.kube_namespace),
            name,
            hidden: &[],
        }
    }

    fn annotate_error(&self, operation: &'static str, error: Error) -> Error {
        error.operation(operation).provider(KUBERNETES).context("kind", K::KIND)
    }
}

impl<K> Clone for Objects<K> {
    fn clone(&self) -> Self {
        let Self { connection, kube_namespace, policy, kind } = self;
        Self {
            connection: connection.clone(),
            kube_namespace: kube_namespace.clone(),
            policy: *policy,
            kind: *kind,
        }
    }
}

impl<K> fmt::Debug for Objects<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connection, kube_namespace, policy, kind: _ } = self;
        f.debug_struct("Objects")
            .field("connection", connection)
            .field("kube_namespace", kube_namespace)
            .field("policy", policy)
            .finish()
    }
}
