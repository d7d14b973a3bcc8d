//! What a COPY's sources mean: matches, each with everything below it.
//!
//! Names are sorted, so that the same tree is always selected in the same order. What the ignore
//! file leaves out does not exist. A source that is a link means what it leads to inside its origin;
//! links below a folder are themselves.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use unpacker::layer::root::Root;
use unpacker::layer::root::metadata::{Kind, Metadata};
use unpacker::progress::Cancel;

use crate::cache::files::Hashed;
use crate::ignore::{Ignore, Include};
use crate::plan::Source;
use crate::plan::path::is_pattern;

use super::CopyError;
use super::glob::Glob;

/// Files of one COPY; bounds memory against trees made to exhaust it.
const MAX_ITEMS: usize = 5_000_000;
/// As the kernel: so many links in one path are a loop.
const MAX_LINKS: usize = 40;

/// Where sources are looked up.
#[derive(Debug, Clone, Copy)]
pub struct Tree<'a> {
    pub root: &'a Root,
    /// Only the build context has one.
    pub ignore: Option<&'a Ignore>,
    /// `--exclude`, seen from each match: it leaves out what is below a folder, and a file that is
    /// itself a match by its name.
    pub exclude: &'a Ignore,
    /// For messages: "the build context".
    pub name: &'a str,
}

/// One path that a source names.
#[derive(Debug)]
pub struct Match {
    /// Below the tree's root; `.` is the root itself.
    pub path: PathBuf,
    /// The last component: a file's name in a destination folder.
    pub name: OsString,
    pub metadata: Metadata,
    pub seen: Seen,
    /// What is below a folder, parents before children.
    pub items: Vec<Item>,
}

#[derive(Debug)]
pub struct Item {
    /// Below the match.
    pub path: PathBuf,
    pub metadata: Metadata,
    pub seen: Seen,
}

/// What a file held when the selection was hashed.
#[derive(Debug, Default)]
pub enum Seen {
    /// It was not read, or cannot change.
    #[default]
    Nothing,
    File(Box<Hashed>),
    Link(PathBuf),
}

impl Match {
    pub fn is_dir(&self) -> bool {
        self.metadata.kind == Kind::Directory
    }

    /// An item's path below the tree's root.
    pub fn full(&self, item: &Item) -> PathBuf {
        self.path.join(&item.path)
    }
}

/// Everything that the sources name, in their order. Patterns may match nothing, and what `--exclude`
/// leaves out may come to nothing; a path that is no pattern has to be there.
pub fn select(
    tree: Tree<'_>,
    sources: &[Source],
    cancel: &Cancel,
) -> Result<Vec<Match>, CopyError> {
    let mut walk = Walk {
        tree,
        cancel,
        count: 0,
    };
    let mut matches = Vec::new();
    for source in sources {
        let include = include(source)?;
        let paths = match source.pattern {
            true => walk.expand(&source.path)?,
            false => vec![PathBuf::from(&source.path)],
        };
        for path in paths {
            match walk.take(&path, include.as_ref())? {
                Taken::Match(found) => matches.push(*found),
                Taken::Excluded => {}
                Taken::Absent if source.pattern => {}
                Taken::Absent => return Err(walk.nothing(&source.path)),
                // A link that leads nowhere, found by a pattern.
                Taken::Dangling => return Err(walk.nothing(&path.to_string_lossy())),
            }
        }
        if let Some(below) = &source.below {
            walk.require(source, below)?;
        }
    }
    Ok(matches)
}

/// What `--parents` takes below a source; nothing where that is everything.
fn include(source: &Source) -> Result<Option<Include>, CopyError> {
    let Some(below) = source.below.as_deref().filter(|below| *below != ".") else {
        return Ok(None);
    };
    let parsed = Include::parse(below).map_err(|_| CopyError::BadPattern {
        pattern: below.to_owned(),
    });
    parsed.map(Some)
}

/// What became of one path.
enum Taken {
    Match(Box<Match>),
    Absent,
    /// A link to what is not there, or left out.
    Dangling,
    Excluded,
}

struct Walk<'a> {
    tree: Tree<'a>,
    cancel: &'a Cancel,
    count: usize,
}

impl Walk<'_> {
    fn nothing(&self, pattern: &str) -> CopyError {
        let (root, path) = (self.tree.root, Path::new(pattern));
        let hint = match root.metadata(path) {
            Ok(_) if root.metadata_followed(path).is_err() => {
                ": it is a link that leads nowhere in it"
            }
            Ok(_) if self.tree.ignore.is_some() => ": an ignore file leaves it out",
            _ => "",
        };
        CopyError::NoMatch {
            pattern: pattern.to_owned(),
            origin: self.tree.name.to_owned(),
            hint,
        }
    }

    /// With `--parents` a path that is no pattern has to be there.
    fn require(&self, source: &Source, below: &str) -> Result<(), CopyError> {
        if source.pattern || is_pattern(below) {
            return Ok(());
        }
        let path = context_path(Path::new(&source.path), Path::new(below));
        let there = self.tree.root.metadata_followed(&path).is_ok();
        match there && !self.ignored(&path) {
            true => Ok(()),
            false => Err(self.nothing(&path.to_string_lossy())),
        }
    }

    fn ignored(&self, path: &Path) -> bool {
        let root = path == Path::new(".");
        !root
            && self
                .tree
                .ignore
                .is_some_and(|ignore| ignore.is_ignored(path))
    }

    fn descends(&self, path: &Path) -> bool {
        let root = path == Path::new(".");
        root || self
            .tree
            .ignore
            .is_none_or(|ignore| ignore.may_descend(path))
    }

    /// A match, or nothing where the path is not there or left out.
    fn take(&mut self, path: &Path, include: Option<&Include>) -> Result<Taken, CopyError> {
        let metadata = match self.tree.root.metadata_followed(path) {
            Ok(metadata) => metadata,
            Err(e) if is_absent(&e) => return self.absent(path),
            Err(e) => return Err(CopyError::read(path)(e)),
        };
        let name = path.file_name().unwrap_or(OsStr::new("")).to_owned();
        let real = match self.tree.ignore {
            Some(_) => self.real(path)?,
            None => Some(path.to_owned()),
        };
        let Some(path) = real.as_deref() else {
            return Ok(Taken::Absent);
        };
        if !metadata.is_dir() && self.tree.exclude.is_ignored(Path::new(&name)) {
            return Ok(Taken::Excluded);
        }
        let ignored = self.ignored(path);
        let mut items = Vec::new();
        if metadata.is_dir() && self.descends(path) {
            items = self.below(path, include)?;
        }
        if ignored && items.is_empty() {
            return Ok(Taken::Absent);
        }
        Ok(Taken::Match(Box::new(Match {
            path: path.to_owned(),
            name,
            metadata,
            seen: Seen::Nothing,
            items,
        })))
    }

    fn absent(&self, path: &Path) -> Result<Taken, CopyError> {
        let found = self.tree.root.lookup(path).map_err(CopyError::read(path))?;
        let link = found.is_some_and(|found| found.is_symlink()) && !self.ignored(path);
        Ok(if link { Taken::Dangling } else { Taken::Absent })
    }

    /// Where links lead to: what is left out there is not to be had by another name either. Nothing
    /// where a link on the way is left out.
    fn real(&self, path: &Path) -> Result<Option<PathBuf>, CopyError> {
        let mut todo: Vec<OsString> = Vec::new();
        push_parts(&mut todo, path);
        let (mut real, mut links) = (PathBuf::new(), 0);
        while let Some(part) = todo.pop() {
            if part == ".." {
                real.pop();
                continue;
            }
            let at = real.join(&part);
            let found = self.tree.root.metadata(&at).map_err(CopyError::read(&at))?;
            if !found.is_symlink() {
                real = at;
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                let error = std::io::Error::from(rustix::io::Errno::LOOP);
                return Err(CopyError::read(path)(error));
            }
            if self.ignored(&at) {
                return Ok(None);
            }
            let target = self.tree.root.read_link(&at);
            let target = target.map_err(CopyError::read(&at))?;
            if target.is_absolute() {
                real = PathBuf::new();
            }
            push_parts(&mut todo, &target);
        }
        let top = real.as_os_str().is_empty();
        Ok(Some(if top { PathBuf::from(".") } else { real }))
    }

    fn below(&mut self, top: &Path, include: Option<&Include>) -> Result<Vec<Item>, CopyError> {
        let exclude = self.tree.exclude;
        let mut items: Vec<(Item, bool)> = Vec::new();
        let mut todo = vec![PathBuf::new()];
        while let Some(folder) = todo.pop() {
            self.cancel.check()?;
            let mut folders = Vec::new();
            let at = top.join(&folder);
            let entries = self.tree.root.read_dir(&at);
            for entry in entries.map_err(CopyError::read(&at))? {
                let path = folder.join(&entry.name);
                let full = context_path(top, &path);
                let taken = include.is_none_or(|include| include.takes(&path));
                let ignored = !taken || self.ignored(&full) || exclude.is_ignored(&path);
                let descends = || {
                    include.is_none_or(|include| include.may_descend(&path))
                        && exclude.may_descend(&path)
                        && self.descends(&full)
                };
                if entry.kind == Kind::Directory && descends() {
                    folders.push(path.clone());
                } else if ignored {
                    continue;
                }
                self.count += 1;
                if self.count > MAX_ITEMS {
                    return Err(CopyError::TooMany { limit: MAX_ITEMS });
                }
                let metadata = self.tree.root.metadata(&top.join(&path));
                let metadata = metadata.map_err(CopyError::read(&full))?;
                let seen = Seen::Nothing;
                let item = Item {
                    path,
                    metadata,
                    seen,
                };
                items.push((item, ignored));
            }
            todo.extend(folders.into_iter().rev());
        }
        Ok(without_empty(items))
    }

    /// The paths that a pattern matches, component by component.
    fn expand(&mut self, pattern: &str) -> Result<Vec<PathBuf>, CopyError> {
        let mut found = vec![PathBuf::new()];
        for component in pattern.split('/') {
            self.cancel.check()?;
            found = match component {
                literal if !is_pattern(literal) => {
                    found.iter().map(|path| path.join(literal)).collect()
                }
                component => {
                    let glob = Glob::parse(component).map_err(|_| CopyError::BadPattern {
                        pattern: pattern.to_owned(),
                    })?;
                    self.matching(found, &glob)?
                }
            };
        }
        found.retain(|path| !path.as_os_str().is_empty());
        Ok(found)
    }

    fn matching(&mut self, folders: Vec<PathBuf>, glob: &Glob) -> Result<Vec<PathBuf>, CopyError> {
        let mut found = Vec::new();
        for folder in folders {
            for path in self.children(&folder)? {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if glob.matches(&name) {
                    found.push(path);
                }
            }
        }
        Ok(found)
    }

    /// What is in a folder; nothing if it is none.
    fn children(&mut self, folder: &Path) -> Result<Vec<PathBuf>, CopyError> {
        match self.tree.root.read_dir(folder) {
            Ok(entries) => {
                self.count += entries.len();
                if self.count > MAX_ITEMS {
                    return Err(CopyError::TooMany { limit: MAX_ITEMS });
                }
                Ok(entries
                    .iter()
                    .map(|entry| folder.join(&entry.name))
                    .collect())
            }
            Err(e) if is_absent(&e) => Ok(Vec::new()),
            Err(e) => Err(CopyError::read(folder)(e)),
        }
    }
}

/// Puts the components of a path on a stack, the first on top.
fn push_parts(todo: &mut Vec<OsString>, path: &Path) {
    use std::path::Component;
    let parts = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    todo.extend(parts);
}

/// The path as the ignore file knows it: without a leading `.`.
fn context_path(top: &Path, below: &Path) -> PathBuf {
    match top == Path::new(".") {
        true => below.to_owned(),
        false => top.join(below),
    }
}

/// Folders that are left out stay as long as something below them is brought back.
fn without_empty(items: Vec<(Item, bool)>) -> Vec<Item> {
    if !items.iter().any(|(_, ignored)| *ignored) {
        return items.into_iter().map(|(item, _)| item).collect();
    }
    let kept = items.iter().filter(|(_, ignored)| !ignored);
    let mut needed: std::collections::HashSet<PathBuf> = std::collections::HashSet::new();
    for (item, _) in kept {
        needed.extend(item.path.ancestors().map(Path::to_owned));
    }
    items
        .into_iter()
        .filter(|(item, ignored)| !ignored || needed.contains(&item.path))
        .map(|(item, _)| item)
        .collect()
}

fn is_absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::path;
    use std::fs;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        dir
    }

    fn selected(dir: &Path, ignore: &str, sources: &[&str]) -> Result<Vec<String>, CopyError> {
        let sources: Vec<Source> = sources.iter().map(|s| path::source(s)).collect();
        shown(dir, ignore, &[], &sources)
    }

    fn shown(
        dir: &Path,
        ignore: &str,
        exclude: &[&str],
        sources: &[Source],
    ) -> Result<Vec<String>, CopyError> {
        let root = Root::open(dir).unwrap();
        let ignore = Ignore::parse(ignore.as_bytes()).unwrap();
        let exclude = Ignore::from_patterns(exclude.iter().copied()).unwrap();
        let tree = Tree {
            root: &root,
            ignore: Some(&ignore),
            exclude: &exclude,
            name: "the build context",
        };
        let matches = select(tree, sources, &Cancel::default())?;
        let show = |m: &Match| {
            let top = m.path.display().to_string();
            let items = m.items.iter().map(|i| m.full(i).display().to_string());
            std::iter::once(top).chain(items).collect::<Vec<_>>()
        };
        Ok(matches.iter().flat_map(show).collect())
    }

    #[test]
    fn selects_sorted_and_ignores() {
        let dir = tree(&["a/x.c", "a/y.h", "a/sub/z.c", "b/x.c", "top.c"]);
        for (ignore, sources, want) in [
            ("", &["top.c"][..], &["top.c"][..]),
            ("", &["a"], &["a", "a/sub", "a/x.c", "a/y.h", "a/sub/z.c"]),
            ("", &["*/x.c"], &["a/x.c", "b/x.c"]),
            ("", &["a/*.[ch]"], &["a/x.c", "a/y.h"]),
            // As in Go's `filepath.Match`, which knows no `**`.
            ("", &["**/*.c"], &["a/x.c", "b/x.c"]),
            ("", &["no*"], &[]),
            ("top.c", &["*.c"], &[]),
            ("a", &["."], &[".", "./b", "./top.c", "./b/x.c"]),
            ("a\n!a/sub/z.c", &["a"], &["a", "a/sub", "a/sub/z.c"]),
            ("*.c", &["top.*", "b"], &["b", "b/x.c"]),
            ("**/*.c", &["b"], &["b"]),
        ] {
            assert_eq!(
                selected(dir.path(), ignore, sources).unwrap(),
                want,
                "{sources:?}"
            );
        }
    }

    #[test]
    fn excludes_are_seen_from_each_source() {
        let dir = tree(&["a/x.c", "a/y.h", "a/sub/z.c", "b/x.c", "top.c", "top.h"]);
        for (exclude, sources, want) in [
            (
                &["*.c"][..],
                &["a"][..],
                &["a", "a/sub", "a/y.h", "a/sub/z.c"][..],
            ),
            (&["**/*.c"], &["a"], &["a", "a/sub", "a/y.h"]),
            (
                &["*/*.c"],
                &["."],
                &[
                    ".",
                    "./a",
                    "./b",
                    "./top.c",
                    "./top.h",
                    "./a/sub",
                    "./a/y.h",
                    "./a/sub/z.c",
                ],
            ),
            (&["sub"], &["a"], &["a", "a/x.c", "a/y.h"]),
            (&["*", "!sub/z.c"], &["a"], &["a", "a/sub", "a/sub/z.c"]),
            (&["*.c"], &["top*"], &["top.h"]),
            (&["*"], &["top.c"], &[]),
            (&["*"], &["a"], &["a"]),
        ] {
            let sources: Vec<Source> = sources.iter().map(|s| path::source(s)).collect();
            let found = shown(dir.path(), "", exclude, &sources).unwrap();
            assert_eq!(found, want, "{exclude:?} of {sources:?}");
        }
    }

    #[test]
    fn parents_keep_the_folders_behind_the_pivot() {
        let dir = tree(&["a/b/c/d/f", "a/b/c/g", "a/b2/c/d/h", "a/e/i", "top"]);
        for (ignore, source, want) in [
            (
                "",
                "a/b/c/g",
                &[".", "./a", "./a/b", "./a/b/c", "./a/b/c/g"][..],
            ),
            ("", "a/b/./c/d", &["a/b", "a/b/c", "a/b/c/d", "a/b/c/d/f"]),
            (
                "",
                "a/b*/./**/h",
                &["a/b", "a/b2", "a/b2/c", "a/b2/c/d", "a/b2/c/d/h"],
            ),
            ("", "a/./*/c/g", &["a", "a/b", "a/b/c", "a/b/c/g"]),
            ("", "none*/x", &["."]),
            ("a/b/c/d", "a/b/./c", &["a/b", "a/b/c", "a/b/c/g"]),
            ("", "a/e/.", &[".", "./a", "./a/e", "./a/e/i"]),
        ] {
            let sources = [path::source_with_parents(source)];
            let found = shown(dir.path(), ignore, &[], &sources).unwrap();
            assert_eq!(found, want, "{source}");
        }
        for (ignore, source) in [("", "nope"), ("", "a/./nope"), ("top", "top")] {
            let sources = [path::source_with_parents(source)];
            let error = shown(dir.path(), ignore, &[], &sources).unwrap_err();
            assert!(error.to_string().contains("matches nothing"), "{error}");
        }
    }

    #[test]
    fn what_is_missing_ignored_or_malformed_is_told() {
        let dir = tree(&["a/x.c"]);
        let link = |target: &str, name: &str| {
            std::os::unix::fs::symlink(target, dir.path().join(name)).unwrap();
        };
        link("nowhere", "link");
        link("a/x.c", "to-x");
        for (ignore, source, want) in [
            ("", "nope", "matches nothing"),
            ("", "li*", "matches nothing"),
            ("a", "to-x", "matches nothing"),
            ("to-x", "to-x", "an ignore file leaves it out"),
            ("a", "a/x.c", "an ignore file leaves it out"),
            ("", "a/[", "is not a pattern"),
        ] {
            let error = selected(dir.path(), ignore, &[source]).unwrap_err();
            assert!(error.to_string().contains(want), "{error}");
        }
    }

    #[test]
    fn a_link_cannot_lead_out() {
        let dir = tree(&["in/f"]);
        std::os::unix::fs::symlink("/etc", dir.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/in", dir.path().join("inner")).unwrap();
        assert!(selected(dir.path(), "", &["etc/passwd"]).is_err());
        assert_eq!(
            selected(dir.path(), "", &["inner"]).unwrap(),
            ["in", "in/f"]
        );
        assert!(selected(dir.path(), "in", &["inner"]).is_err());
    }
}
