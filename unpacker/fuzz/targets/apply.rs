//! Arbitrary bytes as a layer: carried out above other layers, in both forms.
//!
//! `FUZZ_SCRATCH` names an empty folder to work in; `run` makes it.

#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use unpacker::layer::oracle::{self, Scratch};

static SCRATCH: OnceLock<Scratch> = OnceLock::new();

fuzz_target!(
    init: {
        let folder = std::env::var_os("FUZZ_SCRATCH").expect("FUZZ_SCRATCH names a folder");
        SCRATCH.set(Scratch::new(Path::new(&folder))).expect("once");
    },
    |bytes: &[u8]| {
        oracle::apply(&oracle::repaired(bytes), SCRATCH.get().expect("made by init"));
    }
);
