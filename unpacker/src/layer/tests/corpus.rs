//! The corpus of the fuzz targets (`unpacker/fuzz`), replayed: every input that ever led somewhere
//! new, and every one that was a fault.

use super::*;
use crate::layer::oracle::{self, Scratch};

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let entries = top.join(target).read_dir().unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let inputs: Vec<_> = paths
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    assert!(inputs.len() > 20, "the corpus of {target} is missing");
    inputs
}

/// Says which input it was.
fn replay(target: &str, check: impl Fn(&[u8])) {
    for (path, bytes) in corpus(target) {
        let checked = std::panic::AssertUnwindSafe(|| check(&bytes));
        assert!(
            std::panic::catch_unwind(checked).is_ok(),
            "{}",
            path.display()
        );
    }
}

#[test]
fn what_the_fuzzer_read_reads_well() {
    replay("read", |bytes| {
        oracle::read(bytes);
        oracle::read(&oracle::repaired(bytes));
    });
}

#[test]
fn what_the_fuzzer_applied_stays_inside() {
    let dir = TempDir::new().unwrap();
    let scratch = Scratch::new(dir.path());
    replay("apply", |bytes| {
        oracle::apply(&oracle::repaired(bytes), &scratch);
    });
}

#[test]
fn the_corpus_is_small() {
    let all = ["read", "apply"].map(corpus).concat();
    let sum: usize = all.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(
        sum < 200_000,
        "{sum} bytes; minimise it: unpacker/fuzz/README.md"
    );
}

/// The cases of this folder as seeds: `DEVPOD_WRITE_SEEDS=<folder> cargo test -p unpacker seeds --
/// --ignored`.
#[test]
#[ignore = "writes seeds for the fuzzer, does not test"]
fn seeds() {
    let folder = PathBuf::from(std::env::var_os("DEVPOD_WRITE_SEEDS").unwrap());
    for (number, layers) in cases::layers().into_iter().enumerate() {
        std::fs::write(
            folder.join(format!("case-{number}")),
            tar_of(layers.last().unwrap()),
        )
        .unwrap();
    }
}
