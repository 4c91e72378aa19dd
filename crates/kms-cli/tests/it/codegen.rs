//! Compares the generated parts of the documentation with the program.
//!
//! A generated part stands between `<!-- codegen:NAME -->` and `<!-- /codegen:NAME -->` in a Markdown file.
//! `cargo xtask codegen` rewrites the parts; with `--check` it runs this test as plain `cargo test` does.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use kms_cli::Exit;
use kms_core::{
    SecuritySpec,
    config::{Setting, Stricter, Support},
};
use kms_dispatch::Provider;
use kms_rook::Schedule;

/// The text of a part.
fn part(name: &str) -> Result<String, String> {
    Ok(match name {
        "cli-reference" => cli_reference(),
        "exit-codes" => exit_codes(),
        "go-answers" => go_answers(),
        "go-refusals" => go_refusals(),
        "providers" => provider_table(),
        "settings-azure" => settings(Provider::AzureKeyVault),
        "settings-ibmkp" => settings(Provider::IbmKeyProtect),
        "settings-kmip" => settings(Provider::Kmip),
        "settings-vault" => settings(Provider::Vault),
        "stricter" => stricter(),
        _ => return Err(format!("there is no generated part {name}")),
    })
}

/// The Markdown files of the repository.
fn markdown_files(root: &Path) -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.md"])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(listed.status.success(), "git lists no files in {}", root.display());
    let listed = String::from_utf8(listed.stdout).unwrap();
    listed.lines().map(|path| root.join(path)).filter(|path| path.exists()).collect()
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how a developer asks for new parts")]
fn the_generated_parts_of_the_documentation_are_up_to_date() {
    let overwrite = std::env::var_os("KMS_CODEGEN").is_some();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut stale = Vec::new();
    for path in markdown_files(&root) {
        let old = fs::read_to_string(&path).unwrap();
        let new = render(&old, &mut part).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        if new == old {
            continue;
        }
        if overwrite {
            fs::write(&path, new).unwrap();
        } else {
            stale.push(format!("{}: {}", path.display(), difference(&old, &new)));
        }
    }
    assert!(stale.is_empty(), "run cargo xtask codegen:\n{}", stale.join("\n"));
}

/// A line of a Markdown table.
fn row<const N: usize>(cells: [&str; N]) -> String {
    format!("| {} |\n", cells.map(|cell| cell.trim().replace('|', "\\|")).join(" | "))
}

fn head<const N: usize>(cells: [&str; N]) -> String {
    row(cells) + &row([(); N].map(|()| "---"))
}

fn settings(provider: Provider) -> String {
    let line = |setting: Setting| {
        let mut name = format!("`{}`", setting.name);
        if !setting.aliases.is_empty() {
            let aliases: Vec<_> = setting.aliases.iter().map(|alias| format!("`{alias}`")).collect();
            name = format!("{name}, also {}", aliases.join(", "));
        }
        let secret = if setting.is_secret { " A credential: better kept in a Secret." } else { "" };
        let meaning = format!("{}{secret}", setting.meaning);
        let facts = setting.facts;
        let support = match setting.support {
            Support::Supported => "supported".to_owned(),
            Support::NoEffect(why) => format!("no effect: {why}"),
            Support::Refused(why) => format!("refused: {why}"),
            _ => "see the documentation".to_owned(),
        };
        row([&name, &meaning, facts.default, facts.rook, &support])
    };
    let settings = provider.settings().unwrap_or_default();
    head(["Setting", "Meaning", "Default", "Rook", "Support"])
        + &settings.into_iter().map(line).collect::<String>()
}

/// The inputs that are refused here and that Rook takes, as a table.
fn stricter() -> String {
    let line = |of: &str, row_of: &Stricter| {
        let (name, value) = row_of.input;
        let input = format!("`{name}: \"{value}\"`");
        row([of, &input, row_of.rook, row_of.why, row_of.remedy])
    };
    let mut text = head(["Provider", "Input", "Rook", "Why `kms` refuses it", "What to change"]);
    let blocks = SecuritySpec::STRICTER.iter().chain([&Schedule::STRICTER]);
    text.extend(blocks.map(|row| line("every", row)));
    for provider in Provider::ALL {
        text.extend(provider.stricter().unwrap().iter().map(|row| line(provider.title(), row)));
    }
    text
}

/// Counts of answers, by who accepts and by the reason of a refusal.
type Answers = BTreeMap<String, BTreeMap<String, u64>>;

/// The answers to the tables of `tests/go`: what is asked, and the counts by who accepts and by the reason.
fn go_tables() -> [(&'static str, Answers); 3] {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/go");
    let read = |file: &str| serde_json::from_str(&fs::read_to_string(folder.join(file)).unwrap()).unwrap();
    [
        ("certificates, keys and forms of PEM", read("tls/answers.json")),
        ("handshakes with a server in Go, TLS 1.2 and 1.3", read("tls/handshakes.json")),
        ("which proxy a request has", read("httpproxy/answers.json")),
    ]
}

/// How many questions both sides answer in the same way, as a table.
fn go_answers() -> String {
    const GROUPS: [&str; 4] =
        ["accepted by both", "refused by both", "refused by us alone", "accepted by us alone"];
    let line = |(asked, groups): (&str, Answers)| {
        assert!(groups.keys().all(|group| GROUPS.contains(&group.as_str())), "{groups:?}");
        let counts = GROUPS.map(|group| groups.get(group).map_or(0, |reasons| reasons.values().sum::<u64>()));
        let [both, neither, go, ours] = counts.map(|count| count.to_string());
        row([asked, &counts.iter().sum::<u64>().to_string(), &both, &neither, &go, &ours])
    };
    let heading = [
        "Question",
        "Cases",
        "Accepted by both",
        "Refused by both",
        "Refused by `kms` alone",
        "Accepted by `kms` alone",
    ];
    head(heading) + &go_tables().map(line).concat()
}

/// Why `kms` refuses what Go accepts, as a table.
fn go_refusals() -> String {
    let mut text = head(["Question", "Refused by `kms` alone", "Cases"]);
    for (asked, groups) in go_tables() {
        for (reason, count) in groups.get("refused by us alone").into_iter().flatten() {
            text.push_str(&row([asked, reason, &count.to_string()]));
        }
    }
    text
}

/// The exit codes, as a table.
fn exit_codes() -> String {
    let line = |exit: Exit| row([&exit.code().to_string(), exit.meaning()]);
    head(["Code", "Meaning"]) + &Exit::ALL.map(line).concat()
}

/// The providers, as a table.
fn provider_table() -> String {
    let settings_count = |provider: Provider| provider.settings().unwrap_or_default().len().to_string();
    let yes_no = |yes| if yes { "yes" } else { "no" };
    let line = |provider: Provider| {
        let kms_provider = match provider.as_str() {
            "" => "absent".to_owned(),
            name => format!("`{name}`"),
        };
        let feature = format!("`{}`", provider.feature());
        let unknown = || ["not yet"; 4];
        let [create, update, list, soft_delete] = provider.capability().map_or_else(unknown, |can| {
            [can.create.as_str(), can.update.as_str(), yes_no(can.list), yes_no(can.soft_delete)]
        });
        row([
            provider.title(),
            &kms_provider,
            &feature,
            &settings_count(provider),
            create,
            update,
            list,
            soft_delete,
            provider.description(),
        ])
    };
    head([
        "Provider",
        "`KMS_PROVIDER`",
        "Feature",
        "Settings",
        "Create",
        "Update",
        "List",
        "Soft delete",
        "What it keeps",
    ]) + &Provider::ALL.into_iter().map(line).collect::<String>()
}

/// The reference of the command line, as Markdown.
fn cli_reference() -> String {
    let mut program = kms_cli::command().term_width(0);
    program.build();
    let mut text = format!("```text\n{}\n```\n\n", program.render_usage());
    text.push_str("Options of every command:\n\n");
    text.push_str(&arguments(&program, |_argument| true));
    add_subcommands(&program, "kms", &mut text);
    text
}

/// Adds the commands below a command, recursively.
fn add_subcommands(of: &clap::Command, path: &str, text: &mut String) {
    let shown = |command: &&clap::Command| !command.is_hide_set() && command.get_name() != "help";
    for command in of.get_subcommands().filter(shown) {
        let path = format!("{path} {}", command.get_name());
        let about = command.get_long_about().or_else(|| command.get_about());
        let about = about.map(ToString::to_string).unwrap_or_default();
        let about = about.split("\n\n").map(|sentence| format!("{}.", sentence.trim().trim_end_matches('.')));
        text.push_str(&format!("\n#### `{path}`\n\n"));
        text.push_str(&about.collect::<Vec<_>>().join("\n"));
        text.push('\n');
        let own = arguments(command, |argument| {
            // The options of every command are in the table above.
            !argument.is_global_set() && argument.get_id() != "files"
        });
        if !own.is_empty() {
            text.push('\n');
            text.push_str(&own);
        }
        add_subcommands(command, &path, text);
    }
}

/// The arguments of a command, as a table.
fn arguments(command: &clap::Command, wanted: impl Fn(&clap::Arg) -> bool) -> String {
    let line = |argument: &clap::Arg| {
        let values = argument.get_value_names().unwrap_or_default();
        let takes = argument.get_action().takes_values();
        let value = values.iter().map(|name| format!(" {name}")).collect::<String>();
        let mut names = Vec::new();
        if let Some(short) = argument.get_short() {
            names.push(format!("-{short}"));
        }
        if let Some(long) = argument.get_long() {
            names.push(format!("--{long}"));
        }
        let name = match (names.is_empty(), takes) {
            (true, _) => value.trim().to_owned(),
            (false, true) => names.join(", ") + &value,
            (false, false) => names.join(", "),
        };
        let help = argument.get_long_help().or_else(|| argument.get_help());
        let help = help.map(ToString::to_string).unwrap_or_default();
        let help = help.split("\n\n").map(|sentence| format!("{}.", sentence.trim().trim_end_matches('.')));
        // Outside code, Markdown takes `<secret>` for a tag.
        row([&format!("`{name}`"), &help.collect::<Vec<_>>().join(" ").replace('<', "\\<")])
    };
    let lines: String = command
        .get_arguments()
        .filter(|argument| {
            !argument.is_hide_set() && !matches!(argument.get_id().as_str(), "help" | "version")
        })
        .filter(|argument| wanted(argument))
        .map(line)
        .collect();
    if lines.is_empty() { lines } else { head(["Argument", "Meaning"]) + &lines }
}

/// Replaces each generated part of `text` with the output of `part`.
fn render(text: &str, part: &mut impl FnMut(&str) -> Result<String, String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut inside: Option<String> = None;
    for line in text.split_inclusive('\n') {
        let name = line.trim().strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"));
        if let Some(open) = &inside {
            if name.and_then(|name| name.strip_prefix("/codegen:")) == Some(open) {
                inside = None;
                out.push_str(line);
            }
            continue;
        }
        out.push_str(line);
        if let Some(name) = name.and_then(|name| name.strip_prefix("codegen:")) {
            out.push_str(part(name)?.trim_end());
            out.push('\n');
            inside = Some(name.to_owned());
        }
    }
    match inside {
        Some(name) => Err(format!("the part {name} has no end")),
        None => Ok(out),
    }
}

/// The first line that differs.
fn difference(old: &str, new: &str) -> String {
    let (mut old, mut new) = (old.lines(), new.lines());
    let mut number = 1;
    loop {
        match (old.next(), new.next()) {
            (None, None) => return "the end of the file differs".to_owned(),
            (before, after) if before == after => number += 1,
            (before, after) => {
                let show = |line: Option<&str>| line.map_or("(nothing)", str::trim).to_owned();
                return format!("line {number} is\n  {}\nand should be\n  {}", show(before), show(after));
            }
        }
    }
}

#[test]
fn every_part_is_a_table_or_has_one() {
    for name in [
        "cli-reference",
        "exit-codes",
        "go-answers",
        "go-refusals",
        "providers",
        "settings-azure",
        "settings-ibmkp",
        "settings-kmip",
        "settings-vault",
        "stricter",
    ] {
        let text = part(name).unwrap();
        assert!(text.contains("| --- |"), "{name}: {text}");
    }
}

#[test]
fn a_table_has_the_same_cells_in_each_row() {
    for text in [exit_codes(), provider_table(), stricter(), go_answers(), go_refusals()] {
        let cells: Vec<_> = text.lines().map(|line| line.replace("\\|", "").matches('|').count()).collect();
        assert!(cells.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
    }
}

fn upper(text: &str) -> Result<String, String> {
    render(text, &mut |name| Ok(name.to_uppercase()))
}

#[test]
fn parts_are_replaced_and_the_rest_stays() {
    let text = "a\n<!-- codegen:one -->\nold\n<!-- /codegen:one -->\nb\n";
    let new = "a\n<!-- codegen:one -->\nONE\n<!-- /codegen:one -->\nb\n";
    assert_eq!(upper(text).unwrap(), new);
    assert_eq!(upper(new).unwrap(), new);
    assert_eq!(upper("no part").unwrap(), "no part");
}

#[test]
fn a_part_without_an_end_is_refused() {
    assert!(upper("<!-- codegen:one -->\n<!-- /codegen:two -->\n").is_err());
}

#[test]
fn the_first_difference_is_shown() {
    assert!(difference("a\nb\n", "a\nc\n").starts_with("line 2 is\n  b\n"));
    assert!(difference("a\n", "a\nc\n").contains("(nothing)"));
}
