//! What the fuzz targets assert (`fuzz/properties`), on what they have kept: the inputs that reach most
//! of the code, those that once failed, and small changes of both. It runs without any fuzzer.

#![allow(clippy::unwrap_used)]
// The properties are part of another package as well, which has this feature.
#![allow(unexpected_cfgs)]

#[path = "../../fuzz/properties/lib.rs"]
mod properties;
mod seeds;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::{env, fs};

use properties::{PROPERTIES, check};

/// So many changes are made of each input.
const CHANGES: u64 = 60;

/// `fuzz/` of this repository.
fn place() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

/// What a fuzzer has kept for a property, and what once failed.
fn kept(name: &str) -> Vec<Vec<u8>> {
    let folders = ["corpus", "regressions"].map(|kind| place().join(kind).join(name));
    let files = folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok());
    let mut paths: Vec<_> = files.flatten().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// A small change of an input: a bit, a byte, a cut, a piece twice. The same number is the same change.
fn changed(input: &[u8], number: u64) -> Vec<u8> {
    // By splitmix64 (Steele, Lea, Flood 2014, DOI 10.1145/2660193.2660195).
    let mut state = number;
    let mut random = |below: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % below.max(1)
    };
    let mut bytes = input.to_vec();
    for _ in 0..=random(3) {
        if bytes.is_empty() {
            break;
        }
        let at = random(bytes.len());
        match random(6) {
            0 => bytes[at] ^= 1 << random(8),
            1 => bytes[at] = [0, 0x7f, 0x80, 0xff][random(4)],
            2 => bytes.truncate(at),
            3 => {
                bytes.remove(at);
            }
            4 => bytes.insert(at, [b'"', b'\n', 0, 0xff][random(4)]),
            _ => {
                let piece = bytes[at..bytes.len().min(at + 1 + random(16))].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
    bytes
}

/// One test, for the memory that each takes is measured.
#[test]
fn every_property_holds_for_what_is_kept_and_for_small_changes_of_it() {
    for property in PROPERTIES {
        let name = property.name;
        let inputs: Vec<_> = kept(name).into_iter().chain(seeds::of(name)).collect();
        assert!(!inputs.is_empty(), "nothing is kept for {name}");
        for (number, input) in inputs.iter().enumerate() {
            check(name, input);
            for change in 0..CHANGES {
                let changed = changed(input, change);
                let held = std::panic::catch_unwind(|| check(name, &changed));
                if held.is_err() {
                    let path = env::temp_dir().join(format!("{name}-{number}-{change}"));
                    fs::write(&path, &changed).unwrap();
                    panic!("{name} does not hold for {}", path.display());
                }
            }
        }
        // Not `eprintln!`, which libtest captures: who aborts is seen by who came last.
        let _ = writeln!(io::stderr(), "{name}: {} inputs", inputs.len());
    }
}

#[test]
fn every_property_has_its_target() {
    let targets = fs::read_dir(place().join("targets")).unwrap();
    let targets: BTreeSet<String> = targets
        .map(|target| {
            target
                .unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_string_lossy()
                .into()
        })
        .collect();
    let names = PROPERTIES.iter().map(|property| property.name.to_owned());
    assert_eq!(names.collect::<BTreeSet<_>>(), targets);
}

#[test]
#[ignore = "writes to fuzz/corpus what a fuzzer begins with"]
fn the_seeds_are_written_for_the_fuzzers() {
    for property in PROPERTIES {
        let folder = place().join("corpus").join(property.name);
        fs::create_dir_all(&folder).unwrap();
        for (number, seed) in seeds::of(property.name).iter().enumerate() {
            fs::write(folder.join(format!("seed-{number}")), seed).unwrap();
        }
    }
}
