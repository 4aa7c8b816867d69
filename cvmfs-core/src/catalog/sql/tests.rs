use std::fs::File;

use super::*;

/// Chaos found it: the file went between the look and the opening, and readers had EIO.
#[test]
fn a_catalog_that_is_evicted_or_replaced_while_it_is_opened_is_read_all_the_same() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("object");
    let make = |path: &Path, value: &str| {
        let connection = Connection::open(path).unwrap();
        connection.execute_batch(&format!("CREATE TABLE t AS SELECT '{value}' AS v")).unwrap();
    };
    let other = scratch.path().join("other");
    make(&other, "another");
    let evict = || std::fs::remove_file(&path).unwrap();
    let replace = || std::fs::rename(&other, &path).unwrap();
    for meanwhile in [&evict as &dyn Fn(), &replace] {
        make(&path, "right");
        let file = File::open(&path).unwrap();
        let len = file.metadata().unwrap().len();
        let object = CachedObject::from_file(file, len, Some(path.clone()));
        let is_there = || is_still_there(&path, &object);
        let opened = open_there(
            &object,
            is_there,
            || {
                meanwhile();
                open_file(&path)
            },
            &Budget::long(),
        );
        let value: String =
            opened.unwrap().connection.query_row("SELECT v FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(value, "right");
    }
}

/// Rows of the schema are written directly: this SQLite has no module that would make a virtual table.
fn schema_row(kind: &str, name: &str, page: u32, sql: &str) -> String {
    let sql = sql.replace('\'', "''");
    format!(
        "PRAGMA writable_schema=ON;
         INSERT INTO sqlite_schema VALUES ('{kind}', '{name}', '{name}', {page}, '{sql}');"
    )
}

/// A catalog as servers make it, changed by some statements.
fn changed(statements: &str) -> CachedObject {
    let mut repo = fixtures::publish::TestRepo::new("sql.test.repo");
    repo.file("/f", b"x");
    repo.nested("/n");
    repo.sql("", statements);
    super::super::tests::root_catalog(&repo.publish())
}

fn open(object: &CachedObject) -> Result<Database, CatalogError> {
    open_database(object, &super::super::tables::CATALOG, &Budget::long())
}

#[test]
fn h5_schemas_that_are_programs_are_refused_however_they_are_written() {
    let program = "instr(hex(zeroblob(4000000)), hex(zeroblob(2000000)) || 'x')";
    let chunks =
        |definition: &str| format!("DROP TABLE chunks; CREATE TABLE chunks ({definition});");
    let columns = "md5path_1 INTEGER, md5path_2 INTEGER, offset INTEGER, size INTEGER";
    let key = "PRIMARY KEY (md5path_1, md5path_2, offset, size)";
    let virtual_chunks =
        |sql: &str| format!("DROP TABLE chunks; {}", schema_row("table", "chunks", 0, sql));
    for (what, statements) in [
        ("two spaces", virtual_chunks("CREATE  VIRTUAL TABLE chunks USING fts5(offset)")),
        ("a comment", virtual_chunks("CREATE/**/VIRTUAL TABLE chunks USING fts4(offset)")),
        ("another table", schema_row("table", "x", 0, "CREATE VIRTUAL TABLE x USING rtree(a,b,c)")),
        ("a page", schema_row("table", "x", 2, "CREATE  VIRTUAL TABLE x USING json_each")),
        ("a view", "CREATE VIEW v AS SELECT 1".to_owned()),
        ("a view as a table", schema_row("table", "v", 0, "CREATE VIEW v AS SELECT 1")),
        ("a trigger", "CREATE TRIGGER t INSERT ON catalog BEGIN SELECT 1; END".to_owned()),
        (
            "properties",
            "DROP TABLE properties; CREATE TABLE properties (key TEXT, v TEXT, value TEXT AS (v || v))"
                .to_owned(),
        ),
        ("chunks", chunks(&format!("{columns}, h BLOB, hash BLOB AS (h), {key}"))),
        ("a stored column", chunks(&format!("{columns}, h BLOB, hash BLOB AS (h) STORED, {key}"))),
        ("a function", chunks(&format!("{columns}, hash BLOB AS ({program}), {key}"))),
        ("a function elsewhere", format!("CREATE TABLE x (a, b AS ({program}))")),
        ("a function in a check", format!("CREATE TABLE x (a CHECK ({program}))")),
        ("a function in a default", format!("CREATE TABLE x (a DEFAULT ({program}))")),
        ("a pattern", "CREATE TABLE x (a, b AS (a LIKE '%a%a%a%'))".to_owned()),
        ("an arrow", schema_row("table", "x", 2, "CREATE TABLE x (a, b AS (a -> 'b'))")),
        ("an index of an expression", "CREATE INDEX x ON catalog (size + 1)".to_owned()),
        ("a part of an index", "CREATE INDEX x ON catalog (size) WHERE size > 0".to_owned()),
        ("statistics", "ANALYZE".to_owned()),
        ("no index of parents", "DROP INDEX idx_catalog_parent".to_owned()),
        (
            "another order",
            "DROP INDEX idx_catalog_parent; CREATE INDEX idx_catalog_parent ON catalog (parent_2, parent_1)"
                .to_owned(),
        ),
        (
            "falling order",
            "DROP INDEX idx_catalog_parent; CREATE INDEX idx_catalog_parent ON catalog (parent_1 DESC, parent_2)"
                .to_owned(),
        ),
        ("no key", chunks(&format!("{columns}, hash BLOB"))),
        ("no row numbers", chunks(&format!("{columns}, hash BLOB, {key}) WITHOUT ROWID; --"))),
        ("a row number of its own", chunks(&format!("{columns}, hash BLOB, rowid INTEGER, {key}"))),
        ("a long text", format!("CREATE TABLE x (a /* {} */)", " ".repeat(5000))),
        ("many tables", (0..2000).map(|n| format!("CREATE TABLE x{n} (a);")).collect()),
    ] {
        assert!(open(&changed(&statements)).is_err(), "{what} was accepted");
    }
    // What nothing reads does no harm, and a later schema may have it.
    for harmless in [
        "CREATE TABLE x (a, b)",
        "ALTER TABLE catalog ADD COLUMN x INTEGER",
        "CREATE INDEX x ON catalog (size)",
    ] {
        open(&changed(harmless)).unwrap();
    }
}

#[test]
fn h5_the_authorizer_lets_nothing_through_but_the_reads_that_we_make() {
    let object = changed("CREATE TABLE x (a); INSERT INTO x VALUES (1)");
    let database = open(&object).unwrap();
    let run = |sql: &str| -> Result<(), CatalogError> {
        database.ask(&Budget::long(), |connection| {
            let mut statement = connection.prepare(sql)?;
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
            Ok(())
        })
    };
    for allowed in [
        "SELECT name, rowid FROM catalog",
        "SELECT key, value FROM properties",
        "SELECT path FROM (SELECT path FROM nested_catalogs) LIMIT 1",
    ] {
        run(allowed).unwrap();
    }
    for refused in [
        "SELECT a FROM x",
        "SELECT count(*) FROM catalog",
        "SELECT 1 FROM catalog",
        "SELECT random()",
        "SELECT sqlite_version()",
        "SELECT name LIKE 'a' FROM catalog",
        "SELECT type FROM sqlite_schema",
        "SELECT name FROM pragma_table_info('catalog')",
        "SELECT value FROM json_each('[1]')",
        "PRAGMA table_list",
        "PRAGMA cache_size=1000000",
        "PRAGMA hard_heap_limit=1",
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n FROM r LIMIT 3",
        "ATTACH ':memory:' AS y",
        "CREATE TEMP TABLE y (a)",
        "DELETE FROM catalog",
        "BEGIN",
    ] {
        assert!(run(refused).is_err(), "{refused} was allowed");
    }
}

#[test]
fn h5_sqlite_is_built_without_what_reads_files_as_programs() {
    let connection = Connection::open_in_memory().unwrap();
    let list = |sql: &str| -> Vec<String> {
        let mut statement = connection.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    };
    let options = list("PRAGMA compile_options");
    for part in
        ["FTS3", "FTS4", "FTS5", "RTREE", "GEOPOLY", "STAT4", "DBSTAT_VTAB", "LOAD_EXTENSION"]
    {
        let name = format!("ENABLE_{part}");
        assert!(!options.iter().any(|option| option.starts_with(&name)), "{options:?}");
    }
    for part in ["OMIT_JSON", "OMIT_LOAD_EXTENSION"] {
        assert!(options.iter().any(|option| option == part), "{options:?}");
    }
    let functions = list("SELECT name FROM pragma_function_list");
    for part in ["json", "fts", "rtree", "load_extension", "snippet", "soundex"] {
        assert!(!functions.iter().any(|name| name.starts_with(part)), "{part}");
    }
    // Keys of an index are compared in one piece, whatever a catalog says how long they are.
    let error = connection
        .query_row("SELECT zeroblob(4200000)", [], |_| Ok(()))
        .and_then(|()| connection.query_row("SELECT hex(zeroblob(4200000))", [], |_| Ok(())));
    assert_eq!(error.unwrap_err().sqlite_error_code(), Some(ErrorCode::OutOfMemory));
}
