//! What `devpod build` can be told: docker's flags where they mean the same.

use std::path::PathBuf;

use clap::Args;

use crate::cli::build_inputs::Inputs;
use crate::ui::progress::Mode;

#[derive(Debug, Clone, Default, Args)]
pub struct Build {
    /// The build context: a folder, a git repository as URL.git[#REF[:FOLDER]], or `-` for a tar or a
    /// Dockerfile on standard input
    #[arg(default_value = ".")]
    pub context: PathBuf,
    /// The Dockerfile, `-` for standard input [default: CONTEXT/Dockerfile]
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Names for the image; without a registry host it lands in the embedded registry
    #[arg(long = "tag", short, value_name = "NAME")]
    pub tags: Vec<String>,
    /// A value for an ARG; without `=VALUE` the environment's
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    pub build_args: Vec<String>,
    /// A label for the image
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// An annotation for the image's manifest
    #[arg(long = "annotation", value_name = "KEY=VALUE")]
    pub annotations: Vec<String>,
    /// The stage to build [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// For example `linux/amd64` [default: this host's]
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Use this image in place of the Dockerfile's base
    #[arg(long, value_name = "IMAGE")]
    pub base_image: Option<String>,
    /// Run every step
    #[arg(long)]
    pub no_cache: bool,
    /// Fetch base images again, although they are here
    #[arg(long)]
    pub pull: bool,
    /// Send the image to the registries that its names say
    #[arg(long)]
    pub push: bool,
    /// As docker has it; the image is kept here anyway
    #[arg(long)]
    pub load: bool,
    /// Run every step of this stage, by name or number
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub no_cache_filter: Vec<String>,
    #[command(flatten)]
    pub inputs: Inputs,
    /// Only look the Dockerfile through: tell what is doubtful, build nothing, and end with 1 if
    /// there was anything
    #[arg(long)]
    pub check: bool,
    /// How layers are compressed: gzip, zstd or none
    #[arg(long, value_name = "KIND")]
    pub compression: Option<String>,
    /// How hard it is tried: 0 to 9 for gzip, 1 to 22 for zstd
    #[arg(long, value_name = "N")]
    pub compression_level: Option<i32>,
    /// Attest how the image was built [default: false]
    #[arg(long, value_name = "true|mode=min|mode=max", num_args = 0..=1, default_missing_value = "true",
        require_equals = true)]
    pub provenance: Option<String>,
    /// Attest what packages are in the image [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub sbom: Option<String>,
    /// type=provenance,mode=min|max or type=sbom
    #[arg(long, value_name = "KEY=VALUE,…")]
    pub attest: Vec<String>,
    #[command(flatten)]
    pub steps: Steps,
    #[command(flatten)]
    pub told: Told,
    #[command(flatten)]
    pub refused: Refused,
}

/// What the commands of a build may use.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Steps")]
pub struct Steps {
    /// The network of RUN: host, private or none [default: host]
    #[arg(long, value_name = "NET")]
    pub network: Option<String>,
    /// A further line of /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub add_host: Vec<String>,
    /// Memory of each step, such as 2g [default: the setting builder.memory]
    #[arg(long, short = 'm', value_name = "SIZE")]
    pub memory: Option<String>,
    /// Memory and swap together; -1 for no limit of swap [default: twice the memory]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Processors of each step, such as 1.5 [default: the setting builder.cpu]
    #[arg(long, value_name = "N")]
    pub cpus: Option<String>,
    /// Weight against others when processors are scarce; 1024 is everybody's
    #[arg(long, short = 'c', value_name = "WEIGHT")]
    pub cpu_shares: Option<u64>,
    /// Processes and threads of each step; -1 for no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// A limit of setrlimit, such as nofile=1024:4096
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub ulimit: Vec<String>,
    /// Size of /dev/shm [default: 64m]
    #[arg(long, value_name = "SIZE")]
    pub shm_size: Option<String>,
    /// End the build after so long, such as 30m
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<String>,
}

/// What is told, and where.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct Told {
    /// How the build is shown
    #[arg(
        long,
        value_name = "MODE",
        value_enum,
        default_value = "auto",
        env = "BUILDKIT_PROGRESS",
        hide_env_values = true
    )]
    pub progress: Mode,
    /// Print the image's id, and nothing else
    #[arg(long, short)]
    pub quiet: bool,
    /// Write the image's id into this file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// Write digests and names, as JSON, into this file
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
}

/// What docker takes and this builder cannot do: refused with the reason, never ignored.
#[derive(Debug, Clone, Default, Args)]
pub struct Refused {
    #[arg(long, hide = true)]
    squash: bool,
    #[arg(long, hide = true, value_name = "NAME")]
    builder: Option<String>,
    #[arg(long, hide = true, value_name = "PARENT")]
    cgroup_parent: Option<String>,
    #[arg(long, hide = true, value_name = "KIND")]
    isolation: Option<String>,
    #[arg(long, hide = true, value_name = "OPTION")]
    security_opt: Vec<String>,
    #[arg(long, hide = true, value_name = "ENTITLEMENT")]
    allow: Vec<String>,
    #[arg(long, hide = true, value_name = "DEVICE")]
    device: Vec<String>,
    #[arg(long, hide = true)]
    cpuset_cpus: Option<String>,
    /// Containers of steps never stay.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, value_name = "BOOL")]
    rm: Option<Option<String>>,
    #[arg(long, hide = true)]
    force_rm: bool,
}

impl Refused {
    /// The first flag that cannot be honoured, and why.
    pub(super) fn reason(&self) -> Option<(&'static str, &'static str)> {
        let network = |text: &String| text == "network.host";
        let default = |text: &String| text == "default";
        let asked = [
            (
                self.squash,
                "--squash",
                "layers are shared by images, and one of everything would not be",
            ),
            (
                self.builder.is_some(),
                "--builder",
                "there is one builder, this one",
            ),
            (
                self.cgroup_parent.is_some(),
                "--cgroup-parent",
                "steps are in control groups of the daemon; --memory and --cpus hold them to limits",
            ),
            (
                self.isolation.as_ref().is_some_and(|kind| !default(kind)),
                "--isolation",
                "it is a matter of Windows",
            ),
            (
                !self.security_opt.is_empty(),
                "--security-opt",
                "steps always run confined, as RUN --security=sandbox has it",
            ),
            (
                !self.allow.iter().all(network),
                "--allow",
                "no step gets more than a sandbox has; network.host needs no permission",
            ),
            (
                !self.device.is_empty(),
                "--device",
                "steps have no devices of the host",
            ),
            (
                self.cpuset_cpus.is_some(),
                "--cpuset-cpus",
                "steps are held to an amount of processor time: --cpus",
            ),
        ];
        let found = asked.into_iter().find(|(asked, ..)| *asked);
        found.map(|(_, flag, why)| (flag, why))
    }
}
