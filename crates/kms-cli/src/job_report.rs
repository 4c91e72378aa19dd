//! What a Job tells the operator: a line of JSON that the kubelet puts into the status of the pod.
//!
//! It has counts and names from closed lists, and no text of an error, so it cannot hold a secret.

use std::{fs::OpenOptions, io::Write, path::Path};

use kms_core::{Error, ErrorKind};
use kms_rotation::Refusal;
use serde::Serialize;

use crate::requests::{Count, Requests, TokenLife};

/// The variable with the file to which the line is appended. It is no option, so that an image with an older `kms` works as
/// before.
pub(crate) const FILE: &str = "KMS_REPORT_FILE";

/// The line.
#[derive(Debug, Serialize)]
struct Report {
    requests: Vec<Count>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<TokenLife>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

/// Why the Job has failed.
#[derive(Debug, Eq, PartialEq, Serialize)]
struct Failure {
    /// The kind of the error.
    kind: &'static str,
    /// The KMS, if a request to it has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<&'static str>,
    /// `false` if the OSD does not start: the key slots of a device were tried and the KEK does not open the device, the
    /// device has no LUKS header that can be used, or the KMS has no such KEK. Absent if nothing follows about that.
    #[serde(skip_serializing_if = "Option::is_none")]
    opens: Option<bool>,
    /// `false` if a device has no LUKS header that can be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<bool>,
}

impl Failure {
    fn of(error: &Error) -> Self {
        let (kind, provider) = (error.kind(), error.failed_provider());
        // An absent Secret or CephCluster is an error of no provider.
        let is_absent = kind == ErrorKind::NotFound && provider.is_some();
        let refusal = Refusal::of(error);
        Self {
            kind: kind.as_str(),
            provider,
            opens: (is_absent || refusal.is_some()).then_some(false),
            header: (refusal == Some(Refusal::Header)).then_some(false),
        }
    }
}

/// Appends the report of a run to a file.
pub(crate) fn write(file: &Path, requests: &Requests, error: Option<&Error>) {
    let report =
        Report { requests: requests.counts(), token: requests.token(), error: error.map(Failure::of) };
    if let Ok(line) = serde_json::to_string(&report) {
        // A line of its own after the words of an error: the kubelet keeps the end of the file.
        append(file, &format!("\n{line}\n"));
    }
}

/// Appends to a file that the kubelet reads. In a pod it exists; elsewhere kms must not create it.
pub(crate) fn append(file: &Path, text: &str) {
    let opened = OpenOptions::new().append(true).open(file);
    let _ignored = opened.and_then(|mut log| log.write_all(text.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_that_the_kek_does_not_open_only_if_that_was_seen() {
        let of = |error: Error| {
            let Failure { kind, provider, opens, header } = Failure::of(&error);
            assert_eq!(header, None);
            (kind, provider, opens)
        };
        let error = |kind| Error::new(kind, "canary").context("key", "canary");
        let absent = error(ErrorKind::NotFound);
        assert_eq!(of(absent.clone()), ("not-found", None, None));
        assert_eq!(of(absent.provider("vault")), ("not-found", Some("vault"), Some(false)));
        for kind in ErrorKind::ALL.into_iter().filter(|kind| *kind != ErrorKind::NotFound) {
            assert_eq!(of(error(kind).provider("vault")), (kind.as_str(), Some("vault"), None));
        }
        let seen = |refusal: Refusal| {
            let Failure { opens, header, .. } = Failure::of(&error(ErrorKind::Conflict).source(refusal));
            (opens, header)
        };
        assert_eq!(seen(Refusal::Kek), (Some(false), None));
        assert_eq!(seen(Refusal::Header), (Some(false), Some(false)));
    }

    #[test]
    fn the_report_is_appended_without_a_text_of_the_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("log");
        let error = Error::new(ErrorKind::Unavailable, "canary").context("server", "canary");
        write(&file, &Requests::default(), Some(&error));
        assert!(!file.exists(), "kms must not create the file");
        std::fs::write(&file, "why").unwrap();
        write(&file, &Requests::default(), Some(&error));
        write(&file, &Requests::default(), None);
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(
            text,
            "why\n{\"requests\":[],\"error\":{\"kind\":\"unavailable\"}}\n\n{\"requests\":[]}\n"
        );
    }
}
