//! Places a rotation job on the node of its OSD (rook-behaviour W19).

use k8s_openapi::api::core::v1::{Affinity, PodAffinity, PodAffinityTerm};

use crate::osd::Osd;

/// The label that has one value per node.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// The affinity of a job to the pod of its OSD.
///
/// The pod is found by the labels of its Deployment's selector, which cannot change while the Deployment exists.
/// Rook asks for all labels that its operator would give the pod now. A pod that was not restarted since has older labels:
/// no node fits, the job waits, and with `Forbid` no later run begins.
///
/// The rest of the OSD's placement is not taken over. Spread, anti-affinity, node affinity and node selector have chosen
/// the node already, and could only keep the job away from it.
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
