//! The schema of a database, judged by what SQLite made of it, and the versions that are read
//! (spec/format.md section 10.2).
//!
//! The text of a schema is never looked at: two texts can mean the same, and a row of `sqlite_schema` may say one
//! thing and hold another. `pragma table_list`, `table_xinfo`, `index_list` and `index_xinfo` show the tables as
//! SQLite parsed them, which is what statements will use. Tables that are not described in [`super::tables`] are
//! tolerated if they are plain tables: nothing may read them.

use rusqlite::{Connection, Row};

use super::CatalogError;
use super::tables::{Index, Table};

/// Versions are floating point in text; upstream compares with this tolerance.
const TOLERANCE: f64 = 0.0005;
/// Names of the row number, which a column must not take: statements mean the number.
const ROW_NUMBERS: [&str; 3] = ["rowid", "oid", "_rowid_"];
/// Beginning of the names of the tables from which SQLite itself reads how to plan statements.
const STATISTICS: &str = "sqlite_stat";
/// Column number of an expression in `index_xinfo`.
const EXPRESSION: i64 = -2;

/// What differs between the versions we read: 2.4, and 2.5 in any revision.
#[derive(Debug, Clone)]
pub(super) struct Schema {
    pub(super) has_xattr: bool,
    pub(super) has_mtimens: bool,
    pub(super) has_nested_size: bool,
    pub(super) has_bind_mountpoints: bool,
    pub(super) has_statistics: bool,
}

impl Schema {
    /// Tells what a catalog of this version has. Columns decide, because upgraded catalogs exist; the
    /// version only says whether we know the meaning.
    pub(super) fn read(found: &Found, version: f64) -> Result<Self, CatalogError> {
        if ![2.4, 2.5].iter().any(|known: &f64| (known - version).abs() < TOLERANCE) {
            return Err(CatalogError::SchemaVersion(version.to_string()));
        }
        Ok(Self {
            has_xattr: found.has("catalog", "xattr"),
            has_mtimens: found.has("catalog", "mtimens"),
            has_nested_size: found.has("nested_catalogs", "size"),
            has_bind_mountpoints: found.has_table("bind_mountpoints"),
            has_statistics: found.has_table("statistics"),
        })
    }
}

/// The described tables that a database has, with all their columns.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found(Vec<(&'static str, Vec<String>)>);

impl Found {
    fn has_table(&self, table: &str) -> bool {
        self.columns(table).is_some()
    }

    pub(crate) fn has(&self, table: &str, column: &str) -> bool {
        let columns = self.columns(table).unwrap_or_default();
        columns.iter().any(|known| known.eq_ignore_ascii_case(column))
    }

    fn columns(&self, table: &str) -> Option<&[String]> {
        self.0.iter().find(|(name, _)| *name == table).map(|(_, columns)| columns.as_slice())
    }
}

/// Compares a database with the description of its tables.
pub(super) fn judge(connection: &Connection, tables: &[Table]) -> Result<Found, CatalogError> {
    let names = plain_tables(connection)?;
    let mut found = Found::default();
    for table in tables {
        if !names.iter().any(|name| name.eq_ignore_ascii_case(table.name)) {
            if table.may_lack {
                continue;
            }
            return Err(CatalogError::MissingTable(table.name));
        }
        let columns = plain_columns(connection, table)?;
        judge_indexes(connection, table)?;
        found.0.push((table.name, columns));
    }
    Ok(found)
}

/// Returns the names of all tables; anything else is refused.
fn plain_tables(connection: &Connection) -> Result<Vec<String>, CatalogError> {
    // What honest databases say of themselves, for a message that names the object.
    let mut statement = connection.prepare("SELECT type, name FROM sqlite_schema")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let kind = text(row, 0)?;
        if kind != "table" && kind != "index" {
            return Err(forbidden(&kind, &text(row, 1)?));
        }
    }
    // What SQLite says of them.
    let mut names = Vec::new();
    let mut statement = connection.prepare("PRAGMA main.table_list")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (name, kind) = (text(row, "name")?, text(row, "type")?);
        if kind != "table" {
            return Err(forbidden(&kind, &name));
        }
        if name.to_ascii_lowercase().starts_with(STATISTICS) {
            return Err(forbidden("table of statistics", &name));
        }
        names.push(name);
    }
    Ok(names)
}

/// Returns the columns of a table, all of which must be stored; unknown ones are tolerated, since revisions of
/// the schema add some.
fn plain_columns(connection: &Connection, table: &Table) -> Result<Vec<String>, CatalogError> {
    let mut statement = connection.prepare(&format!("PRAGMA main.table_xinfo({})", table.name))?;
    let mut rows = statement.query([])?;
    let mut names = Vec::new();
    while let Some(row) = rows.next()? {
        let name = text(row, "name")?;
        if row.get::<_, i64>("hidden")? != 0 {
            return Err(forbidden("generated column", &format!("{}.{name}", table.name)));
        }
        if ROW_NUMBERS.iter().any(|number| name.eq_ignore_ascii_case(number)) {
            return Err(forbidden("column in place of the row number", table.name));
        }
        names.push(name);
    }
    for needed in table.needed {
        if !names.iter().any(|name| name.eq_ignore_ascii_case(needed)) {
            return Err(CatalogError::MissingColumn { table: table.name, column: needed });
        }
    }
    Ok(names)
}

/// Refuses indexes that are programs, tables without row numbers, and tables without the indexes of their questions.
fn judge_indexes(connection: &Connection, table: &Table) -> Result<(), CatalogError> {
    let mut statement = connection.prepare(&format!("PRAGMA main.table_list({})", table.name))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>("wr")? != 0 {
            return Err(forbidden("table without row numbers", table.name));
        }
    }
    let mut indexes = Vec::new();
    let mut statement = connection.prepare(&format!("PRAGMA main.index_list({})", table.name))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let name = text(row, "name")?;
        if row.get::<_, i64>("partial")? != 0 {
            return Err(forbidden("partial index", &name));
        }
        indexes.push(name);
    }
    let mut keys = Vec::new();
    for name in indexes {
        let quoted = name.replace('"', "\"\"");
        let mut statement =
            connection.prepare(&format!("PRAGMA main.index_xinfo(\"{quoted}\")"))?;
        let mut rows = statement.query([])?;
        let mut key = Vec::new();
        while let Some(row) = rows.next()? {
            if row.get::<_, i64>("cid")? == EXPRESSION {
                return Err(forbidden("index of an expression", &name));
            }
            let is_plain = row.get::<_, i64>("desc")? == 0 && text(row, "coll")? == "BINARY";
            key.push(if is_plain { text(row, "name")? } else { String::new() });
        }
        keys.push((name, key));
    }
    for needed in table.indexes {
        if !keys.iter().any(|(name, key)| is_index(needed, name, key)) {
            return Err(CatalogError::MissingIndex { table: table.name, columns: needed.columns });
        }
    }
    Ok(())
}

fn is_index(needed: &Index, name: &str, key: &[String]) -> bool {
    needed.name.is_none_or(|needed| needed.eq_ignore_ascii_case(name))
        && key.len() >= needed.columns.len()
        && key
            .iter()
            .zip(needed.columns)
            .all(|(column, needed)| column.eq_ignore_ascii_case(needed))
}

fn forbidden(kind: &str, name: &str) -> CatalogError {
    CatalogError::ForbiddenSchema {
        kind: kind.escape_debug().to_string(),
        name: name.escape_debug().to_string(),
    }
}

/// Returns a column as text, empty for NULL and for anything else.
fn text(row: &Row<'_>, column: impl rusqlite::RowIndex) -> rusqlite::Result<String> {
    let value = row.get_ref(column)?;
    Ok(value
        .as_bytes_or_null()
        .ok()
        .flatten()
        .map_or_else(String::new, |bytes| String::from_utf8_lossy(bytes).into_owned()))
}
