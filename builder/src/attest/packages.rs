//! What the package databases in a root file system say is installed.
//!
//! The image wrote them, so they are bounded and taken for what they are: claims.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use unpacker::layer::root::Root;

/// Of one database; those of large distributions are below ten megabytes.
const MAX_DATABASE: u64 = 64 << 20;
const MAX_PACKAGES: usize = 100_000;
/// Of one field's value.
const MAX_VALUE: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Package {
    /// Of a package URL: `deb` or `apk`.
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) architecture: Option<String>,
    /// As the package says it; apk's is an SPDX expression most of the time.
    pub(super) license: Option<String>,
    /// Where it was read.
    pub(super) database: String,
}

/// The fields of `/etc/os-release` that are used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Distribution {
    pub(super) id: Option<String>,
    pub(super) version: Option<String>,
}

/// Every package, sorted.
pub(super) fn installed(root: &Root) -> io::Result<Vec<Package>> {
    let mut found = Vec::new();
    let mut dpkg = vec![PathBuf::from("var/lib/dpkg/status")];
    // Images without dpkg have a file for each package.
    let folder = Path::new("var/lib/dpkg/status.d");
    for entry in absent(root.read_dir(folder))?.unwrap_or_default() {
        let is_list = Path::new(&entry.name).extension().is_some();
        if !is_list {
            dpkg.push(folder.join(entry.name));
        }
    }
    for path in dpkg {
        if let Some(text) = read(root, &path)? {
            found.extend(deb(&text, &path));
        }
    }
    for path in ["lib/apk/db/installed", "usr/lib/apk/db/installed"] {
        let path = Path::new(path);
        if let Some(text) = read(root, path)? {
            found.extend(apk(&text, path));
        }
    }
    found.truncate(MAX_PACKAGES);
    found.sort();
    found.dedup_by(|a, b| {
        (a.kind, &a.name, &a.version, &a.architecture)
            == (b.kind, &b.name, &b.version, &b.architecture)
    });
    Ok(found)
}

pub(super) fn distribution(root: &Root) -> io::Result<Distribution> {
    // The first is a link to the second where both are there.
    let mut text = read(root, Path::new("usr/lib/os-release"))?;
    if text.is_none() {
        text = read(root, Path::new("etc/os-release"))?;
    }
    let text = text.unwrap_or_default();
    let field = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(|value| {
            value
                .trim_matches(['"', '\''])
                .chars()
                .take(MAX_VALUE)
                .collect()
        })
    };
    Ok(Distribution {
        id: field("ID"),
        version: field("VERSION_ID"),
    })
}

fn read(root: &Root, path: &Path) -> io::Result<Option<String>> {
    let bytes = absent(root.read_small(path, MAX_DATABASE))?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// What is not there, or is no file, says nothing.
fn absent<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    use io::ErrorKind::{InvalidInput, IsADirectory, NotADirectory, NotFound};
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error)
            if matches!(
                error.kind(),
                NotFound | NotADirectory | IsADirectory | InvalidInput
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Paragraphs of `Key: value` lines; those of packages that were removed stay in the file.
fn deb(text: &str, path: &Path) -> Vec<Package> {
    let package = |fields: BTreeMap<&str, &str>| {
        let status = fields.get("Status").copied();
        if status.is_some_and(|status| !status.ends_with(" installed")) {
            return None;
        }
        package(
            "deb",
            path,
            &fields,
            ["Package", "Version", "Architecture", "License"],
        )
    };
    paragraphs(text, ": ").filter_map(package).collect()
}

/// Paragraphs of `K:value` lines.
fn apk(text: &str, path: &Path) -> Vec<Package> {
    let package = |fields| package("apk", path, &fields, ["P", "V", "A", "L"]);
    paragraphs(text, ":").filter_map(package).collect()
}

fn paragraphs<'a>(
    text: &'a str,
    separator: &'a str,
) -> impl Iterator<Item = BTreeMap<&'a str, &'a str>> {
    let fields = move |paragraph: &'a str| {
        let lines = paragraph
            .lines()
            .filter(|line| !line.starts_with([' ', '\t']));
        let mut fields = BTreeMap::new();
        for (key, value) in lines.filter_map(|line| line.split_once(separator)) {
            // Files of apk's packages repeat keys; the package's own come first.
            fields.entry(key).or_insert_with(|| value.trim());
        }
        fields
    };
    text.split("\n\n").map(fields).take(MAX_PACKAGES)
}

fn package(
    kind: &'static str,
    path: &Path,
    fields: &BTreeMap<&str, &str>,
    [name, version, architecture, license]: [&str; 4],
) -> Option<Package> {
    let field = |key: &str| {
        let value = fields.get(key).filter(|value| !value.is_empty())?;
        Some(value.chars().take(MAX_VALUE).collect::<String>())
    };
    Some(Package {
        kind,
        name: field(name)?,
        version: field(version)?,
        architecture: field(architecture),
        license: field(license),
        database: format!("/{}", path.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(packages: &[Package]) -> Vec<String> {
        let name = |p: &Package| format!("{} {} {}", p.kind, p.name, p.version);
        packages.iter().map(name).collect()
    }

    #[test]
    fn databases_of_both_kinds_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let root = Root::open(dir.path()).unwrap();
        assert_eq!(installed(&root).unwrap(), []);
        assert_eq!(distribution(&root).unwrap(), Distribution::default());
        write(
            "var/lib/dpkg/status",
            "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\n\
             Description: text\n Package: not-one\n\nPackage: gone\nStatus: deinstall ok \
             config-files\nVersion: 1\n\nPackage: no-version\nStatus: install ok installed\n",
        );
        write(
            "var/lib/dpkg/status.d/base",
            "Package: base-files\nVersion: 12.4\n",
        );
        write("var/lib/dpkg/status.d/base.md5sums", "00 a: b\n");
        write(
            "lib/apk/db/installed",
            "C:Q1\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\nF:lib\nR:ld\n\nP:zlib\nV:1.3\n",
        );
        write(
            "etc/os-release",
            "NAME=\"X\"\nID=debian\nVERSION_ID=\"12\"\n",
        );
        let found = installed(&root).unwrap();
        assert_eq!(
            names(&found),
            [
                "apk musl 1.2.5-r0",
                "apk zlib 1.3",
                "deb base-files 12.4",
                "deb libc6 2.36-9"
            ]
        );
        assert_eq!(found[0].license.as_deref(), Some("MIT"));
        let found = distribution(&root).unwrap();
        assert_eq!(
            (found.id.as_deref(), found.version.as_deref()),
            (Some("debian"), Some("12"))
        );
    }

    #[test]
    fn what_is_no_database_is_none() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("var/lib/dpkg/status")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert_eq!(installed(&root).unwrap(), []);
        assert_eq!(deb("\u{0}\u{0}garbage: \n\n::\n\n", Path::new("x")), []);
    }
}
