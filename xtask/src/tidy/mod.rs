//! `cargo xtask tidy`: checks the rules of `docs/style.md` that no lint checks. The checks of files are tests as well.

mod imports;
mod isolation;
mod left;
mod lexer;
mod lines;
mod phrases;
mod references;
mod roles;
mod shared;
mod size;
mod workspace;

use anyhow::{Result, bail};
use clap::Args;
use xshell::Shell;

use self::workspace::Workspace;

/// A check of files, and its name.
type Check = (&'static str, fn(&Workspace) -> Vec<String>);

const CHECKS: [Check; 6] = [
    ("lines", lines::check),
    ("roles", roles::check),
    ("phrases", phrases::check),
    ("references", references::check),
    ("imports", imports::check),
    ("shared runs", shared::check),
];

/// Runs a check. Returns errors, and warnings for places that are still untidy.
fn sorted(check: Check, workspace: &Workspace) -> (Vec<String>, Vec<String>) {
    check.1(workspace).into_iter().partition(|problem| check.0 == "lines" || left::is_error(problem))
}

/// Check roles, phrases, references, imports, shared code, and which crate knows which
#[derive(Args, Debug, Default)]
pub(crate) struct Tidy {
    /// Check only files, and show only what is found under this path
    #[arg(value_name = "PATH")]
    under: Option<String>,
}

impl Tidy {
    pub(crate) fn run(self, sh: &Shell) -> Result<()> {
        let workspace = Workspace::read(sh)?;
        let mut errors = Vec::new();
        for check in CHECKS {
            let shown =
                |problem: &String| self.under.as_ref().is_none_or(|under| problem.contains(under.as_str()));
            let (found, mut warnings) = sorted(check, &workspace);
            errors.extend(found.into_iter().filter(shown));
            warnings.retain(shown);
            if !warnings.is_empty() {
                eprintln!("{}: {} warnings\n  {}", check.0, warnings.len(), warnings.join("\n  "));
            }
        }
        if self.under.is_none() {
            errors.extend(isolation::check(sh)?);
            eprintln!("{}", lines::long(&workspace).join("\n"));
            let sizes = size::code_lines(&workspace);
            for (name, lines) in &sizes {
                eprintln!("{lines:>6} code lines in {name}");
            }
            eprintln!("{:>6} code lines that users run", sizes.values().sum::<usize>());
        }
        if !errors.is_empty() {
            bail!("{} things are not tidy:\n{}", errors.len(), errors.join("\n"));
        }
        eprintln!("tidy");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_this_workspace_are_tidy() {
        let sh = Shell::new().unwrap();
        sh.change_dir(crate::run::root());
        let workspace = Workspace::read(&sh).unwrap();
        for check in CHECKS {
            assert_eq!(sorted(check, &workspace).0, Vec::<String>::new(), "{}", check.0);
        }
    }
}
