//! Where the dynamic loader looks for libraries when the program itself says nothing.
//!
//! Sources: ld.so(8), ldconfig(8) and musl's `ldso/dynlink.c` documentation in its manual. glibc's
//! cache file is not read: it is made from the same `/etc/ld.so.conf` that is read here, and the
//! directories are what matters. Nothing here opens a library.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::elf::Architecture;
use super::host::{Host, Kind};

/// A configuration file of the loader larger than this is an error.
const CONF_LIMIT: u64 = 1 << 20;
/// Files that includes may lead to.
const FILE_LIMIT: usize = 256;

/// The directories of `/etc/ld.so.conf` and all that it includes, in order, each once.
pub(super) fn configured(host: &Host) -> io::Result<Vec<PathBuf>> {
    let mut directories = Vec::new();
    let mut files = vec![PathBuf::from("/etc/ld.so.conf")];
    let mut read = 0;
    while let Some(file) = files.pop() {
        read += 1;
        if read > FILE_LIMIT {
            return Err(io::Error::other("/etc/ld.so.conf includes too many files"));
        }
        let text = host.read_small(&file, CONF_LIMIT)?.unwrap_or_default();
        let mut included = Vec::new();
        for line in lines(&text) {
            match include(line) {
                Some(pattern) => included.extend(matching(host, &file, pattern)?),
                None => push_once(&mut directories, directory(line)),
            }
        }
        // A stack reads in reverse, so what stands first goes on top. A directory that follows an
        // include in one file comes before the include's; only the order of equal names depends on it.
        files.extend(included.into_iter().rev());
    }
    Ok(directories)
}

/// The loader's built-in directories for programs of one architecture, most specific first.
pub(super) fn defaults(architecture: Architecture) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    if let Some(tuple) = multiarch(architecture) {
        directories.push(PathBuf::from("/lib").join(tuple));
        directories.push(PathBuf::from("/usr/lib").join(tuple));
    }
    let plain: &[&str] = if architecture.is_64 {
        &["/lib64", "/usr/lib64", "/lib", "/usr/lib"]
    } else {
        &["/lib", "/usr/lib", "/lib32", "/usr/lib32"]
    };
    directories.extend(plain.iter().map(PathBuf::from));
    directories
}

/// musl's path: `/etc/ld-musl-ARCH.path` (lines or colons), or its built-in one.
pub(super) fn musl(host: &Host, interpreter: &Path) -> io::Result<Vec<PathBuf>> {
    let name = interpreter.file_stem().unwrap_or_default().as_bytes();
    // The interpreter is called ld-musl-ARCH.so.1: two suffixes.
    let name = name.strip_suffix(b".so").unwrap_or(name);
    let file = Path::new("/etc").join(OsStr::from_bytes(&[name, b".path"].concat()));
    let Some(text) = host.read_small(&file, CONF_LIMIT)? else {
        return Ok(["/lib", "/usr/local/lib", "/usr/lib"]
            .map(PathBuf::from)
            .into());
    };
    let parts = text.split(|byte| matches!(byte, b'\n' | b':'));
    Ok(parts
        .map(<[u8]>::trim_ascii)
        .filter(|part| part.starts_with(b"/"))
        .map(directory)
        .collect())
}

/// The names that `$LIB` and `$PLATFORM` stand for; several where distributions differ.
pub(super) fn lib_names(architecture: Architecture) -> Vec<String> {
    let tuple = multiarch(architecture).map(|tuple| format!("lib/{tuple}"));
    let wide = architecture.is_64.then(|| "lib64".to_owned());
    tuple
        .into_iter()
        .chain(wide)
        .chain(["lib".to_owned()])
        .collect()
}

/// `$PLATFORM`: what the kernel tells in AT_PLATFORM.
pub(super) fn platform(architecture: Architecture) -> &'static str {
    match (architecture.machine, architecture.is_64) {
        (object::elf::EM_X86_64, _) => "x86_64",
        (object::elf::EM_386, _) => "i686",
        (object::elf::EM_AARCH64, _) => "aarch64",
        _ => "",
    }
}

/// Debian's multiarch tuple.
fn multiarch(architecture: Architecture) -> Option<&'static str> {
    Some(match (architecture.machine, architecture.is_64) {
        (object::elf::EM_X86_64, true) => "x86_64-linux-gnu",
        (object::elf::EM_X86_64, false) => "x86_64-linux-gnux32",
        (object::elf::EM_386, _) => "i386-linux-gnu",
        (object::elf::EM_AARCH64, true) => "aarch64-linux-gnu",
        (object::elf::EM_ARM, _) => "arm-linux-gnueabihf",
        (object::elf::EM_RISCV, true) => "riscv64-linux-gnu",
        (object::elf::EM_S390, true) => "s390x-linux-gnu",
        (object::elf::EM_PPC64, true) if architecture.little_endian => "powerpc64le-linux-gnu",
        _ => return None,
    })
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
        .map(|line| line.split(|byte| *byte == b'#').next().unwrap_or_default())
        .map(<[u8]>::trim_ascii)
        // `hwcap` lines are obsolete and ignored by ldconfig too.
        .filter(|line| !line.is_empty() && !line.starts_with(b"hwcap "))
}

fn include(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(b"include")?;
    rest.first()?
        .is_ascii_whitespace()
        .then(|| rest.trim_ascii())
}

fn directory(text: &[u8]) -> PathBuf {
    // `dir=TYPE` is an old form that ldconfig still takes.
    let text = text.split(|byte| *byte == b'=').next().unwrap_or_default();
    PathBuf::from(OsStr::from_bytes(text.trim_ascii()))
}

fn push_once(list: &mut Vec<PathBuf>, path: PathBuf) {
    if path.is_absolute() && !list.contains(&path) {
        list.push(path);
    }
}

/// The files that a pattern with wildcards in its last part stands for, sorted as glob(3) sorts.
fn matching(host: &Host, from: &Path, pattern: &[u8]) -> io::Result<Vec<PathBuf>> {
    let pattern = PathBuf::from(OsStr::from_bytes(pattern));
    let folder = from.parent().unwrap_or(Path::new("/"));
    let pattern = folder.join(pattern);
    let (Some(folder), Some(name)) = (pattern.parent(), pattern.file_name()) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in host.read_dir(folder)? {
        let path = folder.join(&entry);
        if wildcard(name.as_bytes(), entry.as_bytes())
            && host
                .stat(&path)?
                .is_some_and(|meta| meta.kind == Kind::File)
        {
            found.push(path);
        }
    }
    Ok(found)
}

/// `*` and `?` as in glob(3); a leading dot is only matched by a dot.
fn wildcard(pattern: &[u8], name: &[u8]) -> bool {
    if name.first() == Some(&b'.') && pattern.first() != Some(&b'.') {
        return false;
    }
    // After a mismatch, go back to the last star and let it take one byte more: linear in practice
    // and never exponential.
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        for (pattern, name, expected) in [
            ("*.conf", "libc.conf", true),
            ("*.conf", ".hidden.conf", false),
            ("*.conf", "libc.conf~", false),
            ("a?c*", "abcd", true),
            ("a*b*c", "axxbyybzc", true),
            ("a*b*c", "axxbyybz", false),
            ("", "x", false),
            ("*", "", true),
        ] {
            assert_eq!(
                wildcard(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn reads_includes_and_comments() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        std::fs::create_dir_all(etc.join("ld.so.conf.d")).unwrap();
        std::fs::write(
            etc.join("ld.so.conf"),
            "# x\n/first # why\ninclude ld.so.conf.d/*.conf\n",
        )
        .unwrap();
        std::fs::write(
            etc.join("ld.so.conf.d/b.conf"),
            "/third\n/first\nrelative\n",
        )
        .unwrap();
        std::fs::write(
            etc.join("ld.so.conf.d/a.conf"),
            "hwcap 1 x\n/second\ninclude /etc/ld.so.conf\n",
        )
        .unwrap();
        let host = Host::open(dir.path()).unwrap();
        // The file that includes itself must end in an error, not in a loop.
        assert!(configured(&host).is_err());
        std::fs::write(etc.join("ld.so.conf.d/a.conf"), "/second\n").unwrap();
        let expected = ["/first", "/second", "/third"].map(PathBuf::from);
        assert_eq!(configured(&host).unwrap(), expected);
    }

    #[test]
    fn reads_the_path_of_musl() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let host = Host::open(dir.path()).unwrap();
        let loader = Path::new("/lib/ld-musl-x86_64.so.1");
        assert_eq!(musl(&host, loader).unwrap()[1], Path::new("/usr/local/lib"));
        std::fs::write(dir.path().join("etc/ld-musl-x86_64.path"), "/a:/b\n/c\n").unwrap();
        let expected = ["/a", "/b", "/c"].map(PathBuf::from);
        assert_eq!(musl(&host, loader).unwrap(), expected);
    }
}
