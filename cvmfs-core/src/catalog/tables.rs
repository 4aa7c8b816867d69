//! Tables that are read of the databases of a repository: which columns, and by which index.
//!
//! The same description is what a database is compared with when it is opened ([`super::schema`]), and what the
//! authorizer of its connection lets through for as long as it lives ([`super::sql`]).

/// Row number, under the name by which SQLite asks the authorizer for it.
pub(super) const ROW_NUMBER: &str = "ROWID";

/// A table and what is read of it.
#[derive(Debug)]
pub struct Table {
    /// Name of the table.
    pub(super) name: &'static str,
    /// Columns that every supported version has.
    pub(super) needed: &'static [&'static str],
    /// Columns that some supported versions have.
    pub(super) optional: &'static [&'static str],
    /// Indexes by which rows are found, so that no question looks at all rows.
    pub(super) indexes: &'static [Index],
    /// Whether versions without the table are supported.
    pub(super) may_lack: bool,
}

/// An index that must be there.
#[derive(Debug)]
pub(super) struct Index {
    /// Name of the index, where statements name it.
    pub(super) name: Option<&'static str>,
    /// First columns of the index, in this order.
    pub(super) columns: &'static [&'static str],
}

/// Index by which directories are listed; named in the statement.
pub(super) const PARENT_INDEX: &str = "idx_catalog_parent";

/// Tables of a file catalog, schema 2.4 and 2.5 (spec/format.md section 10).
pub(super) static CATALOG: [Table; 6] = [
    Table {
        name: "properties",
        needed: &["key", "value"],
        optional: &[],
        indexes: &[],
        may_lack: false,
    },
    Table {
        name: "catalog",
        needed: &[
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
        ],
        optional: &["mtimens", "xattr", ROW_NUMBER],
        indexes: &[
            Index { name: None, columns: &["md5path_1", "md5path_2"] },
            Index { name: Some(PARENT_INDEX), columns: &["parent_1", "parent_2"] },
        ],
        may_lack: false,
    },
    Table {
        name: "chunks",
        needed: &["md5path_1", "md5path_2", "offset", "size", "hash"],
        optional: &[],
        indexes: &[Index { name: None, columns: &["md5path_1", "md5path_2", "offset", "size"] }],
        may_lack: false,
    },
    Table {
        name: "nested_catalogs",
        needed: &["path", "sha1"],
        optional: &["size"],
        indexes: &[Index { name: None, columns: &["path"] }],
        may_lack: false,
    },
    Table {
        name: "bind_mountpoints",
        needed: &["path", "sha1", "size"],
        optional: &[],
        indexes: &[Index { name: None, columns: &["path"] }],
        may_lack: true,
    },
    Table {
        name: "statistics",
        needed: &["counter", "value"],
        optional: &[],
        indexes: &[],
        may_lack: true,
    },
];

/// Tables of a tag database (spec/format.md section 21). They are short and read from end to end.
pub(crate) static HISTORY: [Table; 2] = [
    Table {
        name: "properties",
        needed: &["key", "value"],
        optional: &[],
        indexes: &[],
        may_lack: false,
    },
    Table {
        name: "tags",
        needed: &["name", "hash", "revision", "timestamp", "description"],
        optional: &["size", "branch"],
        indexes: &[],
        may_lack: true,
    },
];

impl Table {
    /// Tells whether statements read this column. SQLite compares names without regard to case.
    pub(super) fn is_read(&self, column: &str) -> bool {
        self.needed.iter().chain(self.optional).any(|read| read.eq_ignore_ascii_case(column))
    }
}
