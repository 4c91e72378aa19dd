//! Checks imports between the files of a crate: no two files may import each other, except a parent module and its
//! descendants.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    lexer::{Kind, Token},
    workspace::{File, Workspace},
};

/// The maximum number of re-exports that are followed in a row.
const DEPTH: usize = 16;

/// A name in a module.
#[derive(Debug)]
enum Name {
    /// Defined in the module itself.
    Here,
    /// A child module, by its index.
    Module(usize),
    /// Imported by `use`: the path as written, from the importing module.
    Import(Vec<String>),
}

#[derive(Debug)]
struct Module {
    parent: Option<usize>,
    /// The file that holds the module, by its index.
    file: usize,
    names: BTreeMap<String, Name>,
    /// Paths of `use …::*`.
    globs: Vec<Vec<String>>,
    /// Every path in the module that begins with `crate`, `super` or `self`.
    paths: Vec<Vec<String>>,
}

/// The modules of one crate and the files that hold them.
#[derive(Debug)]
pub(super) struct CrateFiles<'a> {
    workspace: &'a Workspace,
    /// Each file, and the path of its module.
    files: Vec<(&'a File, Vec<String>)>,
    modules: Vec<Module>,
}

impl<'a> CrateFiles<'a> {
    /// Reads the crate of that name, starting with its root files. Files that only tests include are left out.
    pub(super) fn of(workspace: &'a Workspace, name: &str) -> Self {
        let mut this = Self { workspace, files: Vec::new(), modules: Vec::new() };
        for root in ["lib.rs", "main.rs"] {
            if let Some(file) = workspace.get(&format!("crates/{name}/src/{root}")) {
                this.add_file(file, Vec::new(), None);
            }
        }
        this
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &'a File> {
        self.files.iter().map(|(file, _)| *file)
    }

    /// The imports between files. Imports between a module and its ancestor are left out.
    fn edges(&self) -> BTreeMap<usize, BTreeSet<usize>> {
        let mut edges: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for (index, module) in self.modules.iter().enumerate() {
            for path in &module.paths {
                let Some(to) = self.resolve(index, path, DEPTH).map(|to| self.file_of(&to)) else { continue };
                if to != module.file && !self.related(to, module.file) {
                    edges.entry(module.file).or_default().insert(to);
                }
            }
        }
        edges
    }

    fn related(&self, one: usize, other: usize) -> bool {
        let path = |file: usize| self.files.get(file).map(|(_, path)| path.as_slice()).unwrap_or_default();
        path(one).starts_with(path(other)) || path(other).starts_with(path(one))
    }

    fn add_file(&mut self, file: &'a File, path: Vec<String>, parent: Option<usize>) -> usize {
        self.files.push((file, path.clone()));
        let index = self.files.len() - 1;
        self.add_module(&file.tokens(), index, path, parent)
    }

    fn add_module(
        &mut self,
        tokens: &[Token],
        file: usize,
        path: Vec<String>,
        parent: Option<usize>,
    ) -> usize {
        let this = self.modules.len();
        self.modules.push(Module {
            parent,
            file,
            names: BTreeMap::new(),
            globs: Vec::new(),
            paths: Vec::new(),
        });
        let mut names = BTreeMap::new();
        let (mut globs, mut paths) = (Vec::new(), Vec::new());
        let mut depth = 0_usize;
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let word =
                tokens.get(at + 1).filter(|next| next.kind == Kind::Word).map(|next| next.text.clone());
            match token.text.as_str() {
                _ if token.kind == Kind::Literal => (),
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth = depth.saturating_sub(1),
                "mod" if depth == 0 && word.is_some() => {
                    let name = word.unwrap_or_default();
                    let child: Vec<String> = path.iter().cloned().chain([name.clone()]).collect();
                    if tokens.get(at + 2).is_some_and(|next| next.is("{")) {
                        let end = closing(tokens, at + 2);
                        let inner = tokens.get(at + 3..end).unwrap_or_default();
                        let index = self.add_module(inner, file, child, Some(this));
                        names.insert(name, Name::Module(index));
                        at = end;
                    } else if let Some(found) = self.child_file(file, &path, &child) {
                        let index = self.add_file(found, child, Some(this));
                        names.insert(name, Name::Module(index));
                    }
                }
                "use" if depth == 0 => {
                    let mut leaves = Vec::new();
                    at = leaves_of(tokens, at + 1, &mut Vec::new(), &mut leaves);
                    for (leaf, name) in leaves {
                        match name {
                            Some(name) => {
                                names.entry(name).or_insert_with(|| Name::Import(leaf.clone()));
                            }
                            None => globs.push(leaf.clone()),
                        }
                        paths.push(leaf);
                    }
                    continue;
                }
                "struct" | "enum" | "union" | "trait" | "type" | "fn" | "const" | "static" if depth == 0 => {
                    if let Some(name) = word {
                        names.insert(name, Name::Here);
                    }
                }
                "macro_rules" if depth == 0 => {
                    if let Some(name) = tokens.get(at + 2) {
                        names.insert(name.text.clone(), Name::Here);
                    }
                }
                "crate" | "super" | "self" if is_path(tokens, at) => {
                    let mut leaves = Vec::new();
                    at = leaves_of(tokens, at, &mut Vec::new(), &mut leaves);
                    paths.extend(leaves.into_iter().map(|(leaf, _)| leaf));
                    continue;
                }
                _ => (),
            }
            at += 1;
        }
        if let Some(module) = self.modules.get_mut(this) {
            (module.names, module.globs, module.paths) = (names, globs, paths);
        }
        this
    }

    /// The file of the module `child`, which `file` declares.
    fn child_file(&self, file: usize, parent: &[String], child: &[String]) -> Option<&'a File> {
        let (declaring, declaring_path) = self.files.get(file)?;
        let (folder, name) = declaring.path.rsplit_once('/')?;
        let stem = name.strip_suffix(".rs")?;
        let mut folder = folder.to_owned();
        if !["lib", "main", "mod"].contains(&stem) {
            folder = format!("{folder}/{stem}");
        }
        // Inline modules between the file and the child are folders.
        for inline in parent.iter().skip(declaring_path.len()) {
            folder = format!("{folder}/{inline}");
        }
        let name = child.last()?;
        let paths = [format!("{folder}/{name}.rs"), format!("{folder}/{name}/mod.rs")];
        paths.iter().find_map(|path| self.workspace.get(path))
    }

    /// Resolves a path that is written in the module `from`. `None` for names that other crates define.
    fn resolve(&self, from: usize, path: &[String], depth: usize) -> Option<Target> {
        let depth = depth.checked_sub(1)?;
        let mut module = from;
        let mut rest = path;
        let mut anchored = false;
        while let Some((first, others)) = rest.split_first() {
            match first.as_str() {
                "crate" => module = self.root_of(module),
                "super" => module = self.modules.get(module)?.parent?,
                "self" => (),
                _ => break,
            }
            anchored = true;
            rest = others;
        }
        if !anchored && !self.modules.get(module)?.names.contains_key(rest.first()?) {
            return None;
        }
        while let Some((first, others)) = rest.split_first() {
            let here = self.modules.get(module)?;
            match here.names.get(first) {
                Some(Name::Module(child)) => module = *child,
                Some(Name::Here) => return Some(Target::Item(module)),
                Some(Name::Import(import)) => {
                    // A name that imports itself comes from another crate: `use url; … self::url`.
                    if import.len() == 1 && import.first() == Some(first) {
                        return Some(Target::Item(module));
                    }
                    match self.resolve(module, import, depth) {
                        Some(Target::Module(found)) => module = found,
                        Some(item) => return Some(item),
                        None => return Some(Target::Item(module)),
                    }
                }
                None => {
                    let through = here.globs.iter().find_map(|glob| {
                        let Some(Target::Module(inside)) = self.resolve(module, glob, depth) else {
                            return None;
                        };
                        self.modules.get(inside)?.names.get(first)?;
                        self.resolve(inside, &[vec!["self".to_owned()], rest.to_vec()].concat(), depth)
                    });
                    return Some(through.unwrap_or(Target::Item(module)));
                }
            }
            rest = others;
        }
        Some(Target::Module(module))
    }

    fn file_of(&self, target: &Target) -> usize {
        let (Target::Module(module) | Target::Item(module)) = target;
        self.modules.get(*module).map_or(0, |module| module.file)
    }

    fn root_of(&self, mut module: usize) -> usize {
        while let Some(parent) = self.modules.get(module).and_then(|module| module.parent) {
            module = parent;
        }
        module
    }
}

/// The target of a path.
#[derive(Debug)]
enum Target {
    /// The module itself.
    Module(usize),
    /// Something that the module holds.
    Item(usize),
}

/// Whether the word at `at` begins a path. `pub(in crate::x)` does not count.
fn is_path(tokens: &[Token], at: usize) -> bool {
    let colon = |at: usize| tokens.get(at).is_some_and(|token| token.is(":"));
    let before = at.checked_sub(1).and_then(|before| tokens.get(before));
    colon(at + 1) && colon(at + 2) && !before.is_some_and(|before| before.is("in") || before.is(":"))
}

/// Collects the paths of a `use` tree or of one path; a leaf's name is `None` for `*`. Returns the index after the
/// tree.
fn leaves_of(
    tokens: &[Token],
    mut at: usize,
    prefix: &mut Vec<String>,
    leaves: &mut Vec<(Vec<String>, Option<String>)>,
) -> usize {
    let begin = prefix.len();
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    loop {
        match text(at) {
            "{" => {
                let end = closing(tokens, at);
                at += 1;
                while at < end {
                    let next = leaves_of(tokens, at, prefix, leaves);
                    // Skips a comma, or a token that this reader does not know.
                    at = next.max(at + 1);
                    if text(next) == "," {
                        at = next + 1;
                    }
                }
                prefix.truncate(begin);
                return end + 1;
            }
            "*" => {
                leaves.push((prefix.clone(), None));
                prefix.truncate(begin);
                return at + 1;
            }
            _ if tokens.get(at).is_some_and(|token| token.kind == Kind::Word) => {
                prefix.push(text(at).to_owned());
                at += 1;
            }
            _ => break,
        }
        if text(at) != ":" || text(at + 1) != ":" {
            break;
        }
        at += 2;
    }
    if prefix.len() > begin {
        let mut path = prefix.clone();
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let mut name = path.last().cloned();
        if text(at) == "as" {
            name = Some(text(at + 1).to_owned());
            at += 2;
        }
        leaves.push((path, name));
    }
    prefix.truncate(begin);
    at
}

/// The index of the bracket that closes the one at `open`.
fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        if ["{", "(", "["].iter().any(|text| token.is(text)) {
            depth += 1;
        } else if ["}", ")", "]"].iter().any(|text| token.is(text)) {
            depth = depth.saturating_sub(1);
            if depth == 0 {
                return at;
            }
        }
    }
    tokens.len()
}

/// Finds every import cycle, as its shortest path; pairs come first.
pub(super) fn check(workspace: &Workspace) -> Vec<String> {
    workspace.crates().into_iter().flat_map(|name| circles(&CrateFiles::of(workspace, name))).collect()
}

fn circles(files: &CrateFiles<'_>) -> Vec<String> {
    let edges = files.edges();
    let name = |file: usize| files.files.get(file).map_or("", |(file, _)| file.path.as_str());
    let mut ways: Vec<Vec<usize>> = Vec::new();
    let mut seen = BTreeSet::new();
    for (&from, targets) in &edges {
        for &to in targets {
            let Some(back) = shortest(&edges, to, from) else { continue };
            let mut members = back.clone();
            members.sort_unstable();
            if seen.insert(members) {
                ways.push(back);
            }
        }
    }
    ways.sort_by_key(Vec::len);
    let found = ways.iter().map(|way| match way.as_slice() {
        [one, other] => format!("{} and {} import each other", name(*one), name(*other)),
        _ => {
            let names: Vec<&str> = way.iter().chain(way.first()).map(|file| name(*file)).collect();
            format!("imports go in a circle: {}", names.join(" -> "))
        }
    });
    found.collect()
}

/// The shortest path along `edges`, both ends included.
fn shortest(edges: &BTreeMap<usize, BTreeSet<usize>>, from: usize, to: usize) -> Option<Vec<usize>> {
    let mut before: BTreeMap<usize, usize> = BTreeMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(at) = queue.pop_front() {
        if at == to {
            let mut way = vec![to];
            while let Some(&last) = way.last().filter(|last| **last != from) {
                way.push(*before.get(&last)?);
            }
            way.reverse();
            return Some(way);
        }
        for &next in edges.get(&at).into_iter().flatten() {
            if next != from && !before.contains_key(&next) {
                before.insert(next, at);
                queue.push_back(next);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<(String, &str)> =
            files.iter().map(|(path, text)| (format!("crates/x/src/{path}"), *text)).collect();
        let mut list: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        list.push(("crates/x/Cargo.toml", ""));
        check(&Workspace::of(&list))
    }

    #[test]
    fn two_files_that_import_each_other_are_found() {
        let lib = "mod a; mod b;";
        let found = found(&[
            ("lib.rs", lib),
            ("a.rs", "use crate::b::B; struct A;"),
            ("b.rs", "struct B; fn f() { super::a::g() }"),
        ]);
        assert_eq!(found, ["crates/x/src/b.rs and crates/x/src/a.rs import each other"]);
    }

    #[test]
    fn a_longer_circle_is_found() {
        let found = found(&[
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", "use crate::{b::B, nothing};"),
            ("b.rs", "pub struct B; use crate::c::*;"),
            ("c.rs", "pub struct C; use crate::a;"),
        ]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found.concat().starts_with("imports go in a circle"), "{found:?}");
    }

    #[test]
    fn a_parent_and_its_descendants_may_import_each_other() {
        let files = [
            ("lib.rs", "mod a; pub struct Root; use a::c::C;"),
            ("a/mod.rs", "mod c; pub struct A; use c::C;"),
            ("a/c.rs", "pub struct C; use super::A; use crate::Root;"),
        ];
        assert!(found(&files).is_empty());
    }

    #[test]
    fn a_name_that_the_root_passes_on_belongs_to_its_own_file() {
        let found = found(&[
            ("lib.rs", "mod a; mod b; pub use a::A; pub use b::*;"),
            ("a.rs", "use crate::B; pub struct A;"),
            ("b.rs", "use crate::A as Other; pub struct B;"),
        ]);
        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn imports_of_tests_and_of_modules_in_braces_are_told_apart() {
        let tests = found(&[
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "pub struct A; #[cfg(test)] mod tests { use crate::b::B; }"),
            ("b.rs", "pub struct B; use crate::a::A;"),
        ]);
        assert!(tests.is_empty(), "{tests:?}");
        let braces = found(&[
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "pub struct A; mod inner { use super::super::b::B; }"),
            ("b.rs", "pub struct B; use crate::a::A;"),
        ]);
        assert_eq!(braces.len(), 1, "{braces:?}");
    }

    #[test]
    fn rights_are_no_imports() {
        let found = found(&[
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "pub(in crate::b) struct A;"),
            ("b.rs", "use crate::a::A;"),
        ]);
        assert!(found.is_empty(), "{found:?}");
    }
}
