//! A Dockerfile of six steps over 20,000 files, to an image in a registry: when nothing is known of it,
//! when all is, and when one file of the context changed. What one more RUN costs. From the last step to
//! a process in the image.

mod context;
mod peers;
mod spent;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use integration::account::Account;
use integration::appliance::{Place, TestAppliance};
use integration::folder::Folder;
use integration::{base_image, probe};

use crate::figures::{quiet, run};
use peers::{BASE, BuildKit, Buildah, Builder, Ours};
use spent::{Spent, forget_peak, middle, peak, spent};

const ROUNDS: usize = 3;
const COMMANDS: usize = 20;

pub(crate) fn measure() {
    let Some(debian) = base_image::debian() else {
        return;
    };
    let ours = Ours {
        name: "devpod",
        appliance: TestAppliance::start(),
    };
    prepare(&ours.appliance, &debian);
    let registry = ours.appliance.registry().to_owned();
    let mut place = Contexts::new();
    let before = figures(&ours, &["gzip", "zstd"], &mut place, &[]);
    to_a_process(&ours.appliance, &mut place);
    if probe::root() && probe::programs(&["useradd", "usermod", "newuidmap"]) {
        let rootless = Ours {
            name: "devpod, rootless",
            appliance: TestAppliance::start_at(Place::of(Account::with_range())),
        };
        prepare(&rootless.appliance, &debian);
        figures(&rootless, &["zstd"], &mut place, &before);
    }
    if let Some(kit) = BuildKit::start(&registry, None) {
        figures(&kit, &["gzip", "zstd"], &mut place, &before);
    }
    if probe::root()
        && let Some(kit) = BuildKit::start(&registry, Some(Account::with_range()))
    {
        figures(&kit, &["zstd"], &mut place, &before);
    }
    if let Some(buildah) = Buildah::prepare(&registry) {
        figures(&buildah, &["gzip"], &mut place, &before);
    }
}

/// Puts the base into the registry, made by a build: buildah wants an image with a history.
fn prepare(appliance: &TestAppliance, debian: &Path) {
    appliance.load(debian, "debian:plain");
    let folder = Folder::new();
    folder.write(
        "Dockerfile",
        "FROM scratch\nCOPY --from=debian:plain / /\nCMD [\"bash\"]\n",
    );
    let context = folder.path().display().to_string();
    appliance.run(&["build", "-t", BASE, &context]).ok();
}

/// Contexts that no builder has seen.
struct Contexts {
    folder: Folder,
    made: usize,
}

impl Contexts {
    fn new() -> Self {
        Self {
            folder: Folder::new(),
            made: 0,
        }
    }

    fn place(&mut self) -> (PathBuf, usize) {
        self.made += 1;
        (
            self.folder.join(format!("context-{}", self.made)),
            self.made,
        )
    }

    fn tree(&mut self) -> PathBuf {
        let (path, nonce) = self.place();
        context::write(&path, nonce);
        path
    }

    fn commands(&mut self, count: usize) -> PathBuf {
        let (path, nonce) = self.place();
        context::write_commands(&path, count, nonce);
        path
    }

    fn changed(&mut self, path: &Path) {
        self.made += 1;
        context::change(path, self.made);
    }
}

type Figure = (String, Spent);

/// All figures of one builder, each beside ours of the same name.
fn figures(
    builder: &dyn Builder,
    compressions: &[&str],
    place: &mut Contexts,
    ours: &[Figure],
) -> Vec<Figure> {
    let build = |context: &PathBuf, compression: &str| {
        spent(
            &mut builder.build(context, "six:1", compression),
            builder.daemon(),
        )
    };
    // The base is there, as it is on any day but the first.
    build(&place.commands(0), compressions[0]);
    if let Some(pid) = builder.daemon() {
        forget_peak(pid);
    }
    let mut found = Vec::new();
    for compression in compressions {
        let mut last = place.tree();
        let mut cold = vec![build(&last, compression)];
        for _ in 1..ROUNDS {
            last = place.tree();
            cold.push(build(&last, compression));
        }
        found.push((format!("cold, {compression}"), middle(cold)));
        let cached = (0..ROUNDS).map(|_| build(&last, compression)).collect();
        found.push((format!("cached, {compression}"), middle(cached)));
        let changed = (0..ROUNDS).map(|_| {
            place.changed(&last);
            build(&last, compression)
        });
        found.push((
            format!("one file, {compression}"),
            middle(changed.collect()),
        ));
    }
    found.push((
        "one more RUN".to_owned(),
        one_command(&build, compressions[0], place),
    ));
    for (what, spent) in &found {
        tell(builder, what, *spent, ours);
    }
    if let Some(pid) = builder.daemon() {
        println!(
            "build: {:18} {:16} {:8} MiB",
            builder.name(),
            "peak memory",
            peak(pid)
        );
    }
    found
}

/// What a command that does nothing costs, beside others of its kind.
fn one_command(
    build: &dyn Fn(&PathBuf, &str) -> Spent,
    compression: &str,
    place: &mut Contexts,
) -> Spent {
    let mut of = |count: usize| {
        let rounds = (0..ROUNDS).map(|_| build(&place.commands(count), compression));
        middle(rounds.collect())
    };
    let (one, many) = (of(1), of(1 + COMMANDS));
    let each = |one: Duration, many: Duration| many.saturating_sub(one) / COMMANDS as u32;
    Spent {
        wall: each(one.wall, many.wall),
        cpu: each(one.cpu, many.cpu),
    }
}

fn tell(builder: &dyn Builder, what: &str, spent: Spent, ours: &[Figure]) {
    let own = ours.iter().find(|(name, _)| name == what);
    let ratio = own.map_or_else(String::new, |(_, own)| {
        format!(
            "   {:6.1} x of devpod's time, {:6.1} x of its processor",
            spent.wall.as_secs_f64() / own.wall.as_secs_f64(),
            spent.cpu.as_secs_f64() / own.cpu.as_secs_f64().max(0.001)
        )
    });
    println!(
        "build: {:18} {what:16} {:8.3} s {:8.2} s of processor{ratio}",
        builder.name(),
        spent.wall.as_secs_f64(),
        spent.cpu.as_secs_f64()
    );
}

/// From the end of a build to that of a process in the image, and from the last step of a workspace's build
/// to the first word of its first command.
fn to_a_process(appliance: &TestAppliance, place: &mut Contexts) {
    let path = place.tree();
    let mut after_build = Vec::new();
    let mut after_step = Vec::new();
    let base = format!("BASE={BASE}");
    for _ in 0..ROUNDS {
        place.changed(&path);
        let mut build = appliance.place().devpod(&["build", "-t", "ran:1"]);
        run(quiet(build.args(["--build-arg", &base]).arg(&path)));
        let built = Instant::now();
        let mut start: Command = appliance
            .place()
            .devpod(&["sandbox", "run", "--rm", "ran:1"]);
        run(quiet(start.arg("/bin/true")));
        after_build.push(built.elapsed());
    }
    context::write_workspace(&path, BASE);
    for _ in 0..ROUNDS {
        place.changed(&path);
        after_step.push(from_step_to_word(appliance, &path));
        let name = path.file_name().unwrap().to_str().unwrap();
        appliance.run(&["delete", "--force", name]).ok();
    }
    for (what, mut all) in [
        ("a build's end to a process's end in a sandbox", after_build),
        ("the last step to the workspace's first command", after_step),
    ] {
        all.sort();
        let median = all[ROUNDS / 2].as_secs_f64() * 1000.0;
        println!("build: devpod, from {what} {median:8.1} ms");
    }
}

fn from_step_to_word(appliance: &TestAppliance, path: &Path) -> Duration {
    let mut up = appliance.place().devpod(&["up"]);
    let mut child = (up.arg(path).stdout(Stdio::piped()).stderr(Stdio::piped()))
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (mut last, mut word) = (None, None);
    for line in lines.map_while(Result::ok) {
        if line.contains(" DONE ") {
            last = Some(Instant::now());
        } else if line.contains(context::WORD) && !line.contains("Running") {
            word.get_or_insert_with(Instant::now);
        }
    }
    assert!(child.wait().unwrap().success(), "up");
    let (last, word) = (last.expect("a step"), word.expect("a command's word"));
    word.duration_since(last)
}
