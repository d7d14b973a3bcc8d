//! What goes in: from the lists, the options and the host to a [`Tree`].
//!
//! Reads the host, writes nothing. A program goes in whole (with its links, its libraries and its
//! script interpreter) or not at all: what is essential or was asked for fails the plan, what is
//! merely usual is left out and told.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::closure::{ClosureError, Library, Loader};
use super::host::{Host, Kind};
use super::tree::{Resolved, Tree, WalkError};
use super::{Options, lists, system_files};

/// A `#!` line is cut here by the kernel (BINPRM_BUF_SIZE).
const SHEBANG_LIMIT: u64 = 256;
/// Scripts whose interpreter is a script whose interpreter …: the kernel stops at 5 too.
const SHEBANG_DEPTH: usize = 5;
/// os-release files are a few hundred bytes.
const RELEASE_LIMIT: u64 = 64 << 10;

/// The image before its bytes are read.
#[derive(Debug)]
pub struct Plan {
    pub tree: Tree,
    /// Names of the programs that can be called by name, sorted.
    pub programs: BTreeSet<String>,
    /// What was left out and why, a line each.
    pub left_out: Vec<String>,
    /// What people get when they enter.
    pub shell: String,
    /// PRETTY_NAME of the host.
    pub system: String,
}

/// Why no image can be made of this host.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("the host has no program {name} in {}", lists::SEARCH.join(", "))]
    NoProgram { name: String },
    #[error("the program {name} cannot go into the image")]
    Program { name: String, source: ProgramError },
    #[error("cannot read the loader's configuration")]
    Configuration(#[source] io::Error),
    #[error(transparent)]
    Walk(#[from] WalkError),
}

/// Why one program cannot go in.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error(transparent)]
    Walk(#[from] WalkError),
    #[error(transparent)]
    Closure(#[from] ClosureError),
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not an executable file", path.display())]
    NotExecutable { path: PathBuf },
    #[error("{} is neither an ELF program nor a script with a #! line", path.display())]
    Unknown { path: PathBuf },
    #[error("{} is a script of {}", path.display(), interpreter.display())]
    Interpreter { path: PathBuf, interpreter: PathBuf },
    #[error("{} has interpreters of interpreters without end", path.display())]
    TooDeep { path: PathBuf },
}

/// Whether scripts of perl and python may come in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scripts {
    OfShells,
    All,
}

/// Plans the image.
pub fn plan(host: &Host, options: &Options) -> Result<Plan, PlanError> {
    let mut planner = Planner {
        host,
        loader: Loader::new(host).map_err(PlanError::Configuration)?,
        tree: Tree::default(),
        programs: BTreeSet::new(),
        left_out: Vec::new(),
        done: BTreeSet::new(),
    };
    planner.skeleton()?;
    for name in lists::ESSENTIAL {
        planner.required(name, Scripts::OfShells)?;
    }
    for name in lists::PROGRAMS {
        planner.usual(name);
    }
    if options.git {
        planner.git()?;
    }
    for name in &options.include {
        planner.required(name, Scripts::All)?;
    }
    planner.data();
    planner.opened_later();
    Ok(planner.finish(options))
}

struct Planner<'a> {
    host: &'a Host,
    loader: Loader<'a>,
    tree: Tree,
    programs: BTreeSet<String>,
    left_out: Vec<String>,
    /// Real paths of programs whose closure is in.
    done: BTreeSet<PathBuf>,
}

impl Planner<'_> {
    /// Top-level links as on the host, and the folders that every system has.
    fn skeleton(&mut self) -> Result<(), PlanError> {
        for name in lists::TOP_LEVEL {
            match self.tree.add_host(self.host, Path::new(name)) {
                Ok(_) | Err(WalkError::Absent { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        for (path, mode) in lists::DIRECTORIES {
            self.tree.add_directory(path, *mode);
        }
        Ok(())
    }

    fn required(&mut self, name: &str, scripts: Scripts) -> Result<(), PlanError> {
        let added = self.program(name, scripts);
        let added = added.map_err(|source| PlanError::Program {
            name: name.to_owned(),
            source,
        })?;
        match added {
            true => Ok(()),
            false => Err(PlanError::NoProgram {
                name: name.to_owned(),
            }),
        }
    }

    fn usual(&mut self, name: &str) {
        if let Err(error) = self.program(name, Scripts::OfShells) {
            self.leave_out(name, &error);
        }
    }

    fn leave_out(&mut self, what: &str, error: &dyn std::error::Error) {
        let mut line = format!("{what}: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            line = format!("{line}: {error}");
            cause = error.source();
        }
        self.left_out.push(line);
    }

    /// Puts a program in, by name or by path; `false` when the host does not have it.
    fn program(&mut self, name: &str, scripts: Scripts) -> Result<bool, ProgramError> {
        let Some(path) = self.find(name)? else {
            return Ok(false);
        };
        self.executable(&path, scripts, 0)?;
        let called = path.file_name().unwrap_or_default();
        self.programs.insert(called.to_string_lossy().into_owned());
        let folder = path.parent().unwrap_or(Path::new("/"));
        if !system_files::PATH
            .split(':')
            .any(|known| folder == Path::new(known))
        {
            // It keeps its place, because it may look for its parts beside itself.
            self.tree
                .add_link(&Path::new("/usr/local/bin").join(called), &path);
        }
        Ok(true)
    }

    /// The first of the search folders that has an executable file of this name.
    fn find(&self, name: &str) -> Result<Option<PathBuf>, ProgramError> {
        let candidates: Vec<PathBuf> = match name.contains('/') {
            true => vec![PathBuf::from(name)],
            false => lists::SEARCH
                .iter()
                .map(|f| Path::new(f).join(name))
                .collect(),
        };
        for path in candidates {
            let meta = self.host.stat(&path).map_err(|source| ProgramError::Read {
                path: path.clone(),
                source,
            })?;
            if meta.is_some_and(|meta| meta.kind == Kind::File && meta.executable) {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// Puts an executable file in, after everything that it needs to run.
    fn executable(
        &mut self,
        path: &Path,
        scripts: Scripts,
        depth: usize,
    ) -> Result<(), ProgramError> {
        // A trial copy shows where the path leads; the real tree changes only when all is found.
        let resolved = Tree::default().add_host(self.host, path)?;
        if !self.done.contains(&resolved.path) {
            self.needs(&resolved, scripts, depth)?;
            self.done.insert(resolved.path);
        }
        self.tree.add_host(self.host, path)?;
        Ok(())
    }

    fn needs(
        &mut self,
        file: &Resolved,
        scripts: Scripts,
        depth: usize,
    ) -> Result<(), ProgramError> {
        let path = &file.path;
        if file.meta.kind != Kind::File || !file.meta.executable {
            return Err(ProgramError::NotExecutable { path: path.clone() });
        }
        if let Some(libraries) = self.loader.closure(path)? {
            return self.libraries(&libraries);
        }
        if depth == SHEBANG_DEPTH {
            return Err(ProgramError::TooDeep { path: path.clone() });
        }
        for interpreter in self.interpreters(path)? {
            let name = interpreter.file_name().unwrap_or_default();
            let is_shell = lists::SCRIPT_SHELLS.iter().any(|shell| name == *shell);
            if scripts == Scripts::OfShells && !is_shell && name != "env" {
                let path = path.clone();
                return Err(ProgramError::Interpreter { path, interpreter });
            }
            self.executable(&interpreter, scripts, depth + 1)?;
        }
        Ok(())
    }

    fn libraries(&mut self, libraries: &[Library]) -> Result<(), ProgramError> {
        // The folder of the C library is one that the loader looks into by itself.
        let plain = libraries
            .iter()
            .find(|library| library.name.as_deref() == Some("libc.so.6"))
            .and_then(|library| library.path.parent());
        for library in libraries {
            self.tree.add_host(self.host, &library.path)?;
            if let (true, Some(name), Some(folder)) =
                (library.by_configuration, &library.name, plain)
            {
                let real = Tree::default().add_host(self.host, folder)?.path;
                self.tree.add_link(&real.join(name), &library.path);
            }
        }
        Ok(())
    }

    /// What a script's first line names: an interpreter, and the program that `env` would start.
    fn interpreters(&self, path: &Path) -> Result<Vec<PathBuf>, ProgramError> {
        use io::Read;
        let read = |source| ProgramError::Read {
            path: path.to_owned(),
            source,
        };
        let file = self.host.open_file(path).map_err(read)?;
        let mut head = Vec::new();
        file.take(SHEBANG_LIMIT)
            .read_to_end(&mut head)
            .map_err(read)?;
        let words = shebang(&head).ok_or_else(|| ProgramError::Unknown {
            path: path.to_owned(),
        })?;
        let mut found = vec![words.0.clone()];
        if words.0.file_name() == Some(OsStr::new("env"))
            && let Some(name) = words.1
        {
            let name = name.to_string_lossy().into_owned();
            let program = self.find(&name)?.ok_or(WalkError::Absent {
                path: PathBuf::from(name),
            })?;
            found.push(program);
        }
        Ok(found)
    }

    /// git with its own folder of programs and its templates.
    fn git(&mut self) -> Result<(), PlanError> {
        self.required("git", Scripts::OfShells)?;
        for name in lists::GIT_PROGRAMS {
            self.usual(name);
        }
        for folder in lists::GIT_EXEC.map(Path::new) {
            let names = self.host.read_dir(folder);
            let names = names.map_err(|source| WalkError::Read {
                path: folder.to_owned(),
                source,
            })?;
            for name in names {
                self.git_part(&folder.join(name));
            }
        }
        for folder in lists::GIT_DATA {
            self.optional_tree(folder);
        }
        Ok(())
    }

    /// One entry of git's program folder; `git-sh-setup` and its like are read and not executed.
    fn git_part(&mut self, path: &Path) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if lists::GIT_LEFT_OUT.contains(&name.as_ref()) {
            return;
        }
        let added = match self.host.stat(path) {
            Ok(Some(meta)) if meta.kind == Kind::File && meta.executable => {
                self.executable(path, Scripts::OfShells, 0)
            }
            Ok(Some(meta)) if meta.kind == Kind::File => self
                .tree
                .add_host(self.host, path)
                .map(drop)
                .map_err(Into::into),
            _ => Ok(()),
        };
        if let Err(error) = added {
            self.leave_out(&name, &error);
        }
    }

    fn data(&mut self) {
        for path in lists::FILES {
            self.optional_file(Path::new(path));
        }
        for path in lists::TREES {
            self.optional_tree(path);
        }
        for (folder, name) in lists::TERMINFO
            .iter()
            .flat_map(|folder| lists::TERMINALS.iter().map(move |name| (folder, name)))
        {
            // A description lies in a folder of its first letter, or of that letter's number.
            let first = name.as_bytes()[0];
            for letter in [char::from(first).to_string(), format!("{first:x}")] {
                self.optional_file(&Path::new(folder).join(letter).join(name));
            }
        }
    }

    fn optional_file(&mut self, path: &Path) {
        match self.tree.add_host(self.host, path) {
            Ok(_) | Err(WalkError::Absent { .. }) => {}
            Err(error) => self.leave_out(&path.display().to_string(), &error),
        }
    }

    fn optional_tree(&mut self, path: &str) {
        match self.tree.add_host_tree(self.host, Path::new(path)) {
            Ok(()) | Err(WalkError::Absent { .. }) => {}
            Err(error) => self.leave_out(path, &error),
        }
    }

    /// Libraries that no program names but that glibc opens: they lie beside the C library.
    fn opened_later(&mut self) {
        let folders: BTreeSet<PathBuf> = self
            .tree
            .iter()
            .filter(|(path, _)| path.file_name() == Some(OsStr::new("libc.so.6")))
            .filter_map(|(path, _)| path.parent().map(Path::to_owned))
            .collect();
        for path in folders.iter().flat_map(|folder| {
            lists::OPENED_LATER
                .iter()
                .map(move |name| folder.join(name))
        }) {
            let closure = match self.host.stat(&path) {
                Ok(Some(_)) => self.loader.closure(&path),
                _ => continue,
            };
            let added = match closure {
                Ok(libraries) => self.libraries(&libraries.unwrap_or_default()),
                Err(error) => Err(error.into()),
            };
            match added {
                Ok(()) => self.optional_file(&path),
                Err(error) => self.leave_out(&path.display().to_string(), &error),
            }
        }
    }

    /// The files that are written here, and `/bin/sh`.
    fn finish(mut self, options: &Options) -> Plan {
        self.link_sh();
        let shell = self.shell();
        let user = options.user.as_ref();
        let release = self.release();
        let tree = &mut self.tree;
        tree.add_text("/etc/passwd", system_files::passwd(&shell, user));
        tree.add_text("/etc/group", system_files::group(user));
        tree.add_text("/etc/nsswitch.conf", system_files::NSSWITCH);
        tree.add_text("/etc/hosts", system_files::HOSTS);
        tree.add_text("/etc/resolv.conf", "");
        tree.add_text("/etc/shells", format!("/bin/sh\n{shell}\n"));
        tree.add_text("/etc/profile", system_files::profile());
        tree.add_text(
            "/etc/os-release",
            system_files::os_release(release.as_deref()),
        );
        tree.add_link(Path::new("/var/run"), Path::new("/run"));
        if tree.get(Path::new("/usr/share/zoneinfo/UTC")).is_some() {
            tree.add_link(
                Path::new("/etc/localtime"),
                Path::new("/usr/share/zoneinfo/UTC"),
            );
        }
        let system = release.as_deref();
        let system = system.and_then(|text| system_files::os_release_value(text, "PRETTY_NAME"));
        Plan {
            system: system.unwrap_or("Linux").to_owned(),
            tree: self.tree,
            programs: self.programs,
            left_out: self.left_out,
            shell,
        }
    }

    /// Scripts say `/bin/sh` even where the host keeps its shell elsewhere.
    fn link_sh(&mut self) {
        if let Ok(Some(path)) = self.find("sh")
            && Tree::default()
                .add_host(self.host, Path::new("/bin/sh"))
                .is_err()
        {
            self.tree.add_link(Path::new("/bin/sh"), &path);
        }
    }

    fn shell(&self) -> String {
        let found = lists::SHELLS
            .iter()
            .find(|name| self.programs.contains(**name));
        let path = found.and_then(|name| self.find(name).ok().flatten());
        match path {
            Some(path) => path.display().to_string(),
            None => "/bin/sh".to_owned(),
        }
    }

    fn release(&self) -> Option<String> {
        let paths = ["/etc/os-release", "/usr/lib/os-release"].map(Path::new);
        let mut texts = paths
            .iter()
            .filter_map(|path| self.host.read_small(path, RELEASE_LIMIT).ok()?);
        String::from_utf8(texts.next()?).ok()
    }
}

/// Interpreter and argument of a `#!` line (execve(2)): the argument is the rest of the line, and
/// for `env` the first word of it that is no option and no assignment.
fn shebang(head: &[u8]) -> Option<(PathBuf, Option<PathBuf>)> {
    let line = head.strip_prefix(b"#!")?;
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let mut words = line
        .split(|byte| byte.is_ascii_whitespace())
        .filter(|word| !word.is_empty())
        .map(|word| PathBuf::from(OsStr::from_bytes(word)));
    let interpreter = words.next().filter(|path| path.is_absolute())?;
    let argument = words.find(|word| {
        let bytes = word.as_os_str().as_bytes();
        !bytes.starts_with(b"-") && !bytes.contains(&b'=')
    });
    Some((interpreter, argument))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_first_lines() {
        let check = |text: &str, expected: Option<(&str, Option<&str>)>| {
            let expected = expected.map(|(a, b)| (PathBuf::from(a), b.map(PathBuf::from)));
            assert_eq!(shebang(text.as_bytes()), expected, "{text}");
        };
        check("#!/bin/sh\necho", Some(("/bin/sh", None)));
        check("#! /bin/sh -e\n", Some(("/bin/sh", None)));
        check(
            "#!/usr/bin/env -S A=1 bash -e\n",
            Some(("/usr/bin/env", Some("bash"))),
        );
        check("#!sh\n", None);
        check("echo\n", None);
        check("#!", None);
    }
}
