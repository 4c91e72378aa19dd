#![doc = include_str!("../README.md")]

mod ceph_cluster;
mod cluster_ref;
mod lenient;

pub use crate::{
    ceph_cluster::{CephCluster, CephClusterSpec, DeviceSet, did_you_mean, misspelt},
    cluster_ref::ClusterRef,
};
