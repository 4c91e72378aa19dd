//! `kms codegen`: the parts of the documentation that are made from the code.

use clap::{CommandFactory, ValueEnum};
use kms_core::Result;
#[cfg(any(feature = "azure", feature = "ibmkp", feature = "kmip", feature = "vault"))]
use kms_core::config::{ConfigKey, Support};
use kms_dispatch::Provider;

use super::providers::{self, yes_no};
use crate::{cli::Cli, exit::Exit, output::Output};

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Which part
    pub(crate) name: Part,
}

/// The parts, by the names that they have in `<!-- codegen:NAME -->`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Part {
    CliReference,
    ExitCodes,
    Providers,
    SettingsAzure,
    SettingsIbmkp,
    SettingsKmip,
    SettingsVault,
}

/// Prints the part.
pub(crate) fn run(args: Args, output: &mut Output<'_>) -> Result<Exit> {
    output.bytes(text(args.name).as_bytes())?;
    Ok(Exit::Done)
}

pub(crate) fn text(part: Part) -> String {
    match part {
        Part::CliReference => cli_reference(),
        Part::ExitCodes => exit_codes(),
        Part::Providers => provider_table(),
        #[cfg(feature = "azure")]
        Part::SettingsAzure => settings::<kms_dispatch::keys::AzureConfigKey>(),
        #[cfg(not(feature = "azure"))]
        Part::SettingsAzure => String::new(),
        #[cfg(feature = "ibmkp")]
        Part::SettingsIbmkp => settings::<kms_dispatch::keys::IbmKpConfigKey>(),
        #[cfg(not(feature = "ibmkp"))]
        Part::SettingsIbmkp => String::new(),
        #[cfg(feature = "kmip")]
        Part::SettingsKmip => settings::<kms_dispatch::keys::KmipConfigKey>(),
        #[cfg(not(feature = "kmip"))]
        Part::SettingsKmip => String::new(),
        #[cfg(feature = "vault")]
        Part::SettingsVault => settings::<kms_dispatch::keys::VaultConfigKey>(),
        #[cfg(not(feature = "vault"))]
        Part::SettingsVault => String::new(),
    }
}

/// How many settings a provider has, as far as this build knows them.
pub(crate) fn settings_count(provider: Provider) -> Option<usize> {
    match provider {
        #[cfg(feature = "azure")]
        Provider::AzureKeyVault => Some(kms_dispatch::keys::AzureConfigKey::ALL.len()),
        #[cfg(feature = "ibmkp")]
        Provider::IbmKeyProtect => Some(kms_dispatch::keys::IbmKpConfigKey::ALL.len()),
        #[cfg(feature = "kmip")]
        Provider::Kmip => Some(kms_dispatch::keys::KmipConfigKey::ALL.len()),
        Provider::KubernetesSecret => Some(0),
        #[cfg(feature = "vault")]
        Provider::Vault => Some(kms_dispatch::keys::VaultConfigKey::ALL.len()),
        _ => None,
    }
}

/// A line of a Markdown table.
fn row<const N: usize>(cells: [&str; N]) -> String {
    format!("| {} |\n", cells.map(|cell| cell.trim().replace('|', "\\|")).join(" | "))
}

fn head<const N: usize>(cells: [&str; N]) -> String {
    row(cells) + &row([(); N].map(|()| "---"))
}

#[cfg(any(feature = "azure", feature = "ibmkp", feature = "kmip", feature = "vault"))]
fn settings<K: ConfigKey>() -> String {
    let line = |key: &K| {
        let mut name = format!("`{}`", key.as_str());
        if !key.aliases().is_empty() {
            let aliases: Vec<_> = key.aliases().iter().map(|alias| format!("`{alias}`")).collect();
            name = format!("{name}, also {}", aliases.join(", "));
        }
        let secret = if key.is_secret() { " A credential: better kept in a Secret." } else { "" };
        let meaning = format!("{}{secret}", key.doc().trim());
        let support = match key.support() {
            Support::Supported => "supported".to_owned(),
            Support::NoEffect(why) => format!("no effect: {why}"),
            Support::Refused(why) => format!("refused: {why}"),
            _ => "see the documentation".to_owned(),
        };
        row([&name, &meaning, &support])
    };
    head(["Setting", "Meaning", "Support"]) + &K::ALL.iter().map(line).collect::<String>()
}

fn exit_codes() -> String {
    let line = |exit: Exit| row([&exit.code().to_string(), exit.meaning()]);
    head(["Code", "Meaning"]) + &Exit::ALL.map(line).concat()
}

fn provider_table() -> String {
    let line = |entry: providers::Entry| {
        let kms_provider = match entry.kms_provider {
            "" => "absent".to_owned(),
            name => format!("`{name}`"),
        };
        let feature = format!("`{}`", entry.feature);
        let abilities = |ability: &dyn Fn(&providers::Abilities) -> String| {
            entry.abilities.as_ref().map_or_else(|| "not yet".to_owned(), ability)
        };
        row([
            entry.title,
            &kms_provider,
            &feature,
            &entry.settings.map_or_else(String::new, |count| count.to_string()),
            &abilities(&|abilities| abilities.create.to_owned()),
            &abilities(&|abilities| abilities.update.to_owned()),
            &abilities(&|abilities| yes_no(abilities.list).to_owned()),
            &abilities(&|abilities| yes_no(abilities.soft_delete).to_owned()),
            entry.keeps,
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
    ]) + &providers::entries().into_iter().map(line).collect::<String>()
}

fn cli_reference() -> String {
    let mut program = Cli::command().term_width(0);
    program.build();
    let mut text = format!("```text\n{}\n```\n\n", program.render_usage());
    text.push_str("Options of every command:\n\n");
    text.push_str(&arguments(&program, |_argument| true));
    add_subcommands(&program, "kms", &mut text);
    text
}

/// The commands below a command, and those below them.
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
        // Outside of code, Markdown takes `<secret>` for a tag.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_a_table_or_has_one() {
        let absent: Vec<_> = [
            ("SettingsAzure", cfg!(feature = "azure")),
            ("SettingsIbmkp", cfg!(feature = "ibmkp")),
            ("SettingsKmip", cfg!(feature = "kmip")),
            ("SettingsVault", cfg!(feature = "vault")),
        ]
        .into_iter()
        .filter_map(|(part, compiled)| (!compiled).then_some(part))
        .collect();
        for part in Part::value_variants() {
            let text = text(*part);
            let unknown = absent.contains(&format!("{part:?}").as_str());
            assert!(unknown || text.contains("| --- |"), "{part:?}: {text}");
        }
    }

    #[test]
    fn a_table_has_the_same_cells_in_each_row() {
        for text in [exit_codes(), provider_table()] {
            let cells: Vec<_> =
                text.lines().map(|line| line.replace("\\|", "").matches('|').count()).collect();
            assert!(cells.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
        }
    }
}
