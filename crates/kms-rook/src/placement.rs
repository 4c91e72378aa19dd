//! Where a rotation job runs: on the node of its OSD, whatever else changes (rook-behaviour W19).

use k8s_openapi::api::core::v1::{Affinity, PodAffinity, PodAffinityTerm};

use crate::osd::Osd;

/// What makes two pods be on one node.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// The affinity of a job to the pod of its OSD.
///
/// The pod is found by the labels of its Deployment's selector, which cannot change while the Deployment exists.
/// Rook asks for all labels that its operator would give the pod now; while the pod has those of yesterday, since it
/// is restarted only later, no node fits, and with `Forbid` no later run begins either.
///
/// Nothing else of the OSD's placement is taken over: its spread, anti-affinity, node affinity and node selector have
/// chosen the node already, and could only keep the job away from it.
pub(crate) fn beside(osd: &Osd) -> Affinity {
    let term = PodAffinityTerm {
        label_selector: Some(osd.selector.clone()),
        topology_key: HOSTNAME.to_owned(),
        ..PodAffinityTerm::default()
    };
    let pods = PodAffinity {
        required_during_scheduling_ignored_during_execution: Some(vec![term]),
        ..PodAffinity::default()
    };
    Affinity { pod_affinity: Some(pods), ..Affinity::default() }
}
