//! The engine finds nothing in native files that are right, and everything in those that are not.

use std::sync::Arc;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::operation::{Desk, Failure, Opened, TABLE};
use super::span::Span;
use super::truth::{Library, Truth, Wrong, noise, versioned};
use super::{OPERATIONS, Reader};

#[test]
fn truths_are_compared_up_to_their_end() {
    let bytes = Truth::Bytes(b"abcabcab".as_slice().into());
    let repeated = Truth::Repeated { block: b"abc".as_slice().into(), len: 8 };
    for truth in [&bytes, &repeated] {
        assert_eq!(truth.len(), 8);
        for (offset, found) in [(0, "abcabcab"), (4, "bca"), (7, "b"), (8, ""), (99, "")] {
            truth.check(offset, found.as_bytes()).unwrap();
        }
        let wrong = truth.check(4, b"bcaX").unwrap_err();
        assert_eq!(wrong, Wrong { count: 1, at: 7, found: b'X', want: b'b' });
        // A byte behind the end is wrong, also if it is zero.
        assert_eq!(truth.check(8, b"\0").unwrap_err().at, 8);
        assert_eq!(truth.check(7, b"b\0").unwrap_err().at, 8);
    }
}

#[test]
fn good_native_files_pass() {
    let directory = tempfile::tempdir().unwrap();
    let mut library = Library::below(directory.path());
    for len in [0, 1, 4095, 4096, 4097, 300_001] {
        let bytes = noise(7, len);
        std::fs::write(directory.path().join(len.to_string()), &bytes).unwrap();
        library.add(&len.to_string(), Truth::Bytes(bytes.into()));
    }
    let bytes = versioned("changes", 1, 5000);
    std::fs::write(directory.path().join("changes"), &bytes).unwrap();
    library.add_changing("changes", &bytes);
    let mut reader = Reader::new(&library, 1);
    for _ in 0..4000 {
        reader.step().unwrap_or_else(|report| panic!("{report}"));
    }
    for (name, done) in OPERATIONS.iter().zip(reader.done) {
        assert!(done > 50, "{name} was done {done} times");
    }
    // A version that should be gone is noticed.
    library.demand(2);
    let mut reader = Reader::new(&library, 2);
    let report = (0..1000).find_map(|_| reader.step().err()).unwrap();
    assert!(matches!(report.failure, Failure::Version { found: Some(1), at_least: 2 }), "{report}");
}

/// One flipped bit is found by each operation that reads it.
#[test]
fn a_wrong_byte_is_found_by_every_way_to_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f");
    let right = noise(9, 40_000);
    let mut flipped = right.clone();
    flipped[20_000] ^= 1;
    std::fs::write(&path, &flipped).unwrap();
    let truth = Truth::Bytes(Arc::from(right));
    let mut desk = Desk::new().unwrap();
    for (name, work) in TABLE {
        let file = std::fs::File::open(&path).unwrap();
        let mut opened = Opened { file, truth: truth.clone(), mapping: None };
        let mut random = StdRng::seed_from_u64(3);
        let mut run = |span| work(&mut opened, &mut desk, span, &mut random);
        let found = run(Span { offset: 19_990, len: 100 });
        if ["seek", "fstat"].contains(&name) {
            found.unwrap();
            continue;
        }
        match found {
            Err(Failure::Wrong(wrong)) => {
                assert_eq!((wrong.at, wrong.count), (20_000, 1), "{name}")
            }
            other => panic!("{name}: {other:?}"),
        }
        // Where the bytes are right, nothing is found.
        if name != "read" {
            run(Span { offset: 30_000, len: 100 }).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}
