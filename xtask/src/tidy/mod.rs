//! `cargo xtask tidy`: what `docs/style.md` asks for and no lint looks at. The checks of files are tests as well.

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

/// A check of files: its name, what it is, and whether what it finds is an error.
type Check = (&'static str, fn(&Workspace) -> Vec<String>, bool);

const CHECKS: [Check; 6] = [
    ("lines", lines::check, true),
    ("roles", roles::check, false),
    ("phrases", phrases::check, false),
    ("references", references::check, false),
    ("imports", imports::check, false),
    ("shared runs", shared::check, false),
];

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
        for (name, check, is_error) in CHECKS {
            let mut found = left::beyond(name, check(&workspace));
            found.retain(|problem| self.under.as_ref().is_none_or(|under| problem.contains(under.as_str())));
            if is_error {
                errors.extend(found);
            } else if !found.is_empty() {
                eprintln!("{name}: {} warnings\n  {}", found.len(), found.join("\n  "));
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
        for (name, check, is_error) in CHECKS {
            if is_error {
                assert_eq!(left::beyond(name, check(&workspace)), Vec::<String>::new(), "{name}");
            }
        }
    }
}
