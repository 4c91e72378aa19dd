//! The client of the Kubernetes API.

mod connect;
mod error;
mod exchange;
mod names;
mod objects;
mod owner;
mod probe;
mod read_cluster;
mod retry;
mod rights;
mod secret;
mod secret_source;
mod secrets;
mod token_file;
mod transport;
mod unusable;
mod warnings;

pub use self::{
    connect::{ConnectOptions, Connection, connect},
    error::{Cause, Failure},
    exchange::{LIST_ROUNDS, Object, Page},
    names::{FIELD_MANAGER, KUBERNETES, check_object, is_subdomain},
    objects::{Objects, Write},
    owner::Owner,
    read_cluster::{ceph_cluster, ceph_clusters},
    retry::retry,
    rights::{account_token, pod_security, service_account_may, token_user, user_may_get},
    secret::{Base64, Secret},
    secret_source::KubernetesSecretSource,
    secrets::Secrets,
    warnings::WARNINGS,
};
