//! What other tools make of an image.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use integration::appliance::TestAppliance;
use integration::clients::Storage;
use integration::dockerd::Dockerd;
use integration::folder::Folder;
use integration::probe;
use integration::process::{Ran, run};
use integration::tree::{self, Tree};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

/// The tree, or why there is none.
pub(super) type Outcome = Result<Tree, String>;

fn done(ran: Ran) -> Result<Ran, String> {
    match ran.code {
        0 => Ok(ran),
        _ => Err(ran.stderr),
    }
}

pub(super) fn umoci(folder: &Folder, layout: &Path) -> Outcome {
    let to = folder.join("umoci");
    // What an earlier image left.
    let _ = std::fs::remove_dir_all(&to);
    let mut command = Command::new("umoci");
    command.args(["raw", "unpack", "--image"]);
    command.arg(format!("{}:latest", layout.display())).arg(&to);
    done(run(&mut command))?;
    Ok(tree::of(&to))
}

/// As the user of an appliance, who has one id; the folder.
pub(super) fn umoci_rootless(appliance: &TestAppliance, folder: &Folder, layout: &Path) -> PathBuf {
    let place = appliance.place();
    let to = place
        .home()
        .join(layout.file_name().expect("a name"))
        .with_extension("umoci");
    let mut command = place.command(probe::find("umoci").expect("it was asked for"));
    command.args(["raw", "unpack", "--rootless", "--image"]);
    command.arg(format!("{}:latest", layout.display())).arg(&to);
    command.current_dir(folder.path());
    run(&mut command).ok();
    to
}

pub(super) struct Podman(Storage);

impl Podman {
    #[track_caller]
    pub(super) fn new(folder: &Folder) -> Option<Self> {
        let here = probe::program("podman").is_some();
        here.then(|| Self(Storage::stacking("podman", folder.path())))
    }

    pub(super) fn tree(&self, layout: &Path) -> Outcome {
        let (archive, _) = docker_archive(layout)?;
        let archive = archive.display().to_string();
        let loaded = done(self.0.run(&["load", "--quiet", "--input", &archive]))?;
        let name = loaded.text().rsplit(' ').next().expect("a name").to_owned();
        let mounted = self.0.run(&["image", "mount", &name]).ok();
        let seen = tree::of(Path::new(mounted.text()));
        self.0.run(&["image", "unmount", &name]).ok();
        Ok(seen)
    }
}

pub(super) struct Docker(Dockerd);

impl Docker {
    #[track_caller]
    pub(super) fn start() -> Option<Self> {
        let folder = Folder::new();
        Some(Self(Dockerd::start_in(folder, "overlay2", "{}")?))
    }

    pub(super) fn tree(&self, layout: &Path) -> Outcome {
        let (archive, name) = docker_archive(layout)?;
        let archive = archive.display().to_string();
        done(self.0.run(&["load", "--quiet", "--input", &archive]))?;
        let inspected = self.0.run(&["image", "inspect", &name]).ok();
        let folders = &inspected.json()[0]["GraphDriver"]["Data"];
        let mut lower = vec![folders["UpperDir"].as_str().expect("overlay2").to_owned()];
        lower.extend(folders["LowerDir"].as_str().map(str::to_owned));
        Ok(stacked(&lower.join(":")))
    }
}

/// The image as `docker save` would write it, and the name that it has there.
fn docker_archive(layout: &Path) -> Result<(PathBuf, String), String> {
    let archive = layout.with_extension("docker");
    let name = format!("{}:1", layout.file_name().expect("a name").display());
    if !archive.exists() {
        let from = format!("oci:{}:latest", layout.display());
        let to = format!("docker-archive:{}:{name}", archive.display());
        done(run(
            Command::new("skopeo").args(["copy", "--quiet", &from, &to])
        ))?;
    }
    Ok((archive, name))
}

/// What overlayfs shows of folders, topmost first; seen through a mount that is nowhere.
fn stacked(lower: &str) -> Tree {
    let folders: Vec<&str> = lower.split(':').collect();
    let [_, _, ..] = folders.as_slice() else {
        return tree::of(Path::new(lower));
    };
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    for folder in folders {
        fsconfig_set_string(&fs, "lowerdir+", folder).unwrap();
    }
    fsconfig_create(&fs).unwrap();
    let mount = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap();
    tree::of(Path::new(&format!("/proc/self/fd/{}", mount.as_raw_fd())))
}
