//! The cases: `tests/buildkit/TOPIC/NAME.Dockerfile`, with what a command line adds in comments.
//!
//! ```text
//! #: arg NAME=VALUE          #: target STAGE        #: platform OS/ARCH     #: label KEY=VALUE
//! #: context NAME=FOLDER     a folder of the context, or the name of an image of ours
//! #: secret ID=VALUE         #: ssh                 #: allow network.host
//! #: times PATH              the Dockerfile determines the time of this file
//! #: refused                 nobody takes this Dockerfile
//! ```
//!
//! `{server}` and `{sum}` are the address of the test's server and the checksum of its file. An ignore
//! file lies beside as `NAME.Dockerfile.dockerignore`, and what is known to differ as
//! `NAME.differences`: no more and no less may differ.

use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct Case {
    /// `TOPIC/NAME`.
    pub(super) name: String,
    pub(super) options: Vec<(String, String)>,
    pub(super) refused: bool,
    /// Paths whose times are compared.
    pub(super) times: Vec<String>,
    /// What is known to differ.
    pub(super) known: String,
    differences: PathBuf,
}

/// The folder with all cases.
pub(super) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/buildkit")
}

/// The cases of a topic, sorted by their names.
pub(super) fn all(topic: &str, values: &[(&str, &str)]) -> Vec<Case> {
    let entries = fs::read_dir(folder().join(topic)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "Dockerfile"));
    paths.sort();
    paths
        .iter()
        .map(|path| Case::read(topic, path, values))
        .collect()
}

impl Case {
    fn read(topic: &str, path: &Path, values: &[(&str, &str)]) -> Self {
        let differences = path.with_extension("differences");
        let mut case = Self {
            name: format!("{topic}/{}", path.file_stem().unwrap().display()),
            options: Vec::new(),
            refused: false,
            times: Vec::new(),
            known: fs::read_to_string(&differences).unwrap_or_default(),
            differences,
        };
        let text = fs::read_to_string(path).unwrap();
        for line in text
            .lines()
            .filter_map(|line| line.trim_end().strip_prefix("#: "))
        {
            let line = values.iter().fold(line.to_owned(), |line, (name, value)| {
                line.replace(&format!("{{{name}}}"), value)
            });
            match line.split_once(' ').unwrap_or((&line, "")) {
                ("refused", "") => case.refused = true,
                ("times", path) => case.times.push(path.to_owned()),
                (name, value) => case.options.push((name.to_owned(), value.to_owned())),
            }
        }
        case
    }

    /// The Dockerfile's path below the folder of the cases.
    pub(super) fn dockerfile(&self) -> String {
        format!("{}.Dockerfile", self.name)
    }

    /// Compares what differs with what is known to; `UPDATE_EXPECT=1` writes it down instead.
    pub(super) fn judge(&self, who: &str, found: &str) -> Option<String> {
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            // Not being there is what no difference looks like.
            match found.is_empty() {
                true => drop(fs::remove_file(&self.differences)),
                false => fs::write(&self.differences, found).unwrap(),
            }
            return None;
        }
        (found != self.known).then(|| {
            let known = &self.known;
            format!(
                "== {} and {who} differ:\n{found}-- known was:\n{known}",
                self.name
            )
        })
    }
}
