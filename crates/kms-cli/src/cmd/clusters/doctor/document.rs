//! The output of `kms doctor`.

use std::collections::BTreeMap;

use kms_core::{KeyExchange, Result};
use kms_rook::doctor::{Cause, Code, Entry, State};
use serde::Serialize;

use super::{
    FailOn,
    catalogue::{area, page},
    connection::object_of,
};
use crate::{
    exit::Exit,
    output::{ErrorDocument, Format, Output, Tone, chain},
    target::provider_name,
};

/// How many findings of one check the text shows.
const MOST: usize = 10;

/// What the output says beside the findings, and how.
pub(super) struct Shown {
    pub(super) provider: Option<&'static str>,
    pub(super) cluster: Option<String>,
    pub(super) key_exchanges: Vec<KeyExchangeDocument>,
    pub(super) skipped: Vec<Code>,
    pub(super) fail_on: FailOn,
    pub(super) short: bool,
    pub(super) verbose: bool,
}

/// The whole diagnosis.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    ok: bool,
    provider: Option<&'static str>,
    cluster: Option<String>,
    key_exchanges: Vec<KeyExchangeDocument>,
    counts: BTreeMap<&'static str, usize>,
    skipped: Vec<String>,
    findings: Vec<FindingDocument>,
}

/// The key exchange of a TLS session with the KMS.
#[derive(Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct KeyExchangeDocument {
    object: String,
    group: String,
    post_quantum: bool,
}

impl KeyExchangeDocument {
    pub(super) fn of(made: &KeyExchange, server: &str) -> Self {
        Self {
            object: object_of(made.step, server),
            group: made.group.clone(),
            post_quantum: made.is_post_quantum,
        }
    }
}

/// What a check says about one object.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct FindingDocument {
    code: String,
    area: &'static str,
    title: &'static str,
    state: &'static str,
    object: Option<String>,
    message: Option<String>,
    error: Option<ErrorDocument>,
    because: Option<String>,
    next: Option<String>,
    page: String,
    #[serde(skip)]
    tone: Option<Tone>,
}

impl From<Entry> for FindingDocument {
    fn from(entry: Entry) -> Self {
        let Entry { code, state, object, cause, next, .. } = entry;
        let (message, error) = match cause {
            Some(Cause::Said(text)) => (Some(text), None),
            Some(Cause::Failed(error)) => (Some(chain(&error)), Some(ErrorDocument::of(&error))),
            _ => (None, None),
        };
        let (tone, because) = match state {
            State::Ok => (Some(Tone::Good), None),
            State::Warning => (Some(Tone::Warning), None),
            State::Error => (Some(Tone::Bad), None),
            State::NotChecked(code) => (None, Some(code.to_string())),
            _ => (None, None),
        };
        Self {
            code: code.to_string(),
            area: area(code),
            title: code.title(),
            state: state.as_str(),
            object,
            message,
            error,
            because,
            next,
            page: page(code),
            tone,
        }
    }
}

impl FindingDocument {
    fn is_ok(&self) -> bool {
        self.tone == Some(Tone::Good)
    }

    /// The sign of the state, and the word for it.
    const fn sign(&self) -> (&'static str, &'static str) {
        match self.tone {
            Some(Tone::Good) => ("\u{2713}", "ok"),
            Some(Tone::Warning) => ("!", "warning"),
            Some(Tone::Bad) => ("\u{2717}", "error"),
            None => ("-", "not checked"),
        }
    }
}

impl Document {
    pub(super) fn new(entries: Vec<Entry>, shown: &Shown) -> Self {
        let findings: Vec<_> = entries.into_iter().map(FindingDocument::from).collect();
        let mut counts = BTreeMap::from([("ok", 0), ("warning", 0), ("error", 0), ("not-checked", 0)]);
        for finding in &findings {
            *counts.entry(finding.state).or_default() += 1;
        }
        let has = |state: &str| counts.get(state).is_some_and(|count| *count > 0);
        let fails = has("error") || (shown.fail_on == FailOn::Warning && has("warning"));
        Self {
            ok: !fails,
            provider: shown.provider,
            cluster: shown.cluster.clone(),
            key_exchanges: shown.key_exchanges.clone(),
            counts,
            skipped: shown.skipped.iter().map(ToString::to_string).collect(),
            findings,
        }
    }

    /// Writes it: a document, one line if all is well, or the findings by area.
    pub(super) fn show(&self, shown: &Shown, output: &mut Output<'_>) -> Result<Exit> {
        let exit = if self.ok { Exit::Done } else { Exit::Failed };
        if output.format() == Format::Json {
            output.json(self)?;
            return Ok(exit);
        }
        let is_well = self.findings.iter().all(FindingDocument::is_ok);
        if !is_well || shown.verbose {
            self.by_area(shown.short, output)?;
        }
        self.summary(is_well, output)?;
        Ok(exit)
    }

    fn by_area(&self, short: bool, output: &mut Output<'_>) -> Result<()> {
        let mut last_area = "";
        let mut of_code: BTreeMap<&str, usize> = BTreeMap::new();
        for finding in &self.findings {
            if short && finding.is_ok() {
                continue;
            }
            let count = of_code.entry(&finding.code).or_default();
            *count += 1;
            if *count > MOST {
                continue;
            }
            if finding.area != last_area {
                last_area = finding.area;
                output.line(last_area)?;
            }
            let FindingDocument { code, title, object, message, because, next, .. } = finding;
            let (sign, word) = finding.sign();
            let said = match (object, message, because) {
                (Some(object), Some(message), _) => format!("{object}: {message}"),
                (_, _, Some(because)) => format!("whether {title}, because of {because}"),
                _ => (*title).to_owned(),
            };
            output.sign_line(finding.tone, &format!("{sign} {word:<11}"), format!("  {code}  {said}"))?;
            if let Some(next) = next {
                output.line(format!("                          next: {next}"))?;
            }
        }
        for (code, count) in of_code {
            if let more @ 1.. = count.saturating_sub(MOST) {
                output.line(format!("{more} more of {code}: -o json shows all"))?;
            }
        }
        Ok(())
    }

    fn summary(&self, is_well: bool, output: &mut Output<'_>) -> Result<()> {
        let count = |state: &str| self.counts.get(state).copied().unwrap_or_default();
        let skipped = match self.skipped.as_slice() {
            [] => String::new(),
            skipped => format!(", without {}", skipped.join(", ")),
        };
        if is_well {
            let of = self.cluster.as_ref().map(|cluster| format!(" of {cluster}")).unwrap_or_default();
            let with = self
                .provider
                .map(|provider| format!(" with {}", provider_name(provider)))
                .unwrap_or_default();
            let text = format!("  all is well: {} checks{of}{with}{skipped}", count("ok"));
            return output.sign_line(Some(Tone::Good), "\u{2713} ok", text);
        }
        let counted = |state| match count(state) {
            1 => format!("1 {state}"),
            count => format!("{count} {state}s"),
        };
        let parts = [
            counted("error"),
            counted("warning"),
            format!("{} not checked", count("not-checked")),
            format!("{} ok", count("ok")),
        ];
        output.line(format!("{}{skipped}", parts.join(", ")))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use kms_core::{Error, ErrorKind};
    use kms_rook::doctor::{
        Diagnosis, Finding,
        codes::{DNS, MISSING, ORPHAN, SETTINGS, TCP},
    };

    use super::*;

    const CATALOGUE: [Code; 5] = [SETTINGS, DNS, TCP, MISSING, ORPHAN];

    fn shown() -> Shown {
        Shown {
            provider: Some("vault"),
            cluster: Some("rook-ceph/my".to_owned()),
            key_exchanges: vec![KeyExchangeDocument::of(&KeyExchange::new("tls", "X25519", false), "vault")],
            skipped: Vec::new(),
            fail_on: FailOn::Error,
            short: false,
            verbose: false,
        }
    }

    /// One finding of each state.
    fn diagnosis() -> Diagnosis {
        let mut diagnosis = Diagnosis::new();
        diagnosis.pass(SETTINGS, "CephCluster", "good");
        let error = Error::new(ErrorKind::Unavailable, "no address");
        diagnosis.add(Finding::failed(DNS, "vault", error, "kms check"));
        diagnosis.add(Finding::new(ORPHAN, "key a", "no OSD", "kms inventory"));
        diagnosis
    }

    fn text(diagnosis: Diagnosis, shown: &Shown, format: Format) -> (Exit, String) {
        let mut bytes = Vec::new();
        let mut output = Output::to(format, &mut bytes);
        let entries = diagnosis.settle(&CATALOGUE, &shown.skipped);
        let exit = Document::new(entries, shown).show(shown, &mut output).unwrap();
        drop(output);
        (exit, String::from_utf8(bytes).unwrap())
    }

    /// The document of a diagnosis that has every state.
    pub(crate) fn printed() -> String {
        text(diagnosis(), &Shown { skipped: vec![MISSING], ..shown() }, Format::Json).1
    }

    #[test]
    fn findings_come_by_area_with_sign_word_and_next_command() {
        let (exit, all) = text(diagnosis(), &shown(), Format::Text);
        assert_eq!(exit, Exit::Failed);
        let expected = [
            "settings",
            "\u{2713} ok           KMS0201  CephCluster: good",
            "connection",
            "\u{2717} error        KMS0301  vault: no address",
            "                          next: kms check",
            "- not checked  KMS0302  whether there is no connection to the KMS, because of KMS0301",
            "inventory",
            "- not checked  KMS0803  whether the key of an OSD is missing, because of KMS0301",
            "! warning      KMS0804  key a: no OSD",
            "                          next: kms inventory",
            "1 error, 1 warning, 2 not checked, 1 ok",
        ];
        assert_eq!(all.lines().collect::<Vec<_>>(), expected);
        let (_, short) = text(diagnosis(), &Shown { short: true, ..shown() }, Format::Text);
        assert_eq!(short.lines().collect::<Vec<_>>(), expected[2..]);
    }

    #[test]
    fn one_line_says_that_all_is_well_and_verbose_shows_the_checks() {
        let mut well = Diagnosis::new();
        well.pass(SETTINGS, "CephCluster", "good");
        let line = "\u{2713} ok  all is well: 1 checks of rook-ceph/my with vault\n";
        assert_eq!(text(well.clone(), &shown(), Format::Text), (Exit::Done, line.to_owned()));
        let (_, long) = text(well.clone(), &Shown { verbose: true, ..shown() }, Format::Text);
        assert_eq!(long.lines().count(), 3);
        let (_, without) = text(well, &Shown { skipped: vec![ORPHAN], ..shown() }, Format::Text);
        assert!(without.ends_with(", without KMS0804\n"), "{without}");
    }

    #[test]
    fn what_fails_is_chosen_and_what_is_skipped_fails_nothing() {
        let exit = |skipped: &[Code], fail_on| {
            let shown = Shown { skipped: skipped.to_vec(), fail_on, ..shown() };
            text(diagnosis(), &shown, Format::Json).0
        };
        assert_eq!(exit(&[], FailOn::Error), Exit::Failed);
        assert_eq!(exit(&[DNS], FailOn::Error), Exit::Done);
        assert_eq!(exit(&[DNS], FailOn::Warning), Exit::Failed);
        assert_eq!(exit(&[DNS, ORPHAN], FailOn::Warning), Exit::Done);
    }

    #[test]
    fn many_findings_of_one_check_are_cut_in_text() {
        let mut many = Diagnosis::new();
        for key in 0..MOST + 3 {
            many.add(Finding::new(ORPHAN, format!("key {key}"), "no OSD", "kms inventory"));
        }
        let (_, text) = text(many, &shown(), Format::Text);
        assert!(text.contains("key 9:") && !text.contains("key 10:"), "{text}");
        assert!(text.contains("3 more of KMS0804: -o json shows all"), "{text}");
    }
}
