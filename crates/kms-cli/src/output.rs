//! Writes to standard output and, when the program fails, to standard error.

use std::{
    error::Error as _,
    io::{self, Write},
};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use kms_core::{Error, ErrorKind, Retry};
use serde::Serialize;

use crate::{
    exit::Exit,
    progress::{Audience, Progress},
};

/// The form of the output, as the user names it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// One page in HTML, of kms inventory only.
    #[cfg(feature = "k8s-secret")]
    Html,
    /// One JSON document, as `docs/json-output.md` describes it.
    Json,
    /// For people.
    #[default]
    #[value(alias = "table")]
    Text,
    /// The same document in YAML.
    Yaml,
}

/// What a command writes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Format {
    /// A document, which [`Output::json`] writes as JSON or as YAML.
    Json,
    /// Text for people.
    Text,
}

impl From<OutputFormat> for Format {
    fn from(format: OutputFormat) -> Self {
        match format {
            OutputFormat::Json | OutputFormat::Yaml => Self::Json,
            OutputFormat::Text => Self::Text,
            // Messages beside a page are text.
            #[cfg(feature = "k8s-secret")]
            OutputFormat::Html => Self::Text,
        }
    }
}

impl From<Format> for OutputFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Json => Self::Json,
            Format::Text => Self::Text,
        }
    }
}

/// What a state means to the reader. A terminal shows it as a colour beside the word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Tone {
    Bad,
    Good,
    Warning,
}

impl Tone {
    pub(crate) fn paint(self, text: &str) -> String {
        let color = match self {
            Self::Bad => AnsiColor::Red,
            Self::Good => AnsiColor::Green,
            Self::Warning => AnsiColor::Yellow,
        };
        let style = Style::new().bold().fg_color(Some(color.into()));
        format!("{style}{text}{style:#}")
    }
}

/// Sets whether text is in colour, for both streams and the whole process. Without it `NO_COLOR`, `CLICOLOR`, `TERM` and
/// the streams themselves decide.
pub(crate) fn set_color(when: clap::ColorChoice) {
    match when {
        clap::ColorChoice::Always => ColorChoice::Always,
        clap::ColorChoice::Auto => ColorChoice::Auto,
        clap::ColorChoice::Never => ColorChoice::Never,
    }
    .write_global();
}

/// Whether standard error is in colour.
pub(crate) fn stderr_has_color() -> bool {
    AutoStream::choice(&io::stderr()) != ColorChoice::Never
}

/// A word for standard error, in colour if it has colours.
pub(crate) fn on_stderr(tone: Tone, text: &str) -> String {
    if stderr_has_color() { tone.paint(text) } else { text.to_owned() }
}

/// Standard output, or a test's replacement for it.
pub(crate) struct Output<'a> {
    format: OutputFormat,
    quiet: bool,
    color: bool,
    stream: Box<dyn Write + 'a>,
    closed: bool,
}

impl<'a> Output<'a> {
    /// Writes to standard output. With `--quiet`, nothing shows how far a run is.
    pub(crate) fn new(format: OutputFormat, quiet: bool) -> Self {
        let color = AutoStream::choice(&io::stdout()) != ColorChoice::Never;
        Self { quiet, color, ..Self::to(format, io::stdout()) }
    }

    /// Writes to another stream, and nothing to standard error.
    pub(crate) fn to(format: impl Into<OutputFormat>, stream: impl Write + 'a) -> Self {
        Self { format: format.into(), quiet: true, color: false, stream: Box::new(stream), closed: false }
    }

    pub(crate) fn format(&self) -> Format {
        self.format.into()
    }

    /// What shows on standard error how far a run is.
    pub(crate) fn progress(&self) -> Progress {
        Progress::to(match (self.quiet, self.format()) {
            (true, _) => Audience::None,
            (false, Format::Json) => Audience::Programs,
            (false, Format::Text) => Audience::People,
        })
    }

    /// Whether a page in HTML is wanted. Only commands that write one are called then.
    #[cfg(feature = "k8s-secret")]
    pub(crate) fn is_html(&self) -> bool {
        self.format == OutputFormat::Html
    }

    /// Writes a line of text.
    pub(crate) fn line(&mut self, line: impl AsRef<str>) -> kms_core::Result<()> {
        self.bytes(format!("{}\n", line.as_ref()).as_bytes())
    }

    /// Writes a line of text that begins with the word for a state.
    pub(crate) fn state_line(&mut self, tone: Tone, line: impl AsRef<str>) -> kms_core::Result<()> {
        let line = line.as_ref();
        match line.split_at_checked(line.find(' ').unwrap_or(line.len())) {
            Some((word, rest)) => self.sign_line(Some(tone), word, rest),
            None => self.line(line),
        }
    }

    /// Writes a line of text that begins with the sign of a state and the word for it, and goes on with `rest`.
    pub(crate) fn sign_line(
        &mut self,
        tone: Option<Tone>,
        state: &str,
        rest: impl AsRef<str>,
    ) -> kms_core::Result<()> {
        let rest = rest.as_ref();
        match tone {
            Some(tone) if self.color => self.line(tone.paint(state) + rest),
            _ => self.line(format!("{state}{rest}")),
        }
    }

    /// Writes rows in columns, with the cells of one column in the colour of their state. `tone` is `None` for a heading.
    #[cfg(any(test, feature = "k8s-secret"))]
    pub(crate) fn states<const N: usize>(
        &mut self,
        rows: &[[String; N]],
        of: usize,
        tone: impl Fn(&str) -> Option<Tone>,
    ) -> kms_core::Result<()> {
        let color = self.color;
        let paint = |column: usize, cell: &str| match tone(cell).filter(|_| color && column == of) {
            Some(tone) => tone.paint(cell),
            None => cell.to_owned(),
        };
        painted_table(rows, paint).into_iter().try_for_each(|line| self.line(line))
    }

    /// Writes a document.
    pub(crate) fn json(&mut self, document: &impl Serialize) -> kms_core::Result<()> {
        if self.format == OutputFormat::Yaml {
            return self.yaml(std::slice::from_ref(document));
        }
        let mut text = serde_json::to_vec_pretty(document).map_err(|error| {
            Error::new(ErrorKind::Unexpected, "the output cannot be written as JSON").source(error)
        })?;
        text.push(b'\n');
        self.bytes(&text)
    }

    /// Writes documents in YAML, one after another.
    pub(crate) fn yaml<T: Serialize>(&mut self, documents: &[T]) -> kms_core::Result<()> {
        for (at, document) in documents.iter().enumerate() {
            let text = serde_saphyr::to_string(document).map_err(|error| {
                Error::new(ErrorKind::Unexpected, "the output cannot be written as YAML").source(error)
            })?;
            if at > 0 {
                self.line("---")?;
            }
            self.bytes(text.as_bytes())?;
            if !text.ends_with('\n') {
                self.bytes(b"\n")?;
            }
        }
        Ok(())
    }

    /// Writes bytes unchanged. When the reader has closed its end, drops the rest: `kms list | head` does not fail.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> kms_core::Result<()> {
        if self.closed {
            return Ok(());
        }
        let written = self.stream.write_all(bytes);
        self.done(written)
    }

    /// Flushes buffered output.
    pub(crate) fn finish(&mut self) -> kms_core::Result<()> {
        if self.closed {
            return Ok(());
        }
        let written = self.stream.flush();
        self.done(written)
    }

    fn done(&mut self, written: io::Result<()>) -> kms_core::Result<()> {
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            other => other.map_err(|error| not_written("standard output", error)),
        }
    }
}

/// The error for a stream or a file that cannot be written. It is not `PermissionDenied`: that kind is about the KMS.
pub(crate) fn not_written(what: impl Into<String>, cause: io::Error) -> Error {
    Error::new(ErrorKind::Unexpected, "the output cannot be written").context("output", what).source(cause)
}

/// The version and the fingerprint of a KEK, on one line. A KMS without versions has the fingerprint in their place.
pub(crate) fn identity(version: &str, fingerprint: &str) -> String {
    if version.strip_prefix("fingerprint-") == Some(fingerprint) {
        format!("fingerprint {fingerprint}")
    } else {
        format!("version {version}  fingerprint {fingerprint}")
    }
}

/// Formats an error and its causes on one line.
pub(crate) fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Some libraries repeat the cause in their own text.
        let inner = error.to_string();
        if !text.ends_with(&inner) {
            text.push_str(": ");
            text.push_str(&inner);
        }
        cause = error.source();
    }
    // Some libraries write errors of several lines.
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// An error in JSON.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ErrorDocument {
    kind: &'static str,
    message: String,
    retry: &'static str,
    context: std::collections::BTreeMap<&'static str, String>,
}

impl ErrorDocument {
    pub(crate) fn of(error: &Error) -> Self {
        let retry = match error.retryable() {
            Retry::Always => "always",
            Retry::IfIdempotent => "if-idempotent",
            // Our own retries are exhausted; a retry in an hour may still succeed.
            _ if Exit::of(error) == Exit::TryAgain => "later",
            _ => "never",
        };
        let context = error.contexts().map(|(name, value)| (name, value.to_owned())).collect();
        Self { kind: error.kind().as_str(), message: chain(error), retry, context }
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

/// The document on standard error.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Failure {
    pub(crate) error: ErrorDocument,
}

/// Reports on standard error why the program failed.
pub(crate) fn report(error: &Error, format: OutputFormat) {
    let line = match format.into() {
        Format::Json => {
            serde_json::to_string(&Failure { error: ErrorDocument::of(error) }).unwrap_or_default()
        }
        Format::Text => format!("{} {}", on_stderr(Tone::Bad, "error:"), chain(error)),
    };
    // If standard error is closed too, there is no reader left.
    let _ignored = writeln!(io::stderr(), "{line}");
}

/// The width up to which a cell widens its column, in characters. A UUID and the names of Rook's PVCs fit in.
const WIDEST: usize = 40;

/// Lays out rows in columns. The first row has the headings.
///
/// A cell of more than [`WIDEST`] characters moves the cells after it in its own row only.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    painted_table(rows, |_, cell| cell.to_owned())
}

/// The same. `paint` gets the number of the column and a cell, and may add colours.
fn painted_table<const N: usize>(rows: &[[String; N]], paint: impl Fn(usize, &str) -> String) -> Vec<String> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.filter(|width| *width <= WIDEST).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            let padding = width.saturating_sub(cell.chars().count());
            format!("{}{:padding$}", paint(column, cell), "")
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_long_name_does_not_widen_the_other_rows() {
        let long = "n".repeat(WIDEST + 1);
        let rows = [["NAME", "VERSION"], ["a", "1"], [long.as_str(), "2"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), ["NAME  VERSION".to_owned(), "a     1".to_owned(), format!("{long}  2")]);
    }

    #[test]
    fn an_error_is_one_line_with_its_causes() {
        let inner = Error::new(ErrorKind::Timeout, "no\nanswer");
        let error = Error::new(ErrorKind::Unavailable, "outer").context("key", "a").source(inner);
        assert_eq!(chain(&error), "outer (key: a): no answer");
    }

    #[test]
    fn a_fingerprint_that_stands_for_the_version_is_printed_once() {
        assert_eq!(identity("fingerprint-ab12", "ab12"), "fingerprint ab12");
        assert_eq!(identity("3", "ab12"), "version 3  fingerprint ab12");
    }

    #[test]
    fn yaml_holds_what_json_holds_whatever_the_text_looks_like() {
        #[derive(Serialize)]
        struct Document {
            texts: Vec<&'static str>,
            number: Option<u32>,
        }
        let texts = vec![
            "",
            "yes",
            "null",
            "1e3",
            "0x1f",
            "~",
            "- a",
            "a: b",
            "#",
            "'",
            "\"",
            "é",
            "a==",
            " a ",
            "2026-01-31",
        ];
        let document = Document { texts, number: None };
        let written = |format| {
            let mut bytes = Vec::new();
            Output::to(format, &mut bytes).json(&document).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        let yaml = written(OutputFormat::Yaml);
        let read: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
        assert!(yaml.starts_with("texts:"), "{yaml}");
        assert_eq!(read, serde_json::from_str::<serde_json::Value>(&written(OutputFormat::Json)).unwrap());
    }

    #[test]
    fn a_reader_that_goes_away_is_no_failure() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        let mut output = Output::to(OutputFormat::Text, Closed);
        output.line("a").unwrap();
        output.line("b").unwrap();
        output.finish().unwrap();
    }

    #[test]
    fn a_state_is_a_word_and_on_a_terminal_also_a_colour() {
        let written = |color| {
            let mut bytes = Vec::new();
            let mut output = Output { color, ..Output::to(OutputFormat::Text, &mut bytes) };
            output.state_line(Tone::Good, "ok  a").unwrap();
            output.state_line(Tone::Bad, "FAILED").unwrap();
            output.json(&"ok").unwrap();
            drop(output);
            String::from_utf8(bytes).unwrap()
        };
        assert_eq!(written(false), "ok  a\nFAILED\n\"ok\"\n");
        assert_eq!(
            written(true),
            "\u{1b}[1m\u{1b}[32mok\u{1b}[0m  a\n\u{1b}[1m\u{1b}[31mFAILED\u{1b}[0m\n\"ok\"\n"
        );
    }

    #[test]
    fn the_states_of_a_column_are_in_colour_and_the_columns_stay_in_place() {
        let rows =
            [["A", "STATE", "B"], ["a", "ok", "ok"], ["b", "lost", "x"]].map(|row| row.map(str::to_owned));
        let tone = |cell: &str| match cell {
            "ok" => Some(Tone::Good),
            "lost" => Some(Tone::Bad),
            _ => None,
        };
        let written = |color| {
            let mut bytes = Vec::new();
            let mut output = Output { color, ..Output::to(OutputFormat::Text, &mut bytes) };
            output.states(&rows, 1, tone).unwrap();
            drop(output);
            String::from_utf8(bytes).unwrap()
        };
        assert_eq!(written(false), "A  STATE  B\na  ok     ok\nb  lost   x\n");
        let (ok, lost) = (Tone::Good.paint("ok"), Tone::Bad.paint("lost"));
        assert_eq!(written(true), format!("A  STATE  B\na  {ok}     ok\nb  {lost}   x\n"));
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |a: &str, b: &str| [a.to_owned(), b.to_owned()];
        assert_eq!(table(&[row("A", "B"), row("long", "x")]), ["A     B", "long  x"]);
    }
}
