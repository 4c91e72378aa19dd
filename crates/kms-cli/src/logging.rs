//! Logs, on standard error.
//!
//! There are three forms: for people, `warning: MESSAGE (NAME: VALUE)`; with `-v` or `RUST_LOG`, with time and module;
//! with `--log-format json`, one JSON document a line.

use std::fmt::Write as _;

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    warn,
};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::filter_fn,
    fmt::{self, FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::{
    args::{Global, LogFormat},
    environment::Environment,
    output::{Tone, stderr_has_color},
    progress::Log,
    requests::Requests,
};

/// The highest levels at which crates of other projects may log, whatever `RUST_LOG` says.
///
/// Our own crates (`kms_…`) have no limit: they log names, times and kinds of errors, and the tests of each look for
/// secrets in them. All other crates have one, since below these levels they print the data that passes through them:
///
/// - `vaultrs` has the request, with its KEK, among the fields of its spans, and a `Debug` that shows the token;
/// - `rustify` logs the bodies of requests and of answers;
/// - `hyper`, `hyper_util`, `h2` and `reqwest` log headers (`X-Vault-Token`, `Authorization`) and frames;
/// - `kube_client` and `tower_http` log requests, and so the Secrets in their bodies; what `kube_client` logs as an
///   error comes back to kms as an error, which kms reports once, in its own words; so does what `kube_runtime` logs;
/// - `rustls` logs handshake messages, and can log the secrets of a session.
///
/// A crate that is not in the list has the limit of the last entry.
const LIMITS: [(&str, Option<Level>); 5] = [
    ("kube_client", None),
    ("kube_runtime", None),
    ("rustify", None),
    ("vaultrs", None),
    ("", Some(Level::WARN)),
];

/// Whether this may be logged at all. This check comes before the user's own filter.
fn is_safe(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let krate = target.split_once("::").map_or(target, |(krate, _)| krate);
    if krate == "kms" || krate.starts_with("kms_") {
        return true;
    }
    let limit =
        LIMITS.iter().find(|(name, _)| *name == krate || name.is_empty()).and_then(|(_, limit)| *limit);
    // The greater level logs more.
    limit.is_some_and(|limit| *metadata.level() <= limit)
}

/// The target of warnings that the Kubernetes API server has sent.
const API_WARNINGS: &str = "kms_kube::warning";

/// The form for people: what has happened, and to what.
struct ForPeople {
    color: bool,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>, N: for<'a> FormatFields<'a> + 'static> FormatEvent<S, N>
    for ForPeople
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let level = match *event.metadata().level() {
            // As kubectl prints them.
            _ if event.metadata().target() == API_WARNINGS => "Warning",
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            _ => "debug",
        };
        let tone = match *event.metadata().level() {
            Level::ERROR => Some(Tone::Bad),
            Level::WARN => Some(Tone::Warning),
            _ => None,
        };
        match tone.filter(|_| self.color) {
            Some(tone) => write!(writer, "{} {}", tone.paint(&format!("{level}:")), parts.message)?,
            None => write!(writer, "{level}: {}", parts.message)?,
        }
        if !parts.fields.is_empty() {
            write!(writer, " ({})", parts.fields)?;
        }
        writeln!(writer)
    }
}

/// The parts of a line.
#[derive(Default)]
struct Parts {
    message: String,
    /// `name: value`, separated by commas.
    fields: String,
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing into a string cannot fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            let comma = if self.fields.is_empty() { "" } else { ", " };
            write!(self.fields, "{comma}{}: {value:?}", field.name())
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

/// Starts logging: at the level of `-v` or `-q`, otherwise as `RUST_LOG` says, otherwise warnings. Returns the counts of requests
/// from now on.
pub(crate) fn init(global: &Global, environment: &Environment) -> Requests {
    let level = match (global.quiet, global.verbose) {
        (true, _) => Some("error"),
        (false, 0) => None,
        (false, 1) => Some("info"),
        (false, _) => Some("debug"),
    };
    let asked = level.or_else(|| environment.get("RUST_LOG")).unwrap_or("warn");
    let (filter, valid) = EnvFilter::builder()
        .parse(asked)
        .map_or_else(|_error| (EnvFilter::new("warn"), false), |filter| (filter, true));
    let lines = fmt::layer().with_writer(|| Log).with_ansi(false);
    let detailed = level.is_some_and(|level| level != "error") || environment.get("RUST_LOG").is_some();
    let lines = match global.log_format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
        LogFormat::Text if detailed => lines.boxed(),
        LogFormat::Text => lines.event_format(ForPeople { color: stderr_has_color() }).boxed(),
    };
    let lines = lines.with_filter(filter).with_filter(filter_fn(is_safe));
    let requests = Requests::default();
    let _already_set = tracing_subscriber::registry().with(lines).with(requests.layer()).try_init();
    if !valid {
        warn!("RUST_LOG is not a valid filter, and has no effect");
    }
    requests
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_for_people_has_neither_time_nor_module() {
        for (color, warning, error) in [
            (false, "warning:", "error:"),
            (true, "\u{1b}[1m\u{1b}[33mwarning:\u{1b}[0m", "\u{1b}[1m\u{1b}[31merror:\u{1b}[0m"),
        ] {
            let sink = Sink::default();
            let writer = sink.clone();
            let lines = fmt::layer().with_writer(move || writer.clone()).with_ansi(false);
            let subscriber = tracing_subscriber::registry().with(lines.event_format(ForPeople { color }));
            tracing::subscriber::with_default(subscriber, || {
                tracing::warn!(key = %"a", object = "7", "it is odd");
                tracing::error!("it failed");
            });
            let log = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
            assert_eq!(log, format!("{warning} it is odd (key: a, object: 7)\n{error} it failed\n"));
        }
    }

    #[test]
    fn what_others_log_of_requests_is_never_seen() {
        let sink = Sink::default();
        let writer = sink.clone();
        let lines = fmt::layer().with_writer(move || writer.clone()).with_ansi(false);
        let lines = lines.with_filter(EnvFilter::new("trace")).with_filter(filter_fn(is_safe));
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(target: "vaultrs::api", "canary 1");
            tracing::error!(target: "rustify", "canary 2");
            let span = tracing::info_span!(target: "vaultrs::kv2", "set", data = "canary 3");
            span.in_scope(|| tracing::error!(target: "kms_vault::api", "ours at error"));
            tracing::info!(target: "hyper::proto", "canary 4");
            tracing::debug!(target: "h2", "canary 5");
            tracing::trace!(target: "reqwest::connect", "canary 6");
            tracing::debug!(target: "kube_client::client", "canary 7");
            tracing::error!(target: "kube_client::client::builder", "canary 11");
            tracing::trace!(target: "rustls::client", "canary 8");
            tracing::info!(target: "unlisted_crate", "canary 9");
            tracing::info!(target: "kmsish", "canary 10");
            tracing::warn!(target: "hyper", "theirs at warn");
            tracing::trace!(target: "kms_core::layer", "ours at trace");
            tracing::trace!(target: "kms", "program at trace");
        });
        let log = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert!(!log.contains("canary"), "{log}");
        for line in ["ours at error", "theirs at warn", "ours at trace", "program at trace"] {
            assert!(log.contains(line), "{log}");
        }
    }
}
