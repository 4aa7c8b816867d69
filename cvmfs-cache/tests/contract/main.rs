//! What every store must do, run over every store (`cvmfs_core::cache`).

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking; the exceptions in clippy.toml stop at helper functions"
)]

mod alien;
mod processes;
mod stores;
mod tiers;

use std::path::Path;
use std::sync::Barrier;

use cvmfs_core::cache::{CacheError, ObjectCache as _, ObjectMeta};
use cvmfs_core::object::{Compression, ObjectId};

use stores::{
    begin, commit, every_directory, every_store, files, open, open_plain, proof, read, stored,
};

#[test]
fn what_was_committed_can_be_opened() {
    every_store(|subject| {
        let cache = subject.cache;
        let large = vec![7; 300_000];
        for plain in [&b""[..], b"x", b"some text", &large] {
            let body = stored(plain);
            let id = subject.id_of(&body, Compression::Zlib);
            assert_eq!(open_plain(cache, &id), None);
            let object = commit(cache, id, &body);
            assert_eq!((object.len(), read(&object)), (plain.len() as u64, plain.to_vec()));
            assert_eq!(open_plain(cache, &id).as_deref(), Some(plain));
        }
    });
}

#[test]
fn the_two_readings_of_a_body_and_the_kinds_are_different_objects() {
    every_store(|subject| {
        let cache = subject.cache;
        let body = stored(b"text");
        let zlib = subject.id_of(&body, Compression::Zlib);
        let none = subject.id_of(&body, Compression::None);
        let catalog = ObjectId { kind: subject.other_kind(), ..zlib };
        // Never the bytes of another; whether the same bytes are shared is up to the store.
        let expect = |id: &ObjectId, bytes: &[u8]| {
            if let Some(found) = open_plain(cache, id) {
                assert!(!subject.apart && found == bytes, "{id}: {found:?}");
            }
        };
        commit(cache, zlib, &body);
        expect(&none, &body);
        expect(&catalog, b"text");
        if !subject.apart {
            commit(cache, zlib, &body);
        }
        // Straight over the other reading: whoever looked first may have taken it away.
        let object = commit(cache, none, &body);
        assert_eq!(read(&object), body);
        if let Some(path) = object.path() {
            assert_eq!(std::fs::read(path).unwrap(), body, "what SQLite would open again");
        }
        assert_eq!(open_plain(cache, &none).as_ref(), Some(&body));
        match open_plain(cache, &zlib) {
            Some(found) => assert_eq!(found, b"text"),
            None => assert!(!subject.apart),
        }
    });
}

#[test]
fn an_uncommitted_object_leaves_nothing() {
    every_store(|subject| {
        let cache = subject.cache;
        let body = stored(b"never");
        let id = subject.id_of(&body, Compression::Zlib);
        let mut transaction = begin(cache, id, &body);
        transaction.write(b"never").unwrap();
        assert_eq!(open_plain(cache, &id), None);
        drop(transaction);
        assert_eq!(open_plain(cache, &id), None);
        subject.assert_used(0);
    });
    every_directory(|directory, naming| {
        let cache = open(directory, naming);
        let id = stores::id_of(b"never", Compression::None);
        let mut transaction = cache.begin(&id, &ObjectMeta::default()).unwrap();
        transaction.write(b"never").unwrap();
        drop(transaction);
        for place in ["objects", "txn"] {
            assert_eq!(files(&directory.join("v2").join(place)), [] as [&Path; 0]);
        }
    });
}

#[test]
fn a_proof_of_something_else_is_refused() {
    every_store(|subject| {
        let cache = subject.cache;
        let (right, wrong) = (stored(b"right"), stored(b"wrong"));
        let id = subject.id_of(&right, Compression::Zlib);
        let other = subject.id_of(&wrong, Compression::Zlib);

        let mut transaction = begin(cache, id, &wrong);
        transaction.write(b"wrong").unwrap();
        let error = transaction.commit(proof(other, &wrong).1).unwrap_err();
        assert!(
            matches!(error, CacheError::WrongBody { expected, body } if expected == id && body == other),
            "{error:?}"
        );

        for written in [&b"righ"[..], b"rightly"] {
            let mut transaction = begin(cache, id, &right);
            transaction.write(written).unwrap();
            let error = transaction.commit(proof(id, &right).1).unwrap_err();
            let sizes = (written.len() as u64, 5);
            assert!(
                matches!(error, CacheError::WrongSize { written, checked, .. } if (written, checked) == sizes),
                "{error:?}"
            );
        }
        assert_eq!(open_plain(cache, &id), None);
        subject.assert_used(0);
    });
}

#[test]
fn transactions_for_one_object_do_not_disturb_each_other() {
    every_store(|subject| {
        let cache = subject.cache;
        let body = stored(b"the same");
        let id = subject.id_of(&body, Compression::Zlib);
        let mut first = begin(cache, id, &body);
        let mut second = begin(cache, id, &body);
        let third = begin(cache, id, &body);
        first.write(b"the ").unwrap();
        second.write(b"the same").unwrap();
        first.write(b"same").unwrap();
        assert_eq!(read(&first.commit(proof(id, &body).1).unwrap()), b"the same");
        drop(third);
        assert_eq!(read(&second.commit(proof(id, &body).1).unwrap()), b"the same");
        assert_eq!(open_plain(cache, &id).as_deref(), Some(&b"the same"[..]));
        subject.assert_used(8);
    });
}

#[test]
fn threads_commit_and_discard_the_same_objects() {
    every_store(|subject| {
        let cache = subject.cache;
        let bodies: Vec<_> = (0..20u8).map(|n| stored(&[n; 5000])).collect();
        let start = Barrier::new(4);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (bodies, start) = (&bodies, &start);
                scope.spawn(move || {
                    start.wait();
                    for (n, body) in (0u8..).zip(bodies) {
                        let id = subject.id_of(body, Compression::Zlib);
                        assert_eq!(read(&commit(cache, id, body)), [n; 5000]);
                        if thread == 0 {
                            cache.discard(&id).unwrap();
                        }
                        if let Some(found) = open_plain(cache, &id) {
                            assert_eq!(found, [n; 5000]);
                        }
                    }
                });
            }
        });
    });
}

#[test]
fn a_discarded_object_is_gone_and_still_readable_where_it_is_open() {
    every_store(|subject| {
        let cache = subject.cache;
        let body = stored(b"short lived");
        let id = subject.id_of(&body, Compression::Zlib);
        let committed = commit(cache, id, &body);
        let opened = cache.open(&id).unwrap().unwrap();
        cache.discard(&id).unwrap();
        match open_plain(cache, &id) {
            Some(found) => assert!(!subject.believes && found == b"short lived"),
            None => assert!(subject.believes),
        }
        for object in [&committed, &opened] {
            assert_eq!(read(object), b"short lived");
            let mut buffer = [0; 20];
            assert_eq!(object.read_at(&mut buffer, 6).unwrap(), 5);
            assert_eq!(&buffer[..5], b"lived");
        }
        cache.discard(&id).unwrap();
        assert_eq!(read(&commit(cache, id, &body)), b"short lived");
    });
}
