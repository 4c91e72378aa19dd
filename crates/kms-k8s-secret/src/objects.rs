//! Objects of other kinds than Secrets, for what else is to be done with the same connection.

use std::{fmt, marker::PhantomData};

use bytes::Bytes;
use k8s_openapi::NamespaceResourceScope;
use kms_core::{Error, ErrorKind, Result};
use kube::core::params::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    FIELD_MANAGER, PROVIDER,
    api::{Object, PAGE, exchange, json, post_params},
    connect::Connection,
    error::{Cause, Target},
    name::check_object,
};

/// How something is written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Write {
    /// Everything is done but for the writing.
    pub dry_run: bool,
    /// Fields that somebody else has set are taken over.
    pub force: bool,
}

/// The objects of one kind in one namespace.
pub struct Objects<K> {
    connection: Connection,
    kube_namespace: String,
    kind: PhantomData<fn() -> K>,
}

/// A page of a list.
#[derive(serde::Deserialize)]
struct Page<T> {
    #[serde(default)]
    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta,
    // Go writes an empty list as null.
    items: Option<Vec<T>>,
}

impl<K: k8s_openapi::Resource<Scope = NamespaceResourceScope>> Objects<K> {
    /// The objects of this namespace.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the namespace cannot be one.
    pub fn new(client: impl Into<Connection>, kube_namespace: impl Into<String>) -> Result<Self> {
        let kube_namespace = kube_namespace.into();
        check_object("namespace", &kube_namespace)?;
        Ok(Self { connection: client.into(), kube_namespace, kind: PhantomData })
    }

    /// All objects with these labels, read as `T`: a kind that asks for less than the whole object reads the others too.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if they may not be listed; those of the network.
    pub async fn list<T: DeserializeOwned>(&self, labels: &str) -> Result<Vec<T>> {
        let mut found = Vec::new();
        let mut params = ListParams::default().labels(labels).limit(PAGE);
        loop {
            let request = self.requests().list(&params);
            let page: Page<T> = exchange(&self.connection, request, None, &self.target("list", None))
                .await
                .map_err(|failure| self.named("list", failure.error))?;
            found.extend(page.items.into_iter().flatten());
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                return Ok(found);
            }
        }
    }

    /// Creates an object or changes one into it, by server-side apply: fields that are not in it stay as they are,
    /// and those that were in it before and are not any more are removed. Gives the object as it is stored.
    ///
    /// # Errors
    ///
    /// `Conflict` if a field has been set to something else by somebody else, which the message names;
    /// `PermissionDenied`; `ConfigInvalid` if the API server does not take it; those of the network, after which it may
    /// be done again.
    pub async fn apply<T: DeserializeOwned>(
        &self,
        name: &str,
        object: &impl Serialize,
        write: Write,
    ) -> Result<T> {
        check_object(K::KIND, name)?;
        let Write { dry_run, force } = write;
        let params = PatchParams { dry_run, force, ..PatchParams::apply(FIELD_MANAGER) };
        let request = self.requests().patch(name, &params, &Patch::Apply(Value::Null));
        self.send("patch", "apply", name, request, &self.typed(object)?).await
    }

    /// Changes the fields of an object that are in `change`, which is a JSON merge patch.
    ///
    /// # Errors
    ///
    /// `NotFound` if it is not there; otherwise as [`apply`](Self::apply), without conflicts.
    pub async fn merge(&self, name: &str, change: &Value) -> Result<()> {
        check_object(K::KIND, name)?;
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let request = self.requests().patch(name, &params, &Patch::Merge(Value::Null));
        let _changed: Object = self.send("patch", "change", name, request, change).await?;
        Ok(())
    }

    /// Creates an object whose name is in it.
    ///
    /// # Errors
    ///
    /// As [`apply`](Self::apply); `AlreadyExists`.
    pub async fn create(&self, name: &str, object: &impl Serialize) -> Result<()> {
        check_object(K::KIND, name)?;
        let request = self.requests().create(&post_params(), Vec::new());
        let _created: Object = self.send("create", "create", name, request, &self.typed(object)?).await?;
        Ok(())
    }

    /// Deletes an object if it is still the one with this UID; one that is gone already is as good.
    ///
    /// # Errors
    ///
    /// `Conflict` if another one has the name now; otherwise as [`apply`](Self::apply).
    pub async fn delete(&self, name: &str, uid: Option<String>, dry_run: bool) -> Result<()> {
        check_object(K::KIND, name)?;
        let mut params =
            DeleteParams::background().preconditions(Preconditions { resource_version: None, uid });
        params.dry_run = dry_run;
        let request = self.requests().delete(name, &params);
        let sent: Result<Object, _> =
            exchange(&self.connection, request, None, &self.target("delete", Some(name))).await;
        match sent {
            Err(failure) if failure.cause != Cause::Absent => Err(self.named("delete", failure.error)),
            _ => Ok(()),
        }
    }

    async fn send<T: DeserializeOwned>(
        &self,
        verb: &'static str,
        operation: &'static str,
        name: &str,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
        body: &impl Serialize,
    ) -> Result<T> {
        // kube has put its own copy of the body into the request; ours replaces it.
        let body: Bytes = json(body)?;
        exchange(&self.connection, request, Some(body), &self.target(verb, Some(name)))
            .await
            .map_err(|failure| self.named(operation, failure.error))
    }

    /// The object with its kind, which `k8s-openapi` writes by itself and types of others may not.
    fn typed(&self, object: &impl Serialize) -> Result<Value> {
        let mut value = serde_json::to_value(object).map_err(|cause| {
            Error::new(ErrorKind::Unexpected, "the object could not be written")
                .source(cause)
                .provider(PROVIDER)
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

    fn named(&self, operation: &'static str, error: Error) -> Error {
        error.operation(operation).context("kind", K::KIND)
    }
}

impl<K> Clone for Objects<K> {
    fn clone(&self) -> Self {
        let Self { connection, kube_namespace, kind } = self;
        Self { connection: connection.clone(), kube_namespace: kube_namespace.clone(), kind: *kind }
    }
}

impl<K> fmt::Debug for Objects<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connection, kube_namespace, kind: _ } = self;
        f.debug_struct("Objects")
            .field("connection", connection)
            .field("kube_namespace", kube_namespace)
            .finish()
    }
}
