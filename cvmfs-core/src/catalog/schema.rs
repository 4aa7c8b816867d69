//! Which of the published schema versions a catalog has (spec/format.md section 10.2).

use rusqlite::Connection;

use super::CatalogError;

/// Versions are floating point in text; upstream compares with this tolerance.
const TOLERANCE: f64 = 0.0005;

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
    /// Reads version and columns. Columns decide, because upgraded catalogs exist; the version
    /// only says whether we know the meaning.
    pub(super) fn read(connection: &Connection, version: f64) -> Result<Self, CatalogError> {
        if ![2.4, 2.5].iter().any(|known: &f64| (known - version).abs() < TOLERANCE) {
            return Err(CatalogError::SchemaVersion(version.to_string()));
        }
        let catalog = columns(connection, "catalog")?;
        for needed in [
            "md5path_1",
            "md5path_2",
            "parent_1",
            "parent_2",
            "hardlinks",
            "hash",
            "size",
            "mode",
            "mtime",
            "flags",
            "name",
            "symlink",
            "uid",
            "gid",
        ] {
            if !catalog.iter().any(|column| column == needed) {
                return Err(CatalogError::MissingColumn { table: "catalog", column: needed });
            }
        }
        let nested = columns(connection, "nested_catalogs")?;
        if !nested.iter().any(|column| column == "sha1") {
            return Err(CatalogError::MissingColumn { table: "nested_catalogs", column: "sha1" });
        }
        Ok(Self {
            has_xattr: catalog.iter().any(|column| column == "xattr"),
            has_mtimens: catalog.iter().any(|column| column == "mtimens"),
            has_nested_size: nested.iter().any(|column| column == "size"),
            has_bind_mountpoints: !columns(connection, "bind_mountpoints")?.is_empty(),
            has_statistics: !columns(connection, "statistics")?.is_empty(),
        })
    }
}

/// Lists the stored columns of a table; generated ones are refused, they are programs.
fn columns(connection: &Connection, table: &str) -> Result<Vec<String>, CatalogError> {
    let mut statement = connection.prepare("SELECT name, hidden FROM pragma_table_xinfo(?1)")?;
    let mut rows = statement.query([table])?;
    let mut names = Vec::new();
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(1)? != 0 {
            return Err(CatalogError::ForbiddenSchema {
                kind: "generated column".to_owned(),
                name: table.to_owned(),
            });
        }
        names.push(row.get(0)?);
    }
    Ok(names)
}
