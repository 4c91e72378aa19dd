//! Finds secrets in logs and in printed text.
//!
//! ```
//! use kms_conformance::leak::{Canary, Recording};
//!
//! let token = Canary::new("the token", "s.7hR2kkq0Zr9sWq81mB4vTnXc");
//! let recording = Recording::start().unwrap();
//! tracing::debug!("logged in");
//! assert_eq!(token.found_in(&recording.text()), None);
//! ```

use std::{
    collections::BTreeSet,
    error::Error as StdError,
    fmt::{self, Write as _},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
    subscriber::Interest,
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt as _},
};

/// The length of one piece of a secret, in bytes. A message that is cut off still contains a whole piece.
const PIECE: usize = 16;
/// The length of the shortest secret, in bytes. A shorter text is found by chance.
const SHORTEST: usize = 8;
/// Characters of a line that are shown before a secret.
const SHOWN: usize = 200;

/// A secret that must not appear in any text.
///
/// The search looks for each piece, verbatim and in the forms in which programs write secrets: escaped as in JSON
/// and as by `Debug`, percent-encoded, in base64 (at any offset within an encoded text), in hexadecimal, and as a
/// list of numbers.
pub struct Canary {
    label: &'static str,
    needles: Vec<(&'static str, String)>,
}

impl Canary {
    /// Returns a canary for this secret. `label` names it in messages.
    ///
    /// # Panics
    ///
    /// If the secret has fewer than 8 bytes, since so short a text is found by chance.
    pub fn new(label: &'static str, secret: &str) -> Self {
        assert!(secret.len() >= SHORTEST, "{label} is too short to search for");
        let mut needles = BTreeSet::new();
        for piece in pieces(secret) {
            let bytes = piece.as_bytes();
            needles.insert(("as it is", piece.to_owned()));
            needles.insert(("escaped", piece.escape_debug().collect()));
            needles.insert(("escaped as ASCII", piece.escape_default().collect()));
            needles.insert(("percent-encoded", percent_encoded(piece)));
            needles.insert(("in hexadecimal", hexadecimal(bytes)));
            needles.insert(("in hexadecimal", hexadecimal(bytes).to_uppercase()));
            let numbers = bytes.iter().map(u8::to_string).collect::<Vec<_>>();
            needles.insert(("as numbers", numbers.join(", ")));
            needles.insert(("as numbers", numbers.join(",")));
            for offset in 0..3 {
                needles.insert(("in base64", base64_within(bytes, offset, &STANDARD_NO_PAD)));
                needles.insert(("in base64", base64_within(bytes, offset, &URL_SAFE_NO_PAD)));
            }
        }
        Self { label, needles: needles.into_iter().collect() }
    }

    /// Finds the secret in a text. The result names the secret, its form and the text before it, and does not show it.
    pub fn found_in(&self, text: &str) -> Option<String> {
        let found =
            self.needles.iter().filter_map(|(form, needle)| Some((text.find(needle.as_str())?, form)));
        let (at, form) = found.min()?;
        let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
        let before: Vec<char> = text[line..at].chars().collect();
        let before: String = match before.len() {
            ..=SHOWN => before.iter().collect(),
            length => before[..SHOWN / 2].iter().chain(&['…']).chain(&before[length - SHOWN / 2..]).collect(),
        };
        Some(format!("{} {form}: {before}<HERE>", self.label))
    }
}

impl fmt::Debug for Canary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { label, needles: _ } = self;
        f.debug_struct("Canary").field("label", label).finish_non_exhaustive()
    }
}

/// Overlapping pieces that together are the whole secret; a short one is one piece.
fn pieces(secret: &str) -> Vec<&str> {
    let boundary = |from: usize| (from..).find(|at| secret.is_char_boundary(*at)).unwrap_or(secret.len());
    let mut pieces = Vec::new();
    let mut start = 0;
    loop {
        let end = boundary((start + PIECE).min(secret.len()));
        pieces.push(&secret[start..end]);
        if end == secret.len() {
            break;
        }
        start = boundary(start + PIECE / 2);
    }
    pieces.retain(|piece| piece.len() >= SHORTEST);
    pieces
}

/// The base64 of `bytes` that begin `offset` bytes into a group of three, without the characters at both ends that
/// depend on the neighbours.
fn base64_within(bytes: &[u8], offset: usize, engine: &impl Engine) -> String {
    let mut padded = vec![0; offset];
    padded.extend_from_slice(bytes);
    let text = engine.encode(&padded);
    let start = (offset * 8).div_ceil(6);
    let end = padded.len() * 8 / 6;
    text[start..end].to_owned()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

/// The text that a value shows of itself: `Debug`, short and long.
pub fn shown(value: &impl fmt::Debug) -> String {
    format!("{value:?}\n{value:#?}\n")
}

/// The text that an error and its causes show of themselves: `Debug`, short and long, and `Display`.
pub fn shown_error(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let _ = write!(text, "{error}\n{error:#}\n{error:?}\n{error:#?}\n");
        next = error.source();
    }
    text
}

/// Records all logs of the process: of all threads, at every level, through `tracing` and through `log`.
///
/// The first recording installs itself as the global default of both for the life of the process. Nothing is kept
/// while no recording is active.
#[derive(Debug)]
pub struct Recording {
    start: usize,
}

impl Recording {
    /// Starts to record.
    ///
    /// # Errors
    ///
    /// If other code has set the global default of `tracing` or of `log`, which would hide leaks.
    pub fn start() -> Result<Self, String> {
        static INSTALLED: OnceLock<Result<(), String>> = OnceLock::new();
        INSTALLED.get_or_init(install).clone()?;
        let mut kept = kept();
        kept.recordings += 1;
        Ok(Self { start: kept.text.len() })
    }

    /// The log since the start: a line for each event, span and record.
    pub fn text(&self) -> String {
        kept().text[self.start..].to_owned()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let mut kept = kept();
        kept.recordings -= 1;
        if kept.recordings == 0 {
            kept.text = String::new();
        }
    }
}

#[derive(Debug)]
struct Kept {
    text: String,
    recordings: usize,
}

fn kept() -> MutexGuard<'static, Kept> {
    static KEPT: Mutex<Kept> = Mutex::new(Kept { text: String::new(), recordings: 0 });
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep(line: &str) {
    let mut kept = kept();
    if kept.recordings > 0 {
        kept.text.push_str(line);
        kept.text.push('\n');
    }
}

fn install() -> Result<(), String> {
    let taken = |what, error: &dyn fmt::Display| {
        format!("cannot record {what}, since another subscriber or logger was installed before: {error}")
    };
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Tap))
        .map_err(|error| taken("tracing", &error))?;
    log::set_logger(&Tap).map_err(|error| taken("log", &error))?;
    log::set_max_level(log::LevelFilter::Trace);
    Ok(())
}

/// The subscriber and logger behind recordings.
struct Tap;

/// The fields of an event or of a span as text.
struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        // The text is written verbatim, since `Debug` would escape it.
        let _ = write!(self.0, " {}={value}", field.name());
    }
}

impl Tap {
    fn keep(metadata: &Metadata<'_>, record: impl FnOnce(&mut Fields)) {
        let mut fields = Fields(format!("{} {}:", metadata.level(), metadata.target()));
        record(&mut fields);
        keep(&fields.0);
    }
}

impl<S: Subscriber> Layer<S> for Tap {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // The subscriber decides for each event, so that it formats no event while no recording is active.
        Interest::sometimes()
    }

    fn enabled(&self, _: &Metadata<'_>, _: Context<'_, S>) -> bool {
        kept().recordings > 0
    }

    fn on_new_span(&self, attributes: &span::Attributes<'_>, _: &span::Id, _: Context<'_, S>) {
        Self::keep(attributes.metadata(), |fields| attributes.record(fields));
    }

    fn on_record(&self, _: &span::Id, values: &span::Record<'_>, _: Context<'_, S>) {
        let mut fields = Fields(String::new());
        values.record(&mut fields);
        keep(&fields.0);
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        Self::keep(event.metadata(), |fields| event.record(fields));
    }
}

impl log::Log for Tap {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        kept().recordings > 0
    }

    fn log(&self, record: &log::Record<'_>) {
        if log::Log::enabled(self, record.metadata()) {
            keep(&format!("{} {}: {}", record.level(), record.target(), record.args()));
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    const SECRET: &str = "4fGq\"zu\\Lö+7/Kx0= Tq9wRb2NnYc5Vd8HsM1jPaEe3";

    #[test]
    fn a_secret_is_found_in_every_form() {
        let canary = Canary::new("the secret", SECRET);
        let in_json = SECRET.replace('\\', "\\\\").replace('"', "\\\"");
        let mut forms = vec![
            SECRET.to_owned(),
            format!("{SECRET:?}"),
            format!("{{\"data\":\"{in_json}\"}}"),
            percent_encoded(SECRET),
            hexadecimal(SECRET.as_bytes()),
            hexadecimal(SECRET.as_bytes()).to_uppercase(),
            format!("{:?}", SECRET.as_bytes()),
            SECRET.chars().take(20).collect(),
            SECRET.chars().skip(20).collect(),
        ];
        for before in ["", "a", "ab", "abc", "{\"value\": \""] {
            let text = format!("{before}{SECRET}\"}}");
            forms.push(STANDARD.encode(&text));
            forms.push(URL_SAFE_NO_PAD.encode(&text));
        }
        for form in forms {
            let found = canary.found_in(&format!("line one\nbefore {form} after\nline three"));
            let found = found.unwrap_or_else(|| panic!("not found in {form}"));
            assert!(!found.contains("zu\\L") && !found.contains("Tq9wRb2N"), "{found}");
        }
        assert_eq!(canary.found_in("nothing of it in here"), None);
    }

    #[test]
    fn a_recording_hears_every_thread_and_both_ways_to_log() {
        let recording = Recording::start().unwrap();
        std::thread::spawn(|| {
            tracing::trace!(field = "the field", "the event");
            let span = tracing::trace_span!("span", given = "the span", later = tracing::field::Empty);
            span.record("later", "the record");
            log::trace!("the log");
        })
        .join()
        .unwrap();
        let text = recording.text();
        for part in ["the event", "the field", "the span", "the record", "the log"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
