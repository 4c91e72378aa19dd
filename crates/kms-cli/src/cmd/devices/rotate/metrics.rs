//! Writes results and times to a file that Prometheus' node exporter collects.
//!
//! The file has times, not ages (`time() - kms_kek_stored_timestamp_seconds` is the age): an age would never change
//! again once no program writes the file.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use kms_core::{Error, Result};
use kms_rotation::Report;

use super::sink::{Ended, ResultSink};
use crate::{
    output::not_written,
    output_file::{OutputFile, Readers},
};

/// The metrics: name, type and meaning.
const METRICS: [(&str, &str); 8] = [
    (RUN, "When the last run for this key ended."),
    (SUCCESS, "Whether the last run for this key succeeded."),
    (SUCCEEDED, "When the last run that succeeded ended."),
    (ROTATED, "When the last new KEK was stored by a run."),
    (DURATION, "How long the last run took."),
    (STORED, "When the KEK that is in use was stored, as far as that is known."),
    (GENERATION, "How many KEKs were stored under this name, where the KMS counts them."),
    (PENDING, "How many key slots still open with the KEK before."),
];
const RUN: &str = "kms_rotation_last_run_timestamp_seconds";
const SUCCESS: &str = "kms_rotation_last_run_success";
const SUCCEEDED: &str = "kms_rotation_last_success_timestamp_seconds";
const ROTATED: &str = "kms_rotation_last_rotation_timestamp_seconds";
const DURATION: &str = "kms_rotation_last_run_duration_seconds";
const STORED: &str = "kms_kek_stored_timestamp_seconds";
const GENERATION: &str = "kms_kek_generation";
const PENDING: &str = "kms_rotation_pending_key_slots";

/// The values of each metric, as text, by the name of the key.
type Values = BTreeMap<&'static str, BTreeMap<String, String>>;

/// A file of metrics.
#[derive(Debug)]
pub(super) struct Metrics {
    path: PathBuf,
}

impl Metrics {
    /// Opens a file of metrics. The file need not exist yet.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if its folder is not writable, or if the path is that of something other than a text file, such
    /// as a link.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let metrics = Self { path: path.to_owned() };
        // Writes the file once unchanged, so that a wrong path fails before a KEK is changed.
        metrics.update(|_| ()).map_err(|error| match std::error::Error::source(&error) {
            Some(cause) => Error::config("the file of metrics cannot be written")
                .context("file", path.display().to_string())
                .source(io::Error::other(cause.to_string())),
            None => error,
        })?;
        Ok(metrics)
    }

    /// Changes the file under an exclusive lock.
    fn update(&self, change: impl FnOnce(&mut Values)) -> Result<()> {
        let file = OutputFile::at(&self.path)?;
        let failed = |cause| not_written(self.path.display().to_string(), cause);
        // Locks the folder: rotations of other OSDs may write the same file, and each write replaces the file itself.
        file.folder().lock().map_err(failed)?;
        let mut values = file.read().map_err(failed)?.map(|text| parse(&text)).unwrap_or_default();
        change(&mut values);
        file.replace(render(&values).as_bytes(), Readers::Umask)
    }
}

fn render(values: &Values) -> String {
    let mut text = String::new();
    for (metric, meaning) in METRICS {
        let Some(values) = values.get(metric).filter(|values| !values.is_empty()) else { continue };
        // Writing to a string cannot fail.
        let _ok = writeln!(text, "# HELP {metric} {meaning}\n# TYPE {metric} gauge");
        for (key, value) in values {
            let _ok = writeln!(text, "{metric}{{key=\"{key}\"}} {value}");
        }
    }
    text
}

/// Reads the output of [`render`]; drops everything else.
fn parse(text: &str) -> Values {
    let mut values = Values::new();
    for line in text.lines() {
        let parsed = || {
            let (metric, rest) = line.split_once("{key=\"")?;
            let (key, value) = rest.split_once("\"} ")?;
            let (metric, _) = METRICS.into_iter().find(|(known, _)| *known == metric)?;
            value.parse::<f64>().ok()?;
            // Accepts only valid key names, so that nothing else gets into the file.
            Some((metric, kms_core::KeyName::new(key).ok()?, value.to_owned()))
        };
        if let Some((metric, key, value)) = parsed() {
            values.entry(metric).or_default().insert(key.to_string(), value);
        }
    }
    values
}

fn seconds(time: SystemTime) -> Option<String> {
    Some(format!("{:.3}", time.duration_since(UNIX_EPOCH).ok()?.as_secs_f64()))
}

/// Sets the metrics that a run has for its key. Removes the metrics that it no longer knows.
fn note(values: &mut Values, ended: &Ended<'_>) {
    let key = ended.name.as_str();
    let mut set = |metric: &'static str, value: Option<String>| {
        let values = values.entry(metric).or_default();
        match value {
            Some(value) => values.insert(key.to_owned(), value),
            None => values.remove(key),
        };
    };
    set(RUN, seconds(ended.at));
    set(DURATION, Some(format!("{:.3}", ended.took.as_secs_f64())));
    set(SUCCESS, Some(u8::from(ended.result.is_ok()).to_string()));
    let Ok(report) = ended.result else { return };
    let Report { stored, generation, devices, from_fingerprint, to_fingerprint, outcome, .. } = report;
    set(SUCCEEDED, seconds(ended.at));
    let superseded = *outcome == kms_rotation::Outcome::Superseded;
    if from_fingerprint != to_fingerprint && !superseded {
        set(ROTATED, stored.and_then(seconds));
    }
    set(STORED, stored.filter(|_| !superseded).and_then(seconds));
    set(GENERATION, generation.map(|generation| generation.to_string()));
    let pending = devices.iter().filter(|device| device.pending.is_some()).count();
    set(PENDING, Some(pending.to_string()));
}

#[async_trait]
impl ResultSink for Metrics {
    async fn ended(&mut self, ended: &Ended<'_>) -> Result<()> {
        self.update(|values| note(values, ended))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use kms_core::ErrorKind;

    use super::*;

    fn failed<'a>(name: &'a kms_core::KeyName, error: &'a Error, at: u64) -> Ended<'a> {
        Ended {
            name,
            result: Err(error),
            at: UNIX_EPOCH + Duration::from_secs(at),
            took: Duration::from_millis(1500),
        }
    }

    #[tokio::test]
    async fn each_key_has_its_lines_and_those_of_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kms.prom");
        let error = Error::new(ErrorKind::Timeout, "canary");
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let mut one = Metrics::open(&path).unwrap();
        let mut two = Metrics::open(&path).unwrap();
        one.ended(&failed(&a, &error, 10)).await.unwrap();
        two.ended(&failed(&b, &error, 20)).await.unwrap();
        one.ended(&failed(&a, &error, 30)).await.unwrap();
        let text = fs::read_to_string(&path).unwrap();
        for line in [
            "# TYPE kms_rotation_last_run_timestamp_seconds gauge",
            "kms_rotation_last_run_timestamp_seconds{key=\"a\"} 30.000",
            "kms_rotation_last_run_timestamp_seconds{key=\"b\"} 20.000",
            "kms_rotation_last_run_success{key=\"a\"} 0",
            "kms_rotation_last_run_duration_seconds{key=\"b\"} 1.500",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("canary") && !text.contains("last_success"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_file_survives_being_read_and_written_and_nothing_foreign_does() {
        let text = "# HELP x y\nkms_kek_generation{key=\"a\"} 7\nkms_kek_generation{key=\"a b\"} 7\nother{key=\"a\"} 1\n\
                    kms_kek_generation{key=\"b\"} seven\n";
        let values = parse(text);
        let rendered = render(&values);
        assert!(rendered.ends_with("gauge\nkms_kek_generation{key=\"a\"} 7\n"), "{rendered}");
        assert_eq!(parse(&rendered), values);
    }

    #[test]
    fn a_path_that_is_not_a_file_is_reported_before_anything_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        for path in [Path::new("/nonexistent/kms.prom"), Path::new("/dev/null"), &link] {
            let error = Metrics::open(path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{error}");
        }
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
}
