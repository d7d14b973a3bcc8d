//! What `devpod sandbox run` can be told beyond image and command, as docker's users write it.

use std::path::PathBuf;

use clap::Args;

/// What it may use.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// Processors, such as 1.5
    #[arg(long, value_name = "N")]
    pub cpus: Option<String>,
    /// Weight against others when processors are scarce; 1024 is everybody's
    #[arg(long, visible_alias = "cpu-weight", short = 'c', value_name = "WEIGHT")]
    pub cpu_shares: Option<u64>,
    /// Memory, such as 512m or 2g
    #[arg(long, short = 'm', value_name = "SIZE")]
    pub memory: Option<String>,
    /// Memory and swap together; -1 for no limit of swap [default: twice the memory]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Processes and threads; -1 for no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// A limit of setrlimit, such as nofile=1024:4096
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub ulimit: Vec<String>,
    /// From -1000 to 1000: the higher, the sooner it is killed when the host has no memory left
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub oom_score_adj: Option<i32>,
    /// Refuse to start when this host cannot hold it to one of these limits
    #[arg(long)]
    pub strict_limits: bool,
}

/// What it may do.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Security")]
pub struct Security {
    /// Give it a capability, inside its own user namespace: SYS_PTRACE, ALL
    #[arg(long, value_name = "CAP")]
    pub cap_add: Vec<String>,
    /// Take a capability away: NET_RAW, ALL
    #[arg(long, value_name = "CAP")]
    pub cap_drop: Vec<String>,
    /// All capabilities, all system calls, /proc as it is; all of it inside its own user namespace:
    /// it gets nothing of the host that you do not have
    #[arg(long)]
    pub privileged: bool,
    /// no-new-privileges, seccomp=unconfined, seccomp=FILE, systempaths=unconfined
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// Further groups of its user
    #[arg(long, value_name = "GROUP")]
    pub group_add: Vec<String>,
    /// A device of the host that you may open, such as /dev/kvm
    #[arg(long, value_name = "HOST[:INSIDE[:r]]")]
    pub device: Vec<String>,
}

/// What it sees.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Files")]
pub struct Files {
    /// type=bind|volume|tmpfs, source=…, target=…, readonly
    #[arg(long, value_name = "KEY=VALUE,…")]
    pub mount: Vec<String>,
    /// A file system in memory; options size=64m, mode=1777, ro
    #[arg(long, value_name = "INSIDE[:OPTIONS]")]
    pub tmpfs: Vec<String>,
    /// Nothing outside of mounts can be written
    #[arg(long)]
    pub read_only: bool,
    /// Size of /dev/shm [default: 64m]
    #[arg(long, value_name = "SIZE")]
    pub shm_size: Option<String>,
    /// A further line of /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub add_host: Vec<String>,
    /// A file of NAME=VALUE lines
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
}

/// How it is looked after.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Life")]
pub struct Life {
    /// no, on-failure[:TIMES], always or unless-stopped
    #[arg(long, value_name = "POLICY", default_value = "no")]
    pub restart: String,
    /// In place of the image's
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// Seconds between it and SIGKILL [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub stop_timeout: Option<u64>,
    /// Stop it after so long without output, exec or attached terminal, such as 30m [default: the
    /// setting sandbox.timeout]
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<String>,
    /// A label
    #[arg(long, short = 'l', value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// Size of one file of its log, such as 1m [default: 10m]
    #[arg(long, value_name = "SIZE")]
    pub log_max_size: Option<String>,
    /// Files of its log; the newest counts too [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub log_max_files: Option<u32>,
    /// Write the id into this file, which must not exist
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,
    /// An init that reaps and forwards signals is PID 1; that is so anyway
    #[arg(long, overrides_with = "no_init")]
    pub init: bool,
    /// The command itself is PID 1
    #[arg(long)]
    pub no_init: bool,
}
