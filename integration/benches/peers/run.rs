//! From the call of a command to the first instruction of a process in a container, and to the
//! command's own end.
//!
//! A static program in the image prints the monotonic clock, which is the host's inside too; what
//! it prints is compared with the same clock just before the command was started.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use integration::account::Account;
use integration::appliance::{Place, TestAppliance};
use integration::dockerd::Dockerd;
use integration::folder::Folder;
use integration::layout::{self, Entry};
use integration::{base_image, probe};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

use crate::figures::{has, run};
use crate::runtimes::{Docker, Podman, Runc};

const WARM_UP: usize = 3;
const RUNS: usize = 30;

/// The first thing that a process can do.
const MOMENT: &str = "#include <stdio.h>
#include <time.h>
int main(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    printf(\"%lld\\n\", now.tv_sec * 1000000000LL + now.tv_nsec);
    return 0;
}
";

/// What one tool took.
pub(crate) struct Taken {
    first: Vec<Duration>,
    end: Vec<Duration>,
}

pub(crate) fn measure() {
    let folder = Folder::new();
    let Some(layers) = image(&folder) else { return };
    let layout = folder.join("layout");
    layout::write(&layout, &layers, json!({ "Cmd": ["/bin/moment"] }));
    let mut table = Table::default();
    ours("devpod", TestAppliance::start(), &layout, &mut table);
    let accounts = ["useradd", "usermod", "userdel", "newuidmap", "newgidmap"];
    if probe::root() && probe::programs(&accounts) {
        let user = TestAppliance::start_at(Place::of(Account::with_range()));
        ours("devpod, rootless", user, &layout, &mut table);
    }
    if let Some(runc) = Runc::prepare(&folder, &layers) {
        table.add("run", "runc, bundle", timed(|| runc.run()));
        table.add("exec", "runc, bundle", timed(|| runc.exec()));
    }
    if let Some(podman) = Podman::prepare(&folder, &layout) {
        table.add("run", "podman", timed(|| podman.run()));
        table.add("exec", "podman", timed(|| podman.exec()));
    }
    if let Some(docker) =
        Dockerd::start_in(Folder::new(), "overlay2", "{}").map(|it| Docker::prepare(it, &layout))
    {
        table.add("run", "docker", timed(|| docker.run()));
        table.add("exec", "docker", timed(|| docker.exec()));
    }
    table.print();
}

fn ours(name: &str, appliance: TestAppliance, layout: &Path, table: &mut Table) {
    appliance.load(layout, "moment:1");
    let devpod = |arguments: &[&str]| appliance.place().devpod(arguments);
    let run = || devpod(&["sandbox", "run", "--rm", "moment:1"]);
    table.add("run", name, timed(run));
    let alone = || devpod(&["sandbox", "run", "--rm", "--network", "none", "moment:1"]);
    table.add("run", &format!("{name}, no net"), timed(alone));
    let sleep = ["/bin/busybox", "sleep", "3600"];
    let begin = ["sandbox", "run", "-d", "--name", "life", "moment:1"];
    appliance.run(&[&begin[..], &sleep].concat()).ok();
    let exec = || devpod(&["sandbox", "exec", "life", "/bin/moment"]);
    table.add("exec", name, timed(exec));
    appliance.run(&["sandbox", "rm", "--force", "life"]).ok();
}

/// busybox and the program, as two layers.
fn image(folder: &Folder) -> Option<Vec<Vec<u8>>> {
    if !has("cc") || !has("skopeo") {
        println!("run, exec: a C compiler or skopeo is not installed");
        return None;
    }
    let source = folder.write("moment.c", MOMENT);
    let program = folder.join("moment");
    run(Command::new("cc")
        .args(["-static", "-O1", "-o"])
        .arg(&program)
        .arg(source));
    let mut layers = base_image::busybox_layers()?;
    let program = fs::read(program).unwrap();
    layers.push(layout::tar(&[("bin/moment", Entry::File(0o755, &program))]));
    Some(layers)
}

fn timed(command: impl Fn() -> Command) -> Taken {
    let mut taken = Taken {
        first: Vec::new(),
        end: Vec::new(),
    };
    for round in 0..WARM_UP + RUNS {
        let mut command = command();
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let begun = now();
        let output = command.output().unwrap();
        let ended = now();
        let said = String::from_utf8_lossy(&output.stdout);
        let Ok(moment) = said.trim().parse() else {
            let why = String::from_utf8_lossy(&output.stderr);
            panic!("{command:?} ended with {}\n{said}{why}", output.status);
        };
        if round >= WARM_UP {
            let moment = Duration::from_nanos(moment);
            taken.first.push(moment.saturating_sub(begun));
            taken.end.push(ended - begun);
        }
    }
    taken.first.sort();
    taken.end.sort();
    taken
}

fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Rows of all tools, compared with our first row of the same verb.
#[derive(Default)]
struct Table(Vec<(&'static str, String, Taken)>);

impl Table {
    fn add(&mut self, verb: &'static str, tool: &str, taken: Taken) {
        self.0.push((verb, tool.to_owned(), taken));
    }

    fn print(&self) {
        for verb in ["run", "exec"] {
            let rows: Vec<_> = self.0.iter().filter(|row| row.0 == verb).collect();
            let Some((_, _, first)) = rows.first() else {
                continue;
            };
            let base = (median(&first.first), median(&first.end));
            println!(
                "{verb:5} {:20} to the first instruction        to the end",
                ""
            );
            for (_, tool, taken) in &rows {
                let first = told(&taken.first, base.0);
                println!("      {tool:20} {first}   {}", told(&taken.end, base.1));
            }
        }
    }
}

/// Median, 95th percentile, and how often ours fits in.
fn told(sorted: &[Duration], ours: f64) -> String {
    let late = sorted[sorted.len() * 95 / 100].as_secs_f64();
    let middle = median(sorted);
    format!(
        "{:6.1} ms p95 {:6.1} ms {:5.1} x",
        middle * 1e3,
        late * 1e3,
        middle / ours
    )
}

fn median(sorted: &[Duration]) -> f64 {
    sorted[sorted.len() / 2].as_secs_f64()
}
