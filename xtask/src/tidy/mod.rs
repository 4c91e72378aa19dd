//! `cargo xtask tidy`: checks the rules of `docs/style.md` that no lint checks. The checks of files are tests as well.

mod imports;
mod isolation;
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
        for (_, check) in CHECKS {
            let shown =
                |problem: &String| self.under.as_ref().is_none_or(|under| problem.contains(under.as_str()));
            errors.extend(check(&workspace).into_iter().filter(shown));
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
        for (name, check) in CHECKS {
            assert_eq!(check(&workspace), Vec::<String>::new(), "{name}");
        }
    }
}
