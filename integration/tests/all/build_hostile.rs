//! Builds of what nobody should trust: contexts, Dockerfiles and images that are made to do harm.

mod context;
mod dockerfile;
mod image;
mod step;

use std::process::{Child, Stdio};
use std::time::Duration;

use integration::appliance::{Place, TestAppliance};
use integration::base_image;
use integration::census;
use integration::folder::Folder;
use integration::probe;
use integration::process::{self, Ran, eventually, run_within};

/// Whatever it is, it ends by itself within this, also on a machine that is busy.
const SOON: Duration = Duration::from_secs(90);

/// A daemon, a base image `busybox:1`, and a context.
struct Scene {
    appliance: TestAppliance,
    folder: Folder,
}

impl Scene {
    fn new() -> Option<Self> {
        Self::at(Place::new())
    }

    fn at(place: Place) -> Option<Self> {
        let folder = Folder::new();
        let base = folder.join("base");
        if !probe::programs(&["skopeo"]) || !base_image::busybox(&base) {
            return None;
        }
        let appliance = TestAppliance::start_at(place);
        appliance.load(&base, "busybox:1");
        std::fs::create_dir(folder.join("c")).unwrap();
        Some(Self { appliance, folder })
    }

    fn context(&self) -> String {
        self.folder.join("c").display().to_string()
    }

    /// Builds this after a FROM of busybox.
    fn build(&self, steps: &str, options: &[&str]) -> Ran {
        self.build_file(&format!("FROM busybox:1\n{steps}\n"), options)
    }

    fn build_file(&self, text: &str, options: &[&str]) -> Ran {
        self.folder.write("c/Dockerfile", text);
        self.run(options)
    }

    /// Builds the context as it is.
    fn run(&self, options: &[&str]) -> Ran {
        let context = self.context();
        let all = [&["build", "-t", "made"], options, &[&context]].concat();
        run_within(&mut self.appliance.place().devpod(&all), SOON)
    }

    /// A build that is looked at from outside.
    fn start(&self, steps: &str, options: &[&str]) -> Child {
        let text = format!("FROM busybox:1\n{steps}\n");
        self.folder.write("c/Dockerfile", text);
        let context = self.context();
        let all = [&["build"], options, &[&context]].concat();
        let mut command = self.appliance.place().devpod(&all);
        command.stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        process::spawn(&mut command).unwrap()
    }

    /// What a script says in the image that was built last.
    fn sh(&self, script: &str) -> String {
        let run = ["sandbox", "run", "--rm", "made", "sh", "-c", script];
        self.appliance.run(&run).ok().text().to_owned()
    }

    /// The daemon is there, and nothing of a build is under way in it.
    fn is_at_rest(&self) {
        let prune = ["build-cache", "prune", "--dry-run"];
        eventually("nothing of a build goes on", SOON, || {
            self.appliance.run(&prune).code == 0
        });
        let staged = self.appliance.place().data().join("snapshots/.staging");
        let left = || std::fs::read_dir(&staged).map_or(0, Iterator::count);
        eventually("nothing is staged", SOON, || left() == 0);
    }

    /// Memory of the daemon's own, in KiB.
    fn memory(&self) -> u64 {
        census::resident(self.appliance.pid())
    }

    /// The most that it ever had, of all kinds.
    fn peak(&self) -> u64 {
        census::peak(self.appliance.pid())
    }
}

/// Whether a process has this in its command line.
fn runs(word: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.any(|line| String::from_utf8_lossy(&line).contains(word))
}
