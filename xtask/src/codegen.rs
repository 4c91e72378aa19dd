//! `cargo xtask codegen`: the tables in Markdown files that are made from the code.
//!
//! What stands between `<!-- codegen:NAME -->` and `<!-- /codegen:NAME -->` is what `kms codegen NAME` prints.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use xshell::{Shell, cmd};

use crate::provision;

/// Write the generated parts of the documentation
#[derive(Args, Debug)]
pub(crate) struct Codegen {
    /// Change nothing; fail where a part is not up to date
    #[arg(long)]
    check: bool,
}

impl Codegen {
    /// `--check`.
    pub(crate) fn check() -> Self {
        Self { check: true }
    }

    pub(crate) fn run(self, sh: &Shell) -> Result<()> {
        let kms = provision::kms_dev(sh)?;
        let mut parts = BTreeMap::new();
        let mut part = |name: &str| -> Result<String> {
            if let Some(text) = parts.get(name) {
                return Ok(String::clone(text));
            }
            let text = cmd!(sh, "{kms} codegen {name}").quiet().read()?;
            parts.insert(name.to_owned(), text.clone());
            Ok(text)
        };
        let mut stale = Vec::new();
        let files = cmd!(sh, "git ls-files --cached --others --exclude-standard *.md").quiet().read()?;
        for path in files.lines().filter(|path| sh.path_exists(path)) {
            let old = sh.read_file(path)?;
            let new = render(&old, &mut part).with_context(|| path.to_owned())?;
            if new == old {
                continue;
            }
            if self.check {
                stale.push(format!("{path}: {}", difference(&old, &new)));
            } else {
                sh.write_file(path, new)?;
                eprintln!("wrote {path}");
            }
        }
        if !stale.is_empty() {
            bail!("run cargo xtask codegen:\n{}", stale.join("\n"));
        }
        eprintln!("{} generated parts are up to date", parts.len());
        Ok(())
    }
}

/// `text` with each generated part made anew by `part`.
fn render(text: &str, part: &mut impl FnMut(&str) -> Result<String>) -> Result<String> {
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
        Some(name) => bail!("the part {name} has no end"),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn upper(text: &str) -> Result<String> {
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
}
