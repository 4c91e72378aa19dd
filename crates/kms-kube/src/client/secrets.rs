//! Requests about Secrets.

use http::{HeaderValue, Request, header::ACCEPT};
use k8s_openapi::api::core::v1;
use kms_core::Error;
use kube::core::{
    Resource as _,
    params::{DeleteParams, GetParams, ListParams, Preconditions},
};

use super::{
    connect::Connection,
    error::{Failure, Target, unreadable},
    exchange::{Object, PAGE, Page, exchange, json, post_params},
    names::check_object,
    secret::{Base64, Secret},
};

/// The media type that makes the server leave the data of an object out of its response.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// The Secrets of one namespace.
///
/// The methods return a [`Failure`], whose [`Cause`](super::Cause) says what the response means for the Secret. Each
/// sends exactly one request.
#[derive(Clone, Debug)]
pub struct Secrets {
    connection: Connection,
    kube_namespace: String,
}

impl Secrets {
    /// The Secrets of this namespace.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the text cannot be the name of a namespace.
    pub fn new(client: impl Into<Connection>, kube_namespace: impl Into<String>) -> Result<Self, Error> {
        let kube_namespace = kube_namespace.into();
        check_object("namespace", &kube_namespace)?;
        Ok(Self { connection: client.into(), kube_namespace })
    }

    /// The namespace.
    pub fn kube_namespace(&self) -> &str {
        &self.kube_namespace
    }

    /// The connection to the API server.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Reads a Secret.
    ///
    /// The request names no resource version, so the API server reads from a majority of its storage, and the read
    /// sees every earlier write.
    ///
    /// # Errors
    ///
    /// [`Failure`], also for all methods below.
    pub async fn read(&self, name: &str) -> Result<Secret, Failure> {
        let request = self.requests().get(name, &GetParams::default());
        let target = self.target("get", Some(name), &[]);
        let found: Secret = exchange(&self.connection, request, None, &target).await?;
        if found.is_secret() { Ok(found) } else { Err(unreadable("is not a Secret", &target)) }
    }

    /// Creates a Secret and returns its metadata.
    ///
    /// # Errors
    ///
    /// The cause is `Exists` if a Secret has the name already.
    pub async fn create(&self, name: &str, secret: &Secret) -> Result<Object, Failure> {
        let request = self.requests().create(&post_params(), Vec::new()).map(metadata_only);
        let hidden: Vec<_> = secret.data.values().collect();
        let target = self.target("create", Some(name), &hidden);
        exchange::<Object>(&self.connection, request, Some(json(secret)?), &target).await?.checked(&target)
    }

    /// Replaces a Secret if its UID and resource version are still those in the metadata of `secret`.
    ///
    /// `before` is the value that the write removes; no error quotes it.
    ///
    /// # Errors
    ///
    /// The cause is `Changed` if the Secret has another version, and `Absent` if it is gone.
    pub async fn replace(
        &self,
        name: &str,
        secret: &Secret,
        before: Option<&Base64>,
    ) -> Result<Object, Failure> {
        let request = self.requests().replace(name, &post_params(), Vec::new()).map(metadata_only);
        let hidden: Vec<_> = secret.data.values().chain(before).collect();
        let target = self.target("update", Some(name), &hidden);
        exchange::<Object>(&self.connection, request, Some(json(secret)?), &target).await?.checked(&target)
    }

    /// Deletes a Secret if its UID is still that of `secret`, in any version.
    ///
    /// The response is a `Status`, or the object if a finalizer holds it back.
    ///
    /// # Errors
    ///
    /// The cause is `Changed` if another Secret has the name now, and `Absent` if it is gone.
    pub async fn delete(&self, name: &str, secret: &Secret) -> Result<Object, Failure> {
        self.delete_if(name, secret, None).await
    }

    /// Deletes a Secret if its UID and resource version are still those of `secret`.
    ///
    /// # Errors
    ///
    /// As [`delete`](Self::delete); the cause is `Changed` for another version too.
    pub async fn delete_unchanged(&self, name: &str, secret: &Secret) -> Result<Object, Failure> {
        self.delete_if(name, secret, secret.metadata.resource_version.clone()).await
    }

    async fn delete_if(
        &self,
        name: &str,
        secret: &Secret,
        resource_version: Option<String>,
    ) -> Result<Object, Failure> {
        let uid = secret.metadata.uid.clone();
        let params = DeleteParams::default().preconditions(Preconditions { resource_version, uid });
        let hidden: Vec<_> = secret.data.values().collect();
        let request = self.requests().delete(name, &params).map(metadata_only);
        let target = self.target("delete", Some(name), &hidden);
        exchange::<Object>(&self.connection, request, None, &target).await?.checked(&target)
    }

    /// Reads a page of the Secrets of a type that have a label, without their data.
    ///
    /// # Errors
    ///
    /// The cause is `Expired` if the token of the page is too old.
    pub async fn page(
        &self,
        secret_type: &str,
        label: &str,
        from: Option<&str>,
    ) -> Result<Page<Object>, Failure> {
        let mut params =
            ListParams::default().fields(&format!("type={secret_type}")).labels(label).limit(PAGE);
        params.continue_token = from.map(str::to_owned);
        let request = self.requests().list_metadata(&params);
        exchange(&self.connection, request, None, &self.target("list", None, &[])).await
    }

    fn requests(&self) -> kube::core::Request {
        kube::core::Request::new(v1::Secret::url_path(&(), Some(&self.kube_namespace)))
    }

    fn target<'a>(
        &'a self,
        verb: &'static str,
        name: Option<&'a str>,
        hidden: &'a [&'a Base64],
    ) -> Target<'a> {
        Target {
            verb,
            group: "",
            resource: "secrets",
            kube_namespace: Some(&self.kube_namespace),
            name,
            hidden,
        }
    }
}

fn metadata_only(mut request: Request<Vec<u8>>) -> Request<Vec<u8>> {
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static(METADATA_ONLY));
    request
}
