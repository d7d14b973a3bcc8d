//! A large image from local storage to a root file system, beside everybody who does that.
//!
//! Each run has a file system of its own. Ours checks every digest; peers check what they check. Nobody
//! waits for the disk: ours makes durable what it wrote while the process runs. `tar` is the floor: the same tars, uncompressed, unpacked one after
//! the other into a folder each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use integration::account::Account;
use integration::appliance::{Place, TestAppliance};
use integration::containerd::Containerd;
use integration::dockerd::Dockerd;
use integration::folder::Folder;

use crate::figures::{has, median, report, run, target, time};
use crate::fresh::Fresh;
use crate::image;

const RUNS: usize = 3;

pub(crate) fn measure() {
    if !has("mmdebstrap") || !has("skopeo") || !rustix::process::geteuid().is_root() {
        println!("unpack: needs root, mmdebstrap and skopeo");
        return;
    }
    let sources = Sources::make();
    let floor = median(RUNS, |_| sources.tar());
    println!(
        "{:24} tar    {:8.3} s",
        "unpack, floor",
        floor.as_secs_f64()
    );
    let peers: [(&str, Peer); 4] = [
        ("umoci", Sources::umoci),
        ("podman pull", Sources::podman),
        ("ctr import", Sources::containerd),
        ("docker load", Sources::docker),
    ];
    let root = sources.ours("unpack", || None);
    let rootless = sources.ours("unpack, rootless", || Some(Account::with_range()));
    for (name, peer) in peers {
        let theirs = peer(&sources).map(|first| {
            median(RUNS, |n| match n {
                0 => first,
                _ => peer(&sources).unwrap_or(first),
            })
        });
        report("unpack", root.first, name, theirs);
        report("unpack, rootless", rootless.first, name, theirs);
        if name == "umoci" {
            report("unpack, one folder", root.folder, name, theirs);
        }
    }
}

/// One run of another tool; `None` where it is missing.
type Peer = fn(&Sources) -> Option<Duration>;

/// Medians.
struct Ours {
    /// Until a process has run in it.
    first: Duration,
    folder: Duration,
}

/// The image in every form that somebody reads.
struct Sources {
    folder: tempfile::TempDir,
    layout: PathBuf,
}

impl Sources {
    fn make() -> Self {
        let target = target();
        let layout = image::layout(&target);
        let folder = tempfile::tempdir_in(&target).unwrap();
        let archive = |kind: &str| {
            let from = format!("oci:{}:latest", layout.display());
            let to = folder.path().join(format!("{kind}.tar"));
            let to = format!("{kind}:{}:bench:latest", to.display());
            run(Command::new("skopeo").args(["copy", &from, &to]));
        };
        archive("docker-archive");
        archive("oci-archive");
        let tars = folder.path().join("tars");
        fs::create_dir(&tars).unwrap();
        let archive = folder.path().join("docker-archive.tar");
        run(Command::new("tar")
            .arg("-xf")
            .arg(archive)
            .arg("-C")
            .arg(&tars));
        Self { folder, layout }
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn tar(&self) -> Duration {
        let fresh = Fresh::new(&target());
        // Some have two names there.
        let tars = fs::read_dir(self.folder.path().join("tars")).unwrap();
        let tars = tars
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "tar") && !path.is_symlink());
        (tars.enumerate())
            .map(|(number, tar)| {
                let folder = fresh.path().join(number.to_string());
                fs::create_dir(&folder).unwrap();
                time(
                    Command::new("tar")
                        .arg("-xf")
                        .arg(tar)
                        .arg("-C")
                        .arg(folder),
                )
            })
            .sum()
    }

    /// `account` is made anew for each run, because its processes end with it.
    fn ours(&self, what: &str, account: impl Fn() -> Option<Account>) -> Ours {
        let (mut seconds, mut folders, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
        let first = median(RUNS, |_| {
            let fresh = Fresh::new(&target());
            let folder = Folder::below(fresh.path());
            let place = match account() {
                None => Place::within(folder),
                Some(account) => Place::of_within(account, folder),
            };
            let appliance = TestAppliance::start_at(place);
            appliance.load(&self.layout, "bench");
            run(&mut Command::new("sync"));
            // From here on the peak counts anew.
            let peak = format!("/proc/{}/clear_refs", appliance.pid());
            fs::write(peak, "5").unwrap();
            let idle = memory(appliance.pid(), "VmRSS");
            let cold = ["sandbox", "run", "--rm", "bench", "true"];
            let devpod = |arguments: &[&str]| time(&mut appliance.place().devpod(arguments));
            let first = devpod(&cold);
            peaks.push(memory(appliance.pid(), "VmHWM").saturating_sub(idle));
            run(&mut Command::new("sync"));
            seconds.push(devpod(&cold));
            let flat = appliance.place().home().join("flat");
            folders.push(devpod(&["unpack", "bench", &flat.display().to_string()]));
            first
        });
        seconds.sort();
        folders.sort();
        let peak = peaks.iter().max().unwrap_or(&0);
        println!("{what:24} memory above idle, at most {peak} KiB");
        report(&format!("{what}, again"), seconds[RUNS / 2], "", None);
        let folder = folders[RUNS / 2];
        Ours { first, folder }
    }

    // Peers. `None` where one is not here.

    fn umoci(&self) -> Option<Duration> {
        let fresh = has("umoci").then(|| Fresh::new(&target()))?;
        let image = format!("{}:latest", self.layout.display());
        let mut command = Command::new("umoci");
        command.args(["unpack", "--image", &image]);
        Some(time(command.arg(fresh.path().join("bundle"))))
    }

    fn podman(&self) -> Option<Duration> {
        let fresh = has("podman").then(|| Fresh::new(&target()))?;
        let mut command = Command::new("podman");
        command.arg("--root").arg(fresh.path().join("root"));
        command.arg("--runroot").arg(fresh.path().join("run"));
        command.args([
            "--storage-driver",
            "overlay",
            "--cgroup-manager",
            "cgroupfs",
        ]);
        let image = format!("oci:{}:latest", self.layout.display());
        Some(time(command.args(["pull", "--quiet", &image])))
    }

    fn containerd(&self) -> Option<Duration> {
        let fresh = Fresh::new(&target());
        let containerd = Containerd::start_in(Folder::below(fresh.path()))?;
        let begun = std::time::Instant::now();
        let image = self.file("oci-archive.tar");
        containerd.run(&["image", "import", &image]).ok();
        Some(begun.elapsed())
    }

    fn docker(&self) -> Option<Duration> {
        let fresh = Fresh::new(&target());
        let folder = Folder::below(fresh.path());
        let dockerd = Dockerd::start_in(folder, "overlay2", "{}")?;
        let begun = std::time::Instant::now();
        let image = self.file("docker-archive.tar");
        dockerd.run(&["load", "--quiet", "--input", &image]).ok();
        Some(begun.elapsed())
    }
}

/// A figure of a process in KiB.
fn memory(pid: u32, key: &str) -> u64 {
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"));
    let status = status.unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}
