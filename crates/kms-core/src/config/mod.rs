//! Parses settings into typed values, and reports every problem at once.

mod keys;
mod parse;
mod problems;
mod settings;

pub use self::{
    keys::{ConfigKey, Facts, Setting, Stricter, Support},
    parse::{nearest, parse_bool, parse_duration},
    problems::Problems,
    settings::{Settings, SettingsSource},
};

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Error;

    #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
    enum Key {
        Addr,
        Skip,
        Timeout,
        Wrap,
    }

    impl ConfigKey for Key {
        const ALL: &'static [Self] = &[Self::Addr, Self::Skip, Self::Timeout, Self::Wrap];

        fn as_str(self) -> &'static str {
            match self {
                Self::Addr => "VAULT_ADDR",
                Self::Skip => "VAULT_SKIP_VERIFY",
                Self::Timeout => "VAULT_CLIENT_TIMEOUT",
                Self::Wrap => "VAULT_WRAP_TTL",
            }
        }

        fn aliases(self) -> &'static [&'static str] {
            if self == Self::Addr { &["BAO_ADDR"] } else { &[] }
        }

        fn is_secret(self) -> bool {
            false
        }

        fn doc(self) -> &'static str {
            ""
        }

        fn support(self) -> Support {
            if self == Self::Wrap { Support::Refused("it hides the answers") } else { Support::Supported }
        }

        fn facts(self) -> Facts {
            Facts::default()
        }
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let mut problems = Problems::new();
        let pairs = [
            ("KMS_PROVIDER", "vault"),
            ("VAULT_ADRR", "https://canary"),
            ("VAULT_SKIP_VERIFY", "canary"),
            ("VAULT_CLIENT_TIMEOUT", "canary"),
            ("VAULT_WRAP_TTL", "canary"),
            ("NONSENSE", "canary"),
        ];
        let settings = Settings::<Key>::from_pairs(pairs, &["KMS_PROVIDER"], &mut problems);
        settings.required(Key::Addr, &mut problems);
        settings.boolean(Key::Skip, &mut problems);
        settings.duration(Key::Timeout, &mut problems);
        let error = problems.into_result().unwrap_err().to_string();
        assert_eq!(
            error,
            "6 problems: VAULT_ADRR is not a known setting; did you mean VAULT_ADDR?; \
             VAULT_WRAP_TTL is not supported: it hides the answers; \
             NONSENSE is not a known setting of this provider; remove it; VAULT_ADDR is missing; \
             VAULT_SKIP_VERIFY is neither \"true\" nor \"false\"; \
             VAULT_CLIENT_TIMEOUT is not a duration; write one such as 60, 60s, 1m30s or 1.5s"
        );
        assert!(!format!("{settings:?}").contains("canary"));
    }

    #[test]
    fn a_suggestion_is_near_and_belongs_to_the_same() {
        const KNOWN: [&str; 9] = [
            "VAULT_ADDR",
            "VAULT_CACERT",
            "VAULT_SKIP_VERIFY",
            "KMS_PROVIDER",
            "READ_TIMEOUT",
            "WRITE_TIMEOUT",
            "kms",
            "keyRotation",
            "cephx",
        ];
        for (name, expected) in [
            ("VAULT_ADRR", Some("VAULT_ADDR")),
            ("VALUT_ADDR", Some("VAULT_ADDR")),
            ("vault_address", Some("VAULT_ADDR")),
            ("VAULTADDR", Some("VAULT_ADDR")),
            ("VAULT_SKIP_VERFIY", Some("VAULT_SKIP_VERIFY")),
            ("VAULT_CA_CERT", Some("VAULT_CACERT")),
            ("KMS_PROVIDR", Some("KMS_PROVIDER")),
            ("kmss", Some("kms")),
            ("keyRotaton", Some("keyRotation")),
            ("VAULT_HEADERS", None),
            ("AZURE_ADDR", None),
            ("RITE_TIMEOUT", Some("WRITE_TIMEOUT")),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, KNOWN), expected, "{name}");
        }
    }

    #[test]
    fn an_error_on_the_way_does_not_hide_what_was_found_before() {
        let gone = || Error::new(crate::ErrorKind::Unavailable, "gone");
        let error = Problems::new().with(gone());
        assert_eq!((error.kind(), error.to_string().as_str()), (crate::ErrorKind::Unavailable, "gone"));
        let mut problems = Problems::new();
        problems.add("a; b");
        let error = problems.with(gone());
        assert_eq!(error.kind(), crate::ErrorKind::ConfigInvalid);
        assert_eq!(error.to_string(), "2 problems: a; b; gone");
    }

    #[test]
    fn aliases_and_case_lead_to_the_same_setting_and_must_agree() {
        let mut problems = Problems::new();
        let pairs = [("BAO_ADDR", " https://a \n"), ("vault_addr", "https://a")];
        let settings = Settings::<Key>::from_pairs(pairs, &[], &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(settings.text(Key::Addr), Some("https://a"));
        Settings::<Key>::from_pairs(
            [("BAO_ADDR", "https://a"), ("VAULT_ADDR", "https://b")],
            &[],
            &mut problems,
        );
        assert_eq!(
            problems.iter().collect::<Vec<_>>(),
            ["VAULT_ADDR is given twice, with different values; remove one of them"]
        );
    }

    #[test]
    fn what_is_given_beats_the_environment() {
        let mut problems = Problems::new();
        let mut settings = Settings::<Key>::from_pairs([("VAULT_ADDR", "https://given")], &[], &mut problems);
        let environment =
            [("VAULT_ADDR", "https://other"), ("VAULT_CLIENT_TIMEOUT", "5"), ("VAULT_PORT_8200_TCP", "x")];
        settings.fill_from(environment, &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(settings.text(Key::Addr), Some("https://given"));
        assert_eq!(settings.duration(Key::Timeout, &mut problems), Some(Duration::from_secs(5)));
    }

    #[test]
    fn durations_are_those_of_vaults_own_client() {
        #[derive(serde::Deserialize)]
        struct Case {
            text: String,
            ns: Option<i64>,
        }

        // The answers of Go's own library: see `tests/go/duration`.
        let go = include_str!("../../../../tests/go/duration/cases.json");
        let cases: Vec<Case> = serde_json::from_str(go).unwrap();
        assert!(cases.len() >= 60);
        for Case { text, ns } in cases {
            let expected = ns.and_then(|ns| u64::try_from(ns).ok()).map(Duration::from_nanos);
            assert_eq!(parse_duration(&text).ok(), expected, "{text:?}");
        }
        assert_eq!(
            parse_duration("-5s").unwrap_err(),
            "negative; give a duration such as 60s, or leave it out"
        );
    }

    #[test]
    fn an_empty_setting_is_an_absent_one() {
        let mut problems = Problems::new();
        let pairs = [
            ("VAULT_ADDR", ""),
            ("BAO_ADDR", "https://a"),
            ("VAULT_SKIP_VERIFY", " "),
            ("VAULT_CLIENT_TIMEOUT", "\n"),
            ("VAULT_WRAP_TTL", ""),
            ("NONSENSE", ""),
        ];
        let mut settings = Settings::<Key>::from_pairs(pairs, &[], &mut problems);
        settings.fill_from([("VAULT_SKIP_VERIFY", "true"), ("VAULT_WRAP_TTL", " ")], &mut problems);
        assert_eq!(settings.text(Key::Addr), Some("https://a"));
        assert_eq!(settings.boolean(Key::Skip, &mut problems), Some(true), "the environment fills the gap");
        assert_eq!(settings.duration(Key::Timeout, &mut problems), None);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(settings.keys().collect::<Vec<_>>(), [Key::Addr, Key::Skip]);
    }

    #[test]
    fn booleans_are_of_a_closed_list() {
        for text in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(parse_bool(text), Ok(true));
        }
        for text in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(parse_bool(text), Ok(false));
        }
        for text in ["", "yes", "on", "tRUE", "2"] {
            assert!(parse_bool(text).is_err(), "{text}");
        }
    }
}
