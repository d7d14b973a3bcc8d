//! Images of each as bases of the other: their layers stay the blobs that they are, also below an
//! index with attestations.

use integration::process::{Ran, run};
use integration::tree::Tree;
use serde_json::Value;

use super::built::Built;
use super::rig::Rig;

const FIRST: &str = "FROM base
COPY dir /dir
RUN rm -r /opt/opaque && mkdir /opt/opaque && touch /opt/opaque/first && chown -R app /dir
ONBUILD RUN touch /triggered
ENV MADE=first
";
const ABOVE: &str = "ARG BELOW
FROM $BELOW
RUN echo \"$MADE\" > /seen && rm /opt/one
COPY a.txt /above
";

/// Digests of an image's layers, lowest first.
fn layers(built: &Built) -> Vec<Value> {
    let layers = built.manifest["layers"].as_array().unwrap().iter();
    layers.map(|layer| layer["digest"].clone()).collect()
}

impl Rig {
    fn write(&self, text: &str) -> std::path::PathBuf {
        self.folder().write("dockerfile/Dockerfile", text)
    }

    /// By us, with these flags; the layout where it is wanted.
    fn our_build(&self, text: &str, flags: &[&str]) -> Ran {
        let mut command = self.root().place().devpod(&["build", "--file"]);
        command
            .arg(self.write(text))
            .args(flags)
            .arg(self.context());
        run(&mut command).ok()
    }

    fn their_build(&self, text: &str, flags: &[&str]) -> Ran {
        let mut command = self.buildkit().build(&self.context(), &self.write(text));
        run(command.args(flags)).ok()
    }

    /// An image of the registry, as another tool copies it out.
    fn fetched(&self, name: &str) -> Built {
        let layout = self.folder().join(name.replace(':', "-"));
        integration::clients::skopeo_copy(
            &format!("docker://{}", self.root().reference(name)),
            &format!("oci:{}:latest", layout.display()),
        );
        Built::read(&layout)
    }
}

/// The one that stands on the other holds its layers as they were, and the same files.
#[track_caller]
fn stands_on(below: &Built, above: &Built) {
    let (lower, all) = (layers(below), layers(above));
    assert!(all.starts_with(&lower), "{lower:?} is not below {all:?}");
    assert!(all.len() > lower.len(), "nothing is above {lower:?}");
    let (below, above) = (below.tree(&[]), above.tree(&[]));
    let changed = ["/", "/opt", "/opt/one", "/opt/two"];
    let kept = |tree: &Tree| -> Tree {
        let mut tree = tree.clone();
        tree.retain(|path, _| !changed.contains(&path.as_str()));
        tree
    };
    let (lower, upper) = (kept(&below), kept(&above));
    for (path, line) in &lower {
        assert_eq!(upper.get(path), Some(line), "{path}");
    }
    for path in ["/seen", "/above", "/triggered"] {
        assert!(above.contains_key(path), "{path}");
    }
    assert!(!above.contains_key("/opt/one"));
}

#[test]
fn each_builds_on_the_others_images() {
    let Some(rig) = Rig::start() else {
        return;
    };
    let base = rig.root().reference("base:1");
    let first = FIRST.replacen("base", &base, 1);
    let below = |name: &str| format!("BELOW={}", rig.root().reference(name));
    let theirs = |name: &str| {
        let name = rig.root().reference(name);
        format!("type=image,name={name},push=true,oci-mediatypes=true")
    };
    let argument = |text: &str| format!("build-arg:{text}");
    // Theirs on ours, which is an index with statements around it.
    let attested = ["--provenance=mode=max", "--sbom", "--tag", "ours:1"];
    rig.our_build(&first, &attested);
    let above = [
        "--opt",
        &argument(&below("ours:1")),
        "--output",
        &theirs("theirs-on-ours:1"),
    ];
    rig.their_build(ABOVE, &above);
    let ours = rig.fetched("ours:1");
    stands_on(&ours, &rig.fetched("theirs-on-ours:1"));
    // Ours on theirs, which is an index as well.
    let attested = [
        "--opt",
        "attest:provenance=mode=max",
        "--output",
        &theirs("theirs:1"),
    ];
    rig.their_build(&first, &attested);
    rig.our_build(
        ABOVE,
        &[
            "--build-arg",
            &below("theirs:1"),
            "--tag",
            "ours-on-theirs:1",
        ],
    );
    let theirs = rig.fetched("theirs:1");
    stands_on(&theirs, &rig.fetched("ours-on-theirs:1"));
    // Both made the same of the first Dockerfile.
    assert_eq!(ours.tree(&[]), theirs.tree(&[]));
    for name in ["ours:1", "theirs:1"] {
        let list = run(std::process::Command::new("skopeo")
            .args(["inspect", "--raw", "--tls-verify=false"])
            .arg(format!("docker://{}", rig.root().reference(name))));
        let kinds = list.ok().json()["manifests"].clone();
        let kinds = kinds.as_array().unwrap();
        let statements = kinds.iter().filter(|entry| {
            entry["annotations"]["vnd.docker.reference.type"] == "attestation-manifest"
        });
        assert_eq!(statements.count(), 1, "{name}: {kinds:?}");
    }
}
