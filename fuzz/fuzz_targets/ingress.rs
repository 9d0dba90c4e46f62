//! See `src/fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lockkeeper::fuzzing::run("ingress", data));
