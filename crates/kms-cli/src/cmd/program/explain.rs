//! `kms explain`: what a setting means.

use kms_core::{
    Error, Result,
    config::{Setting, Support, nearest},
};
use kms_dispatch::Provider;
use serde::Serialize;

use crate::{
    exit::Exit,
    output::{Format, Output},
};

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The name of the setting, in `connectionDetails` or as a variable; without it, the names of all settings
    #[arg(value_name = "SETTING")]
    pub(crate) setting: Option<String>,
}

/// The settings that were asked for.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    pub(crate) settings: Vec<Entry>,
}

/// One setting of one provider.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) aliases: &'static [&'static str],
    pub(crate) provider: &'static str,
    pub(crate) meaning: &'static str,
    /// The form of the value.
    pub(crate) values: &'static str,
    /// What counts if the setting is absent.
    pub(crate) default: &'static str,
    /// What Rook does with the setting.
    pub(crate) rook: &'static str,
    pub(crate) example: &'static str,
    pub(crate) credential: bool,
    /// `supported`, `no-effect` or `refused`.
    pub(crate) support: &'static str,
    /// Why the setting is refused or has no effect.
    pub(crate) reason: Option<&'static str>,
}

impl Entry {
    fn new(provider: Provider, setting: Setting) -> Self {
        let (support, reason) = match setting.support {
            Support::Refused(why) => ("refused", Some(why)),
            Support::NoEffect(why) => ("no-effect", Some(why)),
            _ => ("supported", None),
        };
        Self {
            name: setting.name,
            aliases: setting.aliases,
            provider: provider.title(),
            meaning: setting.meaning,
            values: setting.facts.values,
            default: setting.facts.default,
            rook: setting.facts.rook,
            example: setting.facts.example,
            credential: setting.is_secret,
            support,
            reason,
        }
    }

    fn has_name(&self, wanted: &str) -> bool {
        std::iter::once(&self.name).chain(self.aliases).any(|name| name.eq_ignore_ascii_case(wanted))
    }

    /// The entry as paragraphs of text.
    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("{} ({})", self.name, self.provider)];
        if !self.aliases.is_empty() {
            lines.push(format!("  also {}", self.aliases.join(", ")));
        }
        lines.push(format!("  {}", self.meaning));
        lines.push(format!("  Value: {}. Default: {}.", self.values, self.default));
        lines.push(format!("  Rook {}.", self.rook));
        lines.push(format!("  Example: {}: \"{}\"", self.name, self.example));
        if self.credential {
            lines.push("  It is a credential: better kept in a Secret than in connectionDetails.".to_owned());
        }
        if let Some(reason) = self.reason {
            let verdict = if self.support == "refused" { "It is refused" } else { "It has no effect" };
            lines.push(format!("  {verdict}: {reason}."));
        }
        lines
    }
}

/// Every setting of the providers in this build.
fn entries() -> Vec<Entry> {
    let of = |provider: Provider| {
        let settings = provider.settings().unwrap_or_default();
        settings.into_iter().map(move |setting| Entry::new(provider, setting))
    };
    Provider::ALL.into_iter().flat_map(of).collect()
}

/// Explains a setting, or names all of them.
pub(crate) fn run(args: Args, output: &mut Output<'_>) -> Result<Exit> {
    let mut settings = entries();
    if let Some(wanted) = &args.setting {
        let wanted = wanted.trim();
        let names: Vec<_> = settings.iter().map(|entry| entry.name).collect();
        settings.retain(|entry| entry.has_name(wanted));
        if settings.is_empty() {
            let near = nearest(wanted, names);
            let hint = near.map_or_else(
                || "`kms explain` lists the settings of this build".to_owned(),
                |near| format!("did you mean {near}?"),
            );
            return Err(Error::config(format!("{wanted} is not a known setting; {hint}")));
        }
    }
    if output.format() == Format::Json {
        output.json(&Document { settings })?;
        return Ok(Exit::Done);
    }
    for entry in settings {
        let lines = if args.setting.is_some() { entry.lines() } else { vec![entry.name.to_owned()] };
        for line in lines {
            output.line(line)?;
        }
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explain(setting: Option<&str>) -> Result<String> {
        let mut bytes = Vec::new();
        let args = Args { setting: setting.map(str::to_owned) };
        run(args, &mut Output::to(Format::Text, &mut bytes))?;
        Ok(String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn every_setting_of_this_build_is_listed_and_explained() {
        let names = explain(None).unwrap();
        assert!(names.lines().count() > 20, "{names}");
        for name in names.lines() {
            let text = explain(Some(&name.to_lowercase())).unwrap();
            assert!(text.starts_with(name), "{text}");
            for part in ["  Value: ", ". Default: ", "  Rook ", &format!("  Example: {name}: \"")] {
                assert!(text.contains(part), "{part:?} is not in {text}");
            }
        }
    }

    #[test]
    fn an_unknown_setting_is_an_error_with_the_nearest_name() {
        let error = explain(Some("VAULT_ADDRR")).unwrap_err().to_string();
        assert!(error.contains("did you mean VAULT_ADDR?"), "{error}");
    }
}
