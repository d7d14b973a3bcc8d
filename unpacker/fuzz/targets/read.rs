//! Arbitrary bytes as an archive: read, and understood as changes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use unpacker::layer::oracle;

fuzz_target!(|bytes: &[u8]| {
    oracle::read(bytes);
    oracle::read(&oracle::repaired(bytes));
});
