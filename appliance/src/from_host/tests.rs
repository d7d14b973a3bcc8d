//! Whole images of this very host: deterministic, complete, and alive in a chroot.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::process::{Command, Output};
use std::sync::Mutex;

use super::*;
use unpacker::content::{Blob, ContentWriter};
use unpacker::digest::Hasher;
use unpacker::progress::Silent;

/// A content store in memory.
#[derive(Default)]
struct Memory(std::sync::Arc<Mutex<HashMap<String, Vec<u8>>>>);

struct MemoryWriter {
    bytes: Vec<u8>,
    store: std::sync::Arc<Mutex<HashMap<String, Vec<u8>>>>,
}

impl Content for Memory {
    fn open(&self, digest: &Digest) -> io::Result<Option<Blob>> {
        let Some(bytes) = self.0.lock().unwrap().get(&digest.to_string()).cloned() else {
            return Ok(None);
        };
        let mut file = tempfile::tempfile()?;
        file.write_all(&bytes)?;
        io::Seek::rewind(&mut file)?;
        let size = bytes.len() as u64;
        Ok(Some(Blob { file, size }))
    }

    fn writer(&self, _: Option<&Digest>) -> io::Result<Box<dyn ContentWriter>> {
        Ok(Box::new(MemoryWriter {
            bytes: Vec::new(),
            store: self.0.clone(),
        }))
    }
}

impl Write for MemoryWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ContentWriter for MemoryWriter {
    fn commit(self: Box<Self>) -> io::Result<(Digest, u64)> {
        let mut hasher = Hasher::sha256();
        hasher.update(&self.bytes);
        let digest = hasher.finish();
        let size = self.bytes.len() as u64;
        self.store
            .lock()
            .unwrap()
            .insert(digest.to_string(), self.bytes);
        Ok((digest, size))
    }
}

fn make(options: &Options) -> (Memory, HostImage) {
    let content = Memory::default();
    let image = from_host(options, &content, &Silent, &Cancel::default()).unwrap();
    (content, image)
}

fn has_git() -> bool {
    Path::new("/usr/bin/git").exists()
}

/// Unpacks with the system's tar, which knows nothing of us.
fn unpack(content: &Memory, image: &HostImage) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let blob = content.open(&image.layers[0].digest).unwrap().unwrap();
    let status = Command::new("tar")
        .args(["-xzpf", "-", "-C"])
        .arg(dir.path())
        .stdin(blob.file)
        .status()
        .unwrap();
    assert!(status.success());
    devices(dir.path());
    dir
}

/// What a sandbox would bind into `/dev`, as far as a chroot can have it.
fn devices(root: &Path) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    for (name, minor) in [("null", 3), ("urandom", 9)] {
        let mode = rustix::fs::Mode::from(0o666);
        let device = rustix::fs::makedev(1, minor);
        let kind = rustix::fs::FileType::CharacterDevice;
        let path = root.join("dev").join(name);
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, device).unwrap();
    }
}

/// Runs a script in the unpacked image. `None` says why not, on standard error.
fn in_root(root: &Path, script: &str) -> Option<Output> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: chroot needs root");
        return None;
    }
    let output = Command::new("chroot")
        .arg(root)
        .args(["/bin/sh", "-c", script])
        .env_clear()
        .env("PATH", system_files::PATH)
        .env("HOME", "/root")
        .output()
        .unwrap();
    Some(output)
}

fn check_in_root(root: &Path, script: &str) -> String {
    let Some(output) = in_root(root, script) else {
        return String::new();
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {errors}");
    assert_eq!(errors, "", "{script}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn two_runs_give_the_same_bytes() {
    let options = Options {
        git: false,
        source_date_epoch: Some(1_700_000_000),
        ..Options::default()
    };
    let (first, image) = make(&options);
    let (second, again) = make(&options);
    assert_eq!(image.manifest, again.manifest);
    assert_eq!(*first.0.lock().unwrap(), *second.0.lock().unwrap());
    let config = first.read_config(&image);
    assert_eq!(config.created.as_deref(), Some("2023-11-14T22:13:20Z"));
    assert!(!image.programs.contains(&"git".to_owned()));
}

impl Memory {
    fn read_config(&self, image: &HostImage) -> ImageConfig {
        let content: &dyn Content = self;
        let bytes = content.read(&image.config, 1 << 20).unwrap().unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }
}

#[test]
fn every_program_of_the_image_starts() {
    let (content, image) = make(&Options {
        git: has_git(),
        ..Options::default()
    });
    eprintln!(
        "{} bytes, {} unpacked",
        image.size, image.layers[0].unpacked
    );
    eprintln!("left out: {:#?}", image.left_out);
    let root = unpack(&content, &image);
    every_name_is_there_and_loads(root.path(), &image.programs);
    let found = check_in_root(
        root.path(),
        "set -e; cd /tmp; printf 'b\\na\\n' | sort | sed 's/a/x/' | grep x; ls -d /workspaces; id -un; \
         tar -cf t.tar t.tar 2>/dev/null || true; echo hi | gzip | gzip -d; find /tmp -name t.tar | head -1",
    );
    if rustix::process::geteuid().is_root() {
        assert_eq!(found, "x\n/workspaces\nroot\nhi\n/tmp/t.tar\n");
    }
    if has_git() {
        clones(root.path());
    }
}

/// Every program is found by its name, and glibc's own loader, inside the image, finds all that the
/// image's ELF files load.
fn every_name_is_there_and_loads(root: &Path, programs: &[String]) {
    let script = format!(
        "for name in {}; do command -v \"$name\" >/dev/null || echo \"no $name\"; done
         loader=$(ls /lib64/ld-linux-*.so.* /lib/ld-linux-*.so.* 2>/dev/null | head -n 1)
         test -n \"$loader\" || exit 0
         find /usr/bin /usr/sbin /usr/lib/git-core -type f -perm -100 | while read -r file; do
           \"$loader\" --verify \"$file\" 2>/dev/null || continue
           \"$loader\" --list \"$file\" >/dev/null || echo \"broken $file\"
         done",
        shell_words::join(programs)
    );
    assert_eq!(check_in_root(root, &script), "");
}

fn clones(root: &Path) {
    let found = check_in_root(
        root,
        "set -e; cd /tmp; git --version; git init -q -b main a; cd a; echo text > file; git add file; \
         git -c user.name=a -c user.email=a@b commit -qm first; cd ..; \
         git clone -q --depth 1 --branch main file:///tmp/a b; cat b/file; \
         git -C b -c user.name=a -c user.email=a@b stash list; git -C b submodule status",
    );
    if rustix::process::geteuid().is_root() {
        assert!(
            found.starts_with("git version") && found.ends_with("text\n"),
            "{found}"
        );
        // No server answers on port 1: what matters is that the helper starts and says so.
        let refused = in_root(root, "git clone https://127.0.0.1:1/x /tmp/c").unwrap();
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(text.contains("127.0.0.1"), "{text}");
        assert!(!text.contains("remote-https"), "{text}");
    }
}

#[test]
fn the_layer_is_roots_and_has_no_set_id_program() {
    let (content, image) = make(&Options {
        git: false,
        user: Some(User {
            name: "dev".to_owned(),
            uid: 1000,
            gid: 1000,
        }),
        ..Options::default()
    });
    let blob = content.open(&image.layers[0].digest).unwrap().unwrap();
    assert_eq!(blob.size, image.layers[0].size);
    let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(blob.file));
    let mut names = Vec::new();
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let header = entry.header();
        assert_eq!(
            (header.uid().unwrap(), header.gid().unwrap()),
            (0, 0),
            "{name}"
        );
        let mode = header.mode().unwrap();
        assert_eq!(mode & 0o6000, 0, "{name}");
        match name.as_str() {
            "tmp/" => assert_eq!(mode, 0o1777),
            "root/" => assert_eq!(mode, 0o700),
            _ => {}
        }
        names.push(name);
    }
    let mut sorted = names.clone();
    sorted.sort_by(|a, b| Path::new(a).cmp(Path::new(b)));
    assert_eq!(names, sorted);
    assert!(names.contains(&"home/dev/".to_owned()));
    assert_eq!(content.read_config(&image).config.user, "dev");
}

#[test]
fn what_was_asked_for_and_is_not_there_is_an_error() {
    let failing = |include: &str| {
        let options = Options {
            include: vec![include.to_owned()],
            git: false,
            ..Options::default()
        };
        let content = Memory::default();
        let error = from_host(&options, &content, &Silent, &Cancel::default()).unwrap_err();
        assert!(content.0.lock().unwrap().is_empty());
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    };
    let text = failing("no-such-program-here");
    assert!(text.contains("no-such-program-here"), "{text}");
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script");
    std::fs::write(&script, "#!/opt/nowhere/lua\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    let text = failing(&script.display().to_string());
    assert!(text.contains("/opt"), "{text}");
}

#[test]
fn a_bad_user_name_is_refused() {
    for name in ["", "a:b", "Root", "a\nb", "-x", &"x".repeat(33)] {
        let user = User {
            name: name.to_owned(),
            uid: 1,
            gid: 1,
        };
        assert!(check_user(Some(&user)).is_err(), "{name:?}");
    }
}

/// A root that has busybox and nothing else: no glibc, no merged /usr, no os-release.
#[test]
fn a_busybox_host_gives_an_image_too() {
    let Some(busybox) = ["/bin/busybox", "/usr/bin/busybox"]
        .map(Path::new)
        .into_iter()
        .find(|path| path.exists())
    else {
        eprintln!("skipped: busybox is not installed");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("bin")).unwrap();
    std::fs::copy(busybox, dir.path().join("bin/busybox")).unwrap();
    for name in lists::ESSENTIAL {
        std::os::unix::fs::symlink("/bin/busybox", dir.path().join("bin").join(name)).unwrap();
    }
    let host = Host::open(dir.path()).unwrap();
    let busybox_is_static = closure::Loader::new(&host)
        .unwrap()
        .closure(Path::new("/bin/busybox"))
        .is_ok();
    if !busybox_is_static {
        eprintln!("skipped: busybox is not static here");
        return;
    }
    let (content, image) = make(&Options {
        root: dir.path().to_owned(),
        git: false,
        ..Options::default()
    });
    assert!(image.left_out.is_empty(), "{:?}", image.left_out);
    let root = unpack(&content, &image);
    let found = check_in_root(
        root.path(),
        "echo a | sed s/a/b/; cat /etc/os-release | grep ^ID",
    );
    if rustix::process::geteuid().is_root() {
        assert_eq!(found, "b\nID=linux\n");
    }
    drop(File::open(root.path().join("bin/busybox")).unwrap());
}
