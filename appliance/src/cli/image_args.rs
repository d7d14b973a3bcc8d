//! Arguments of the verbs on images at rest.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Debug, Default, Args)]
pub struct Images {
    /// Only images of this repository or name; `*` matches anything
    pub name: Option<String>,
    /// Also images without a tag: parts of indexes, and what lost its name
    #[arg(long, short)]
    pub all: bool,
    /// Show the digests of manifests
    #[arg(long)]
    pub digests: bool,
    /// Do not shorten ids and digests
    #[arg(long)]
    pub no_trunc: bool,
    /// Print ids only
    #[arg(long, short)]
    pub quiet: bool,
    /// dangling=BOOL, reference=PATTERN, before=IMAGE, since=IMAGE, label=KEY[=VALUE]; several must
    /// all hold
    #[arg(long, short, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Rmi {
    /// Names, or beginnings of ids
    #[arg(required_unless_present = "all")]
    pub references: Vec<String>,
    /// Also the last name of what a sandbox uses, and every name of an id
    #[arg(long, short)]
    pub force: bool,
    /// Every image that has a name
    #[arg(long, short, conflicts_with = "references")]
    pub all: bool,
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// Names, or beginnings of ids. One is answered as an object, several as an array
    #[arg(required = true)]
    pub references: Vec<String>,
    /// Print the manifest's bytes as they are
    #[arg(long)]
    pub raw: bool,
    /// Print the configuration's bytes as they are
    #[arg(long, conflicts_with = "raw")]
    pub config: bool,
}

#[derive(Debug, Args)]
pub struct History {
    /// A name, or the beginning of an id
    pub reference: String,
    /// For example `linux/arm64` [default: this host's]
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Do not shorten what made a layer
    #[arg(long)]
    pub no_trunc: bool,
    /// Print digests of layers only
    #[arg(long, short)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct Check {
    /// Names, or beginnings of ids
    #[arg(required_unless_present = "all")]
    pub references: Vec<String>,
    /// Every image that has a name
    #[arg(long, short, conflicts_with = "references")]
    pub all: bool,
}

/// What `save` writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum SaveFormat {
    /// The tar of an OCI image layout; docker reads it too
    #[default]
    #[value(alias = "oci")]
    OciArchive,
    /// What `docker save` wrote before version 25: layers uncompressed
    #[value(alias = "docker")]
    DockerArchive,
    /// An OCI image layout in a folder; images that are there stay
    OciDir,
}

#[derive(Debug, Args)]
pub struct Save {
    /// Names, or beginnings of ids
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
    /// A file, a folder with --format oci-dir, or `-` for standard output; as -o FILE, beside -o json
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// What is written
    #[arg(long, value_enum, default_value_t)]
    pub format: SaveFormat,
    /// Of an index the image for this platform [default: this host's]
    #[arg(long, value_name = "OS/ARCH", conflicts_with = "all_platforms")]
    pub platform: Option<String>,
    /// Whole indexes
    #[arg(long)]
    pub all_platforms: bool,
}

#[derive(Debug, Args)]
pub struct Load {
    /// An archive (of docker, or an OCI layout; gzip or zstd around it is undone), a folder in the
    /// OCI image layout, or `-` for standard input [default: -]
    #[arg(long, short, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// A name for the image, in place of those in the archive
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Of an index the image for this platform only
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Print names only
    #[arg(long, short)]
    pub quiet: bool,
}
