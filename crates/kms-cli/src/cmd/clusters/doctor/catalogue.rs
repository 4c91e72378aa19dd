//! Every check, by area, and the page of each.

use kms_rook::doctor::{Code, codes};

/// A check of the devices of a host.
pub(super) mod host {
    use kms_rook::doctor::{Code, codes::READ};

    /// The folders of OSDs cannot be read.
    pub(in super::super) const FOLDERS: Code =
        Code::error(1001, "the folders of OSDs on this host cannot be read");
    /// cryptsetup cannot be used.
    pub(in super::super) const CRYPTSETUP: Code =
        Code::error(1002, "cryptsetup is absent or too old").needing(&[FOLDERS]);
    /// A header cannot be read.
    pub(in super::super) const HEADER: Code =
        Code::error(1003, "the LUKS header of a device cannot be read").needing(&[FOLDERS, CRYPTSETUP]);
    /// The KEK does not open a device.
    pub(in super::super) const MIXED: Code =
        Code::error(1004, "the KEK in the KMS does not open a device").needing(&[FOLDERS, CRYPTSETUP, READ]);
    /// Both slots of the rotation are in use.
    pub(in super::super) const LEFTOVER: Code =
        Code::warning(1005, "a rotation is not finished").needing(&[FOLDERS, CRYPTSETUP, READ]);
    /// A slot belongs to another key.
    pub(in super::super) const FOREIGN_SLOT: Code =
        Code::warning(1006, "a key slot does not belong to the KEK").needing(&[FOLDERS, CRYPTSETUP]);
    /// A slot belongs to another program.
    pub(in super::super) const FOREIGN_TOKEN: Code =
        Code::warning(1007, "a key slot belongs to another program").needing(&[FOLDERS, CRYPTSETUP]);
    /// A slot needs more memory than there is.
    pub(in super::super) const MEMORY: Code =
        Code::error(1008, "a key slot needs more memory than there is").needing(&[FOLDERS, CRYPTSETUP]);

    /// The KEK could not be tried.
    pub(in super::super) const UNTRIED: Code =
        Code::warning(1009, "the KEK could not be tried on a device").needing(&[FOLDERS, CRYPTSETUP, READ]);

    /// Every check of this area, by number.
    pub(super) const ALL: [Code; 9] =
        [FOLDERS, CRYPTSETUP, HEADER, MIXED, LEFTOVER, FOREIGN_SLOT, FOREIGN_TOKEN, MEMORY, UNTRIED];
}

/// A check of an escrow.
pub(super) mod saved {
    use kms_rook::doctor::{Code, codes::KEYS, codes::SETTINGS};

    /// The escrow is not one, or is damaged.
    pub(in super::super) const FILES: Code = Code::error(901, "the escrow cannot be read, or is damaged");
    /// The escrow is of another place.
    pub(in super::super) const PLACE: Code =
        Code::error(902, "the escrow is of another KMS or cluster").needing(&[FILES, SETTINGS]);
    /// Keys are newer than the escrow.
    pub(in super::super) const BEHIND: Code =
        Code::warning(903, "keys have changed since the escrow was made").needing(&[FILES, KEYS]);
    /// There was no drill, or it has found something.
    pub(in super::super) const DRILL: Code =
        Code::warning(904, "no drill has proven the escrow").needing(&[FILES]);

    /// Every check of this area, by number.
    pub(super) const ALL: [Code; 4] = [FILES, PLACE, BEHIND, DRILL];
}

/// The areas: the first two digits of their codes, and the name, which is also that of their page.
pub(super) const AREAS: [(u16, &str); 11] = [
    (1, "kubernetes"),
    (2, "settings"),
    (3, "connection"),
    (4, "login"),
    (5, "accounts"),
    (6, "cronjobs"),
    (7, "osds"),
    (8, "inventory"),
    (9, "escrow"),
    (10, "devices"),
    (11, "clock"),
];

/// Every check, by number.
pub(super) fn all() -> Vec<Code> {
    let mut all = [codes::ALL, &saved::ALL, &host::ALL].concat();
    all.sort();
    all
}

/// The name of the area of a check.
pub(super) fn area(code: Code) -> &'static str {
    AREAS.iter().find(|(number, _)| *number == code.area()).map_or("other", |(_, name)| name)
}

/// The page of a check, below the top folder of the sources.
pub(super) fn page(code: Code) -> String {
    format!("docs/doctor/{}.md#{}", area(code), code.to_string().to_ascii_lowercase())
}

/// What decides which checks apply.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Circumstances {
    /// An API server.
    pub(super) kubernetes: bool,
    /// OSDs, of an API server or in files.
    pub(super) osds: bool,
    /// A host of OSDs.
    pub(super) host: bool,
    /// An age from which keys are stale.
    pub(super) age: bool,
    /// An escrow.
    pub(super) escrow: bool,
}

/// The checks that apply.
pub(super) fn applicable(circumstances: Circumstances) -> Vec<Code> {
    let Circumstances { kubernetes, osds, host, age, escrow } = circumstances;
    let applies = |code: &Code| match area(*code) {
        "kubernetes" | "accounts" | "cronjobs" => kubernetes,
        "osds" | "inventory" if *code == codes::DEPLOYMENTS || *code == codes::CLAIMS => kubernetes,
        "inventory" if *code == codes::STALE => osds && age,
        "osds" | "inventory" if *code != codes::KEYS => osds,
        "escrow" => escrow,
        "devices" => host,
        "clock" if *code == codes::CLOCK_OF_API => kubernetes,
        _ => true,
    };
    all().into_iter().filter(applies).collect()
}

/// Parses the code of a check.
pub(super) fn code(text: &str) -> Result<Code, String> {
    Code::named(text, &all()).map_err(|error| error.message().to_owned())
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        fs,
        path::Path,
    };

    use kms_rook::doctor::Severity;

    use super::*;

    #[test]
    fn every_code_has_one_number_and_an_area() {
        let all = all();
        assert!(all.is_sorted_by(|a, b| a < b));
        for code in &all {
            assert_ne!(area(*code), "other", "{code}");
            assert!(code.needs().iter().all(|need| all.contains(need)), "{code}");
        }
    }

    /// The codes with a section on a page, each with the title and the severity that the section states.
    fn sections(text: &str) -> BTreeMap<String, (String, String)> {
        let section = |part: &str| {
            let (head, rest) = part.split_once('\n')?;
            let (code, title) = head.split_once(": ")?;
            let severity = rest.trim_start().split_once('.')?.0.to_owned();
            Some((code.to_owned(), (title.to_owned(), severity)))
        };
        text.split("\n## ").skip(1).filter_map(section).collect()
    }

    #[test]
    fn every_code_has_a_section_on_the_page_of_its_area_and_every_section_a_code() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/doctor");
        let index = fs::read_to_string(folder.join("README.md")).unwrap();
        for (number, name) in AREAS {
            let text = fs::read_to_string(folder.join(format!("{name}.md"))).unwrap();
            assert!(index.contains(&format!("({name}.md)")), "{name}");
            let expected: BTreeMap<_, _> = all()
                .into_iter()
                .filter(|code| code.area() == number)
                .map(|code| {
                    let severity = if code.severity() == Severity::Error { "Error" } else { "Warning" };
                    (code.to_string(), (code.title().to_owned(), severity.to_owned()))
                })
                .collect();
            assert_eq!(sections(&text), expected, "{name}");
            for code in expected.keys() {
                let anchor = format!("<a id=\"{}\"></a>", code.to_lowercase());
                assert!(text.contains(&anchor), "{name}: {anchor}");
            }
        }
        let pages = fs::read_dir(folder).unwrap().count();
        assert_eq!(pages, AREAS.len() + 1, "a page without an area");
    }

    /// The codes in the calls of `finding` in a source: `finding("KMS0803", …)`.
    fn expected_findings(source: &str) -> impl Iterator<Item = &str> {
        source
            .split("finding(")
            .skip(1)
            .filter_map(|call| call.trim_start().strip_prefix('"')?.split('"').next())
    }

    #[test]
    fn every_code_is_the_finding_of_a_run_of_the_program() {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut seen = BTreeSet::new();
        for folder in [own.join("tests/it"), own.join("../../tests/tests/it")] {
            for file in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if file.extension().is_some_and(|extension| extension == "rs") {
                    let text = fs::read_to_string(file).unwrap();
                    seen.extend(expected_findings(&text).map(str::to_owned));
                }
            }
        }
        let known: BTreeSet<_> = all().iter().map(ToString::to_string).collect();
        let unseen: Vec<_> = known.difference(&seen).collect();
        assert!(
            unseen.is_empty(),
            "no test expects a finding of {unseen:?}: see kms_testkit::doctor::finding"
        );
        assert_eq!(seen, known);
        let two = "finding(\"KMS0803\", x); because(\"KMS0901\", &[]); finding(\n    \"KMS0804\",";
        assert_eq!(expected_findings(two).collect::<Vec<_>>(), ["KMS0803", "KMS0804"]);
    }

    #[test]
    fn what_does_not_apply_is_left_out() {
        let names = |codes: Vec<Code>| codes.into_iter().map(area).collect::<BTreeSet<_>>();
        let bare = applicable(Circumstances::default());
        assert!(bare.contains(&codes::KEYS) && !bare.contains(&codes::CLOCK_OF_API));
        assert_eq!(
            names(bare).into_iter().collect::<Vec<_>>(),
            ["clock", "connection", "inventory", "login", "settings"]
        );
        let every = Circumstances { kubernetes: true, osds: true, host: true, age: true, escrow: true };
        assert_eq!(applicable(every), all());
    }
}
