//! Repositories of any size whose files share one content.

use std::path::Path;

use fixtures::publish::{Content, Published, TestRepo};

/// Name of the repository.
pub const FQRN: &str = "scale.test.repo";
/// Files of a directory.
const FILES: usize = 1000;
/// Directories with files that one catalog has, as publishers cut large trees.
const DIRECTORIES: usize = 10;
/// What every file holds: a page of text compresses to one small object.
const LINE: &str = "the same in every file of this tree\n";

/// A tree with so many files.
#[derive(Debug, Clone, Copy)]
pub struct Tree {
    /// Number of its files.
    pub files: usize,
}

impl Tree {
    /// Path of a file below the root, without a slash in front.
    pub fn file(self, number: usize) -> String {
        format!("{}/f{:03}", self.directory(number / FILES), number % FILES)
    }

    /// Path of a directory with files.
    pub fn directory(self, number: usize) -> String {
        format!("g{:04}/d{}", number / DIRECTORIES, number % DIRECTORIES)
    }

    /// How many directories have files.
    pub fn directories(self) -> usize {
        self.files.div_ceil(FILES)
    }

    /// Returns what every file holds.
    pub fn content() -> String {
        LINE.repeat(60)
    }

    /// Publishes it below a directory.
    pub fn publish(self, site: &Path) -> Published {
        let mut repo = TestRepo::new(FQRN);
        repo.directory(site).ttl(3600);
        let content = Content::from(Self::content());
        for number in 0..self.files {
            repo.file(format!("/{}", self.file(number)), content.clone());
        }
        for group in 0..self.directories().div_ceil(DIRECTORIES) {
            repo.nested(format!("/g{group:04}"));
        }
        repo.publish()
    }
}
