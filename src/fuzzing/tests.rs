//! The corpus of `fuzz/`, and random input, given to all targets on a stable compiler.

mod structured;

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{TestError, TestRunner};

use super::TARGETS;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// All inputs of a target by file name.
fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(fuzz().join("corpus").join(name)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn given_each_target_then_there_is_a_fuzzer_and_a_corpus_of_its_name_and_no_other() {
    let names = |dir: &str| {
        let mut names: Vec<String> = fs::read_dir(fuzz().join(dir))
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    let mut targets: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    targets.sort_unstable();
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("corpus"), targets);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in targets {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let source = fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(source.contains(&format!("run(\"{name}\", data)")), "{name}");
    }
}

#[test]
fn given_the_corpus_when_replayed_then_every_property_holds() {
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "{name}");
        for (path, data) in corpus {
            println!("{}", path.display()); // shown when the next line stops the test
            target(&data);
        }
    }
}

/// An input of a corpus with some bytes changed, cut, doubled or put in.
fn varied(name: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<Index>(), any::<Index>(), 0..5_u8, any::<u8>());
    let inputs: Vec<Vec<u8>> = corpus(name).into_iter().map(|(_, data)| data).collect();
    (select(inputs), proptest::collection::vec(change, 1..6)).prop_map(|(mut data, changes)| {
        for (at, to, how, byte) in changes {
            let (at, to) = (at.index(data.len() + 1), to.index(data.len() + 1));
            let (from, to) = (at.min(to), at.max(to));
            match how {
                0 => data.insert(at, byte),
                1 => drop(data.drain(from..to)),
                2 => data.truncate(to),
                3 => {
                    let again = data[from..to].to_vec();
                    data.splice(at..at, again);
                }
                _ => {
                    if let Some(there) = data.get_mut(at) {
                        *there = byte;
                    }
                }
            }
            data.truncate(64 * 1024);
        }
        data
    })
}

/// Gives each target inputs of its own until one fails; says which, in a form that can be pasted into a byte string.
fn try_all<S: Strategy<Value = Vec<u8>>>(cases: u32, inputs: impl Fn(&'static str) -> S) {
    let mut failed = Vec::new();
    for (name, target) in TARGETS {
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) };
        let result = TestRunner::new(config).run(&inputs(name), |data| {
            target(&data);
            Ok(())
        });
        if let Err(TestError::Fail(why, data)) = result {
            failed.push(format!("{name}: {why}\n    b\"{}\"", data.escape_ascii()));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn given_variations_of_the_corpus_then_every_property_holds() {
    try_all(60, varied);
}

#[test]
fn given_any_bytes_then_every_property_holds() {
    try_all(60, |_| proptest::collection::vec(any::<u8>(), 0..300));
}
