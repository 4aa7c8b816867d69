use bytes::Bytes;

use super::*;
use crate::decode::{SizeBound, decode_all};
use crate::object::{ObjectId, ObjectKind};

fn genuine() -> CachedObject {
    let hash = "1843979ff7a407d3ff1c855a9b4d81b59e59a8e6".parse().unwrap();
    let stored = include_bytes!("../testdata/small.history.z");
    let id = ObjectId::zlib(hash, ObjectKind::History);
    CachedObject::from_memory(decode_all(id, stored, SizeBound::AtMost(1 << 20)).unwrap().0.into())
}

fn fqrn(name: &str) -> Fqrn {
    name.parse().unwrap()
}

/// A database with the given statements in it.
fn made(statements: &str) -> Result<History, HistoryError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history");
    Connection::open(&path).unwrap().execute_batch(statements).unwrap();
    let object = CachedObject::from_memory(Bytes::from(std::fs::read(path).unwrap()));
    History::open(&object, &fqrn("a.b"), &Budget::long())
}

const HASH: &str = "ac01b34756e41694e91a7fdb80489ed2bb2ea189";

#[test]
fn genuine_tags() {
    let history = History::open(&genuine(), &fqrn("small.test.repo"), &Budget::long()).unwrap();
    let third = history.by_name("third", &Budget::long()).unwrap().unwrap();
    let expected = Tag {
        name: "third".to_owned(),
        root_catalog: HASH.parse().unwrap(),
        revision: 4,
        timestamp: 1_795_462_641,
        description: "third".to_owned(),
        size: Some(487_424),
    };
    assert_eq!(third, expected);
    assert_eq!(history.by_name("fourth", &Budget::long()).unwrap(), None);
    assert_eq!(history.by_name("' OR ''='", &Budget::long()).unwrap(), None);
    let names: Vec<String> =
        history.tags(&Budget::long()).unwrap().into_iter().map(|tag| tag.name).collect();
    let all =
        ["third", "trunk", "second", "trunk-previous", "first", "generic-2026-11-23T19:37:16Z"];
    assert_eq!(names, all);
    for (date, revision) in [
        (1_795_462_635, None),
        (1_795_462_636, Some(1)),
        (1_795_462_638, Some(1)),
        (1_795_462_640, Some(3)),
        (i64::MAX, Some(4)),
        (i64::MIN, None),
    ] {
        let tag = history.by_date(date, &Budget::long()).unwrap();
        assert_eq!(tag.map(|tag| tag.revision), revision, "{date}");
    }
}

#[test]
fn of_another_repository() {
    let error = History::open(&genuine(), &fqrn("other.test.repo"), &Budget::long()).unwrap_err();
    assert_eq!(error.to_string(), "tag database is of \"small.test.repo\" and not other.test.repo");
    let error = made("CREATE TABLE properties (key TEXT, value TEXT);").unwrap_err();
    assert_eq!(error.to_string(), "tag database is of \"\" and not a.b");
}

#[test]
fn old_schema_revisions() {
    let properties = "CREATE TABLE properties (key TEXT, value TEXT);
        INSERT INTO properties VALUES ('fqrn', 'a.b');";
    let zero = made(&format!(
        "{properties} CREATE TABLE tags (name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER,
            channel INTEGER, description TEXT);
        INSERT INTO tags VALUES ('old', '{HASH}-rmd160', 7, -5, 0, NULL);"
    ))
    .unwrap();
    let tag = zero.by_date(0, &Budget::long()).unwrap().unwrap();
    assert_eq!((tag.revision, tag.timestamp, tag.size), (7, -5, None));
    assert_eq!(tag.description, "");
    assert_eq!(tag.root_catalog.to_string(), format!("{HASH}-rmd160"));

    let three = made(&format!(
        "{properties} INSERT INTO properties VALUES ('schema_revision', 3);
        CREATE TABLE tags (name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER,
            channel INTEGER, description TEXT, size INTEGER, branch TEXT);
        INSERT INTO tags VALUES ('trunk', '{HASH}', 8, 10, 0, 'x', 0, '');
        INSERT INTO tags VALUES ('side', '{HASH}', 9, 10, 0, 'x', 5, 'mine');"
    ))
    .unwrap();
    assert_eq!(three.by_date(10, &Budget::long()).unwrap().unwrap().name, "trunk");
    assert_eq!(three.by_name("side", &Budget::long()).unwrap().unwrap().size, Some(5));
    assert_eq!(three.tags(&Budget::long()).unwrap().len(), 2);
}

#[test]
fn hostile_databases() {
    let error = History::open(
        &CachedObject::from_memory(Bytes::from_static(b"no database")),
        &fqrn("a.b"),
        &Budget::long(),
    );
    assert!(error.is_err());
    let error =
        History::open(&CachedObject::from_memory(Bytes::new()), &fqrn("a.b"), &Budget::long());
    assert!(error.is_err());

    let tags = "CREATE TABLE properties (key TEXT, value TEXT);
        INSERT INTO properties VALUES ('fqrn', 'a.b'), ('schema_revision', '2');
        CREATE TABLE tags (name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER, channel INTEGER,
            description TEXT, size INTEGER);";
    for (row, message) in [
        (format!("'t', '{HASH}', -1, 0, 0, '', 0"), "tag \"t\" has a negative revision"),
        (format!("'t', '{HASH}', 1, 0, 0, '', -1"), "tag \"t\" has a negative size"),
        (
            "'t', 'd41d8cd98f00b204e9800998ecf8427e', 1, 0, 0, '', 0".to_owned(),
            "tag \"t\" names no root catalog",
        ),
        ("'t', NULL, 1, 0, 0, '', 0".to_owned(), "cannot read the tag database"),
        (format!("'t', '{HASH}', 'x', 0, 0, '', 0"), "cannot read the tag database"),
        (format!("'t', '{HASH}', 1, 0, 0, x'ff', 0"), "cannot read the tag database"),
    ] {
        let history = made(&format!("{tags} INSERT INTO tags VALUES ({row});")).unwrap();
        assert_eq!(
            history.by_name("t", &Budget::long()).unwrap_err().to_string(),
            message,
            "{row}"
        );
        assert!(history.tags(&Budget::long()).is_err(), "{row}");
    }
    let history = made(
        "CREATE TABLE properties (key TEXT, value TEXT);
        INSERT INTO properties VALUES ('fqrn', 'a.b');",
    )
    .unwrap();
    assert_eq!(
        history.by_name("t", &Budget::long()).unwrap_err().to_string(),
        "cannot read the tag database"
    );
}

#[test]
fn h5_a_tag_database_that_is_a_program_is_refused() {
    let properties = "CREATE TABLE properties (key TEXT, value TEXT);
        INSERT INTO properties VALUES ('fqrn', 'a.b'), ('schema_revision', '3');";
    let tags = "name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER, channel INTEGER,
        description TEXT, size INTEGER, branch TEXT";
    for (what, statements) in [
        (
            "generated properties",
            "CREATE TABLE properties (key TEXT, v TEXT, value TEXT AS (v));
             INSERT INTO properties VALUES ('fqrn', 'a.b');"
                .to_owned(),
        ),
        (
            "generated tags",
            format!("{properties} CREATE TABLE tags ({tags}, x TEXT AS (name || name));"),
        ),
        ("a view", format!("{properties} CREATE VIEW tags AS SELECT * FROM properties;")),
        (
            "a function elsewhere",
            format!("{properties} CREATE TABLE x (a, b AS (instr(hex(a), 'x')));"),
        ),
        (
            "statistics",
            format!(
                "{properties} CREATE TABLE tags ({tags}); CREATE INDEX i ON tags (name);
                     INSERT INTO tags (name) VALUES ('t'); ANALYZE;"
            ),
        ),
    ] {
        let refused = made(&statements);
        assert!(matches!(refused, Err(HistoryError::Open(_))), "{what}: {refused:?}");
    }
    let long = made(&format!(
        "{properties} CREATE TABLE tags ({tags});
         INSERT INTO tags VALUES ('t', '{HASH}', 1, 0, 0, hex(zeroblob(100000)), 0, '');"
    ))
    .unwrap();
    let error = long.by_name("t", &Budget::long()).unwrap_err();
    assert_eq!(error.to_string(), "tag database has a description of 200000 bytes");
}

#[test]
fn h6_all_tags_are_looked_at_within_the_budget() {
    let history = made(&format!(
        "CREATE TABLE properties (key TEXT, value TEXT);
         INSERT INTO properties VALUES ('fqrn', 'a.b');
         CREATE TABLE tags (name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER,
            channel INTEGER, description TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150000)
            INSERT INTO tags SELECT 't' || i, '{HASH}', i, i, 0, '' FROM n;"
    ))
    .unwrap();
    assert!(matches!(history.tags(&Budget::long()), Err(HistoryError::TooMany)));
    assert_eq!(history.by_date(140_000, &Budget::long()).unwrap().unwrap().revision, 140_000);
    let brief = history.by_date(140_000, &Budget::brief()).unwrap_err();
    assert!(matches!(brief, HistoryError::Open(_) | HistoryError::Database(_)), "{brief}");
}
