//! The command line as types. One function per verb lives in the sibling modules.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::cli::build_args::Build;
use crate::cli::build_cache::BuildCache;
use crate::cli::doctor::Doctor;
use crate::cli::envbuilder::Envbuilder;
use crate::cli::image_args::{Check, History, Images, Inspect, Load, Rmi, Save};
use crate::cli::login::{Login, Logout};
use crate::cli::registry::Registry;
use crate::cli::run_args;
use crate::cli::sandbox_life::Life;
use crate::cli::volume::Volume;
use crate::ui::Output;

/// Builds, stores, fetches and runs container images for development on one Linux host: no Docker
/// daemon, no root, no internet.
#[derive(Debug, Parser)]
#[command(
    name = "devpod",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub struct Arguments {
    /// Folder of images, snapshots and sandboxes [default: /var/lib/devpod as root,
    /// ~/.local/share/devpod otherwise]
    #[arg(long, global = true, env = "DEVPOD_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// How results are printed, text or json; with `save` the file that is written, with `build` where
    /// the result goes: a folder, type=local|tar|oci|docker|image,dest=…
    #[arg(long, short, global = true, value_name = "FORMAT", value_parser = Output::parse)]
    pub output: Vec<Output>,

    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a workspace from a folder or a repository, or bring one back, and leave it running
    Up(Up),
    /// List the workspaces
    #[command(visible_alias = "ls")]
    List,
    /// Show one workspace
    Status(Name),
    /// Open a shell, or run a command, in a workspace
    Ssh(Ssh),
    /// Stop a workspace; its files stay
    Stop(Name),
    /// Start a stopped workspace
    Start(Name),
    /// Delete a workspace, its volume and its sandbox; a folder of yours stays
    Delete(Delete),
    /// Show the logs of a workspace: its builds and lifecycle commands
    Logs(Logs),
    /// Read and change the settings in ~/.devpod/config.json
    #[command(subcommand)]
    Config(Config),

    /// List the images that are here
    Images(Images),
    /// Fetch an image from a registry
    Pull(Pull),
    /// Send an image to the registry that its name says
    Push(Push),
    /// Log in to a registry; the password is asked for, or read from standard input
    Login(Login),
    /// Forget the login at a registry
    Logout(Logout),
    /// Give an image another name
    Tag(Tag),
    /// Remove images
    Rmi(Rmi),
    /// Show manifests and configurations of images
    Inspect(Inspect),
    /// Write images to a file that docker, podman and skopeo read too
    Save(Save),
    /// Read images from a file of docker, podman, skopeo or ours, or from an OCI layout
    Load(Load),
    /// Unpack an image's root file system into a folder
    Unpack(Unpack),
    /// Build an image from a Dockerfile
    Build(Box<Build>),
    /// As `envbuilder`, whose command line this binary takes when it is called by that name
    Envbuilder(Box<Envbuilder>),
    /// More about images
    #[command(subcommand)]
    Image(Image),
    /// Look after the embedded registry: images, disk, uploads, events, tokens, accounts
    #[command(subcommand)]
    Registry(Registry),

    /// What builds remember: list it, and remove what is not worth its room
    #[command(subcommand, visible_alias = "builder")]
    BuildCache(BuildCache),

    /// Run containers of images
    #[command(subcommand, visible_alias = "sb")]
    Sandbox(Sandbox),
    /// Folders that outlive sandboxes
    #[command(subcommand)]
    Volume(Volume),

    /// Run the daemon in the foreground (other commands start it by themselves)
    Serve(Serve),
    /// Look at the daemon, or stop it
    #[command(subcommand)]
    Daemon(Daemon),
    /// Say what this host offers, what it withholds, and what would lift that
    Doctor(Doctor),
    /// Print the version
    Version,
}

#[derive(Debug, Args)]
pub struct Up {
    /// A folder, a repository's URL, or the name of a workspace [default: the current folder]
    pub source: Option<String>,
    /// A git repository (https, ssh, file) to clone into the workspace's volume
    #[arg(long, value_name = "URL", conflicts_with = "source")]
    pub repo: Option<String>,
    /// The branch to clone
    #[arg(long, value_name = "BRANCH")]
    pub branch: Option<String>,
    /// The workspace's name [default: from the folder or the URL]
    #[arg(long, visible_alias = "id", value_name = "NAME")]
    pub name: Option<String>,
    /// Build anew and replace the sandbox; files stay
    #[arg(long)]
    pub recreate: bool,
    /// Let a cloned repository mount this file or folder of the host, and what lies below
    #[arg(long, value_name = "PATH")]
    pub allow_mount: Vec<PathBuf>,
    /// Open a shell in the workspace when it is up
    #[arg(long)]
    pub ssh: bool,
}

#[derive(Debug, Args)]
pub struct Name {
    /// The workspace's name
    pub name: String,
}

#[derive(Debug, Args)]
pub struct Ssh {
    /// The workspace's name
    pub name: String,
    /// Run as this user of the image [default: the workspace's]
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Start in this folder [default: the workspace's]
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// A command and its arguments [default: a login shell]
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Delete {
    /// The workspaces' names
    #[arg(required = true)]
    pub names: Vec<String>,
    /// Also when it runs or is broken; no complaint when it does not exist
    #[arg(long, short)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Logs {
    /// The workspace's name
    pub name: String,
}

#[derive(Debug, Subcommand)]
pub enum Config {
    /// Change a setting
    Set { key: String, value: String },
    /// Print a setting
    Get { key: String },
    /// Print every setting and where it comes from
    List,
}

#[derive(Debug, Args)]
pub struct Pull {
    /// For example `alpine`, `ghcr.io/owner/image:tag`, `host:5000/name@sha256:…`
    pub reference: String,
    /// For example `linux/arm64` or `linux/arm/v6` [default: this host's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
    /// Everything that the name stands for: the index and its images for all platforms
    #[arg(long, conflicts_with = "platform")]
    pub all_platforms: bool,
    /// Only fetch it; its file system is unpacked when it is first run
    #[arg(long)]
    pub no_unpack: bool,
    /// Print the digest, and nothing else
    #[arg(long, short)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct Push {
    /// The image's name; with --all-tags that of a repository
    pub reference: String,
    /// Send every tag of the repository that is here
    #[arg(long, short)]
    pub all_tags: bool,
}

#[derive(Debug, Args)]
pub struct Tag {
    /// An image that is here
    pub source: String,
    /// Its new name
    pub target: String,
}

#[derive(Debug, Args)]
pub struct Unpack {
    /// The image's name; fetched when it is not here
    pub reference: String,
    /// A folder that is empty or does not exist
    pub destination: PathBuf,
    /// For example `linux/arm64` [default: this host's]
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Image {
    /// Make a first image out of this host's own shell, tools and libraries
    FromHost {
        /// The image's name
        #[arg(long, short, value_name = "NAME")]
        tag: Option<String>,
        /// One more program, with the libraries that it needs
        #[arg(long, value_name = "PROGRAM")]
        include: Vec<String>,
        /// Leave git out
        #[arg(long)]
        without_git: bool,
    },
    /// Remove blobs and snapshots that no image, sandbox or build needs
    Prune {
        /// Also the build cache
        #[arg(long)]
        all: bool,
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
    },
    /// List the images that are here: `devpod images`
    Ls(Images),
    /// Remove images: `devpod rmi`
    Rm(Rmi),
    /// Show manifests and configurations: `devpod inspect`
    Inspect(Inspect),
    /// Write images to a file: `devpod save`
    Save(Save),
    /// Read images from a file: `devpod load`
    Load(Load),
    /// Give an image another name: `devpod tag`
    Tag(Tag),
    /// Show how an image came to be: its layers, newest first
    History(History),
    /// Read every byte of images again and tell what is damaged
    #[command(visible_alias = "validate")]
    Check(Check),
}

#[derive(Debug, Subcommand)]
pub enum Sandbox {
    /// Run a command in a new sandbox
    Run(Box<Run>),
    /// Run a command in a running sandbox
    Exec(Exec),
    /// Follow a running sandbox's first process, from now on
    Attach {
        /// Name or id
        sandbox: String,
        /// Pass standard input to it
        #[arg(long, short)]
        interactive: bool,
        /// It has a terminal
        #[arg(long, short)]
        tty: bool,
    },
    /// List the sandboxes
    #[command(visible_alias = "ls")]
    Ps,
    /// Show which ports of this host lead into a sandbox
    Port {
        /// Name or id
        sandbox: String,
        /// Only what leads to this port
        #[arg(value_name = "PORT[/tcp|udp]")]
        port: Option<String>,
    },
    /// Stop sandboxes
    Stop {
        /// Names or ids
        #[arg(required = true)]
        sandboxes: Vec<String>,
        /// Seconds until it is killed [default: what `run` was told, or 10]
        #[arg(long, short)]
        time: Option<u64>,
    },
    /// Remove sandboxes and what they changed
    Rm {
        /// Names or ids
        #[arg(required = true)]
        sandboxes: Vec<String>,
        /// Also when it runs
        #[arg(long, short)]
        force: bool,
        /// With the volumes that have no name and no other sandbox
        #[arg(long, short)]
        volumes: bool,
    },
    /// Show what a sandbox printed
    Logs {
        /// Name or id
        sandbox: String,
        #[command(flatten)]
        wanted: LogArgs,
    },
    #[command(flatten)]
    Life(Life),
}

#[derive(Debug, Args)]
pub struct LogArgs {
    /// Go on until it ends
    #[arg(long, short)]
    pub follow: bool,
    /// Only so many of the last lines
    #[arg(long, short = 'n', value_name = "LINES")]
    pub tail: Option<usize>,
    /// Only from this time on: RFC 3339, or so long ago, such as 10m
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Put the time before each line
    #[arg(long, short)]
    pub timestamps: bool,
}

#[derive(Debug, Args)]
pub struct Run {
    // One list, because only behind the first word of such a list everything is a word: `IMAGE -p 1`.
    /// The image, which is fetched when it is not here, and the command with its arguments [default:
    /// the image's]
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE [CMD]")]
    pub words: Vec<String>,
    /// A name [default: the id]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Leave it running in the background and print its id
    #[arg(long, short)]
    pub detach: bool,
    /// Give it a terminal
    #[arg(long, short)]
    pub tty: bool,
    /// Pass standard input to it
    #[arg(long, short)]
    pub interactive: bool,
    /// Remove it when it ends
    #[arg(long)]
    pub rm: bool,
    /// An environment variable; without `=VALUE` this environment's
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Run as this user of the image
    #[arg(long, short, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Start in this folder
    #[arg(long, short, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Mount a file or folder of the host, or a named volume
    #[arg(long = "volume", short = 'v', value_name = "HOST|NAME:INSIDE[:ro]")]
    pub volumes: Vec<String>,
    /// The network: private (its own, reaches the world but not this host's loopback), host, none, or
    /// bridge (for a daemon of root: private with a device, and others on the bridge are reached)
    #[arg(long, value_name = "NET", default_value = "private")]
    pub network: String,
    /// Lead a port of this host into the sandbox. HOST is any free port where it is missing; IP is
    /// 127.0.0.1 unless given, so that only this host's programs reach it: 0.0.0.0 for everybody
    #[arg(long, short, value_name = "[[IP:]HOST:]CONTAINER[/tcp|udp]")]
    pub publish: Vec<String>,
    /// Lead a free port of this host to every port that the image exposes
    #[arg(long, short = 'P')]
    pub publish_all: bool,
    /// Let the sandbox reach this host's loopback as host.devpod.internal
    #[arg(long)]
    pub host_loopback: bool,
    /// The host name inside
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// In place of the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    #[command(flatten)]
    pub limits: run_args::Limits,
    #[command(flatten)]
    pub security: run_args::Security,
    #[command(flatten)]
    pub files: run_args::Files,
    #[command(flatten)]
    pub life: run_args::Life,
}

#[derive(Debug, Args)]
pub struct Exec {
    /// Name or id
    pub sandbox: String,
    /// The command and its arguments
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true,
        value_name = "CMD"
    )]
    pub command: Vec<String>,
    /// Give it a terminal
    #[arg(long, short)]
    pub tty: bool,
    /// Pass standard input to it
    #[arg(long, short)]
    pub interactive: bool,
    /// An environment variable; without `=VALUE` this environment's
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Run as this user of the image
    #[arg(long, short, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Start in this folder
    #[arg(long, short, value_name = "DIR")]
    pub workdir: Option<String>,
}

#[derive(Debug, Args)]
pub struct Serve {
    /// The registry's address [default: 127.0.0.1:5000]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Leave the session of the command that started it
    #[arg(long, hide = true)]
    pub detach: bool,
}

#[derive(Debug, Subcommand)]
pub enum Daemon {
    /// Show whether it runs and where it listens
    Status,
    /// End it; sandboxes and workspaces go on
    Stop,
    /// Print its log
    Logs,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }
}
