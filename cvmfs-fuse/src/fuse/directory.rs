//! Directory listings, written straight into the reply.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use fuser::{FileAttr, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::attributes::{file_attr, file_type, negative_attr};
use crate::fs::{DirectoryReplier, ListedEntry};

/// Names and types only.
#[derive(Debug)]
pub struct PlainListing(pub Option<ReplyDirectory>);

impl DirectoryReplier for PlainListing {
    fn wants_attributes(&self) -> bool {
        false
    }

    fn add(&mut self, entry: ListedEntry<'_>) -> bool {
        let Some(reply) = &mut self.0 else { return true };
        reply.add(
            INodeNo(entry.ino),
            entry.offset,
            file_type(entry.kind),
            OsStr::from_bytes(entry.name),
        )
    }

    fn finish(&mut self) {
        if let Some(reply) = self.0.take() {
            reply.ok();
        }
    }
}

/// Names with attributes, each a lookup the kernel need not do.
#[derive(Debug)]
pub struct PlusListing(pub Option<ReplyDirectoryPlus>);

impl DirectoryReplier for PlusListing {
    fn wants_attributes(&self) -> bool {
        true
    }

    fn add(&mut self, entry: ListedEntry<'_>) -> bool {
        let (ttl, attr) = match entry.entry {
            Some(found) => (found.ttl, file_attr(&found.attributes)),
            // "." and "..": the kernel takes number and type, and no reference
            // (fs/fuse/readdir.c, fuse_direntplus_link).
            None => (Duration::ZERO, bare_attr(&entry)),
        };
        let Some(reply) = &mut self.0 else { return true };
        reply.add(
            INodeNo(entry.ino),
            entry.offset,
            OsStr::from_bytes(entry.name),
            &ttl,
            &attr,
            Generation(0),
        )
    }

    fn finish(&mut self) {
        if let Some(reply) = self.0.take() {
            reply.ok();
        }
    }
}

fn bare_attr(entry: &ListedEntry<'_>) -> FileAttr {
    FileAttr { ino: INodeNo(entry.ino), kind: file_type(entry.kind), ..negative_attr() }
}
