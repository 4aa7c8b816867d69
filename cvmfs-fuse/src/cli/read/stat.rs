//! `stat`: everything that the catalogs say about an entry.

use std::fmt::Write as _;
use std::io::Write as _;

use cvmfs_core::catalog::{Content, DirectoryEntry, EntryKind};
use cvmfs_core::hash::ContentHash;
use cvmfs_core::object::{Compression, ObjectId};
use cvmfs_core::path::RepoPath;
use cvmfs_core::revision::Revision;
use serde_json::{Value, json};

use super::find::{self, Found};
use super::present::{PERMISSION_BITS, kind_name, long_time, mode_string};
use super::target::Target;
use super::{ReadError, Reader, Stop};
use crate::cli::args::StatArgs;
use crate::escape;

/// Shows every target; a link is shown itself, not what it leads to.
pub(super) async fn run(reader: &mut Reader<'_>, args: &StatArgs) -> Result<(), Stop> {
    for text in &args.targets {
        let (target, revision) = reader.target(text).await?;
        match Facts::gather(&revision, &target).await {
            Err(error) => reader.report(&target, &error),
            Ok(facts) if args.json => writeln!(reader.output, "{}", facts.json(&target))?,
            Ok(facts) => write!(reader.output, "{}", facts.text(&target))?,
        }
    }
    Ok(())
}

/// One piece of content.
struct Piece {
    offset: u64,
    size: u64,
    object: ObjectId,
}

struct Facts {
    entry: std::sync::Arc<DirectoryEntry>,
    /// The object of a whole file, or the chunks.
    pieces: Vec<Piece>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Mountpoint and hash of the catalog that holds the entry.
    catalog: (RepoPath, ContentHash),
    revision: u64,
}

impl Facts {
    async fn gather(revision: &Revision, target: &Target) -> Result<Self, ReadError> {
        let Found { path, entry } = find::find(revision, &target.path, false).await?;
        let pieces = match &entry.content {
            Content::Whole(object) => vec![Piece { offset: 0, size: entry.size, object: *object }],
            Content::Chunked(_) => {
                let chunks = revision.chunks(&path).await?;
                let piece = |chunk: &cvmfs_core::catalog::Chunk| Piece {
                    offset: chunk.offset,
                    size: chunk.size,
                    object: chunk.object,
                };
                chunks.iter().map(piece).collect()
            }
            Content::Broken(_) | Content::None => Vec::new(),
        };
        let xattrs = if entry.has_xattrs {
            let xattrs = revision.xattrs(&path).await?;
            xattrs.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
        } else {
            Vec::new()
        };
        let catalog = revision.catalog_at(&path).await?;
        Ok(Self { entry, pieces, xattrs, catalog, revision: revision.number() })
    }

    fn is_chunked(&self) -> bool {
        matches!(self.entry.content, Content::Chunked(_))
    }

    fn text(&self, target: &Target) -> String {
        let entry = &self.entry;
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let colon = if name.is_empty() { ' ' } else { ':' };
            let _ = writeln!(text, "{name:>9}{colon} {value}");
        };
        line("Path", target.shown());
        if entry.kind == EntryKind::Symlink {
            line("Target", escape::for_terminal(&entry.symlink));
            if entry.raw_symlink != entry.symlink {
                line("Stored as", escape::for_terminal(&entry.raw_symlink));
            }
        }
        line("Type", kind_name(entry.kind).to_owned());
        if let Some((major, minor)) = device(entry) {
            line("Device", format!("{major}, {minor}"));
        }
        line("Size", entry.size.to_string());
        line(
            "Mode",
            format!(
                "{:04o} ({})",
                entry.mode & PERMISSION_BITS,
                mode_string(entry.kind, entry.mode)
            ),
        );
        line("Owner", format!("uid {}, gid {}", entry.uid, entry.gid));
        line("Links", entry.nlink.to_string());
        line("Modified", long_time(entry));
        match &entry.content {
            Content::Whole(object) => {
                line("Hash", object.hash.to_string());
                line("Stored", stored(object.compression).to_owned());
            }
            Content::Chunked(style) => {
                line(
                    "Chunks",
                    format!("{}, stored {}", self.pieces.len(), stored(style.compression)),
                );
                for piece in &self.pieces {
                    let Piece { offset, size, object } = piece;
                    line("", format!("{offset:>12} +{size:<10} {}", object.hash));
                }
            }
            Content::Broken(reason) => line("Content", format!("unusable: {reason}")),
            Content::None => {}
        }
        if entry.external {
            line("Content", "on an external server".to_owned());
        }
        for (name, value) in &self.xattrs {
            line(
                "Xattr",
                format!("{} = {}", escape::for_terminal(name), escape::for_terminal(value)),
            );
        }
        line("Catalog", format!("{} of {}", self.catalog.1, self.catalog.0));
        if entry.nested_mountpoint {
            line("", "a nested catalog is attached here".to_owned());
        }
        line("Revision", self.revision.to_string());
        text
    }

    fn json(&self, target: &Target) -> Value {
        let entry = &self.entry;
        let path: &[u8] = if target.path.is_root() { b"/" } else { target.path.as_bytes() };
        let mut object = json!({
            "fqrn": target.fqrn.as_str(),
            "path": bytes(path),
            "kind": kind_name(entry.kind),
            "mode": format!("{:04o}", entry.mode & PERMISSION_BITS),
            "uid": entry.uid,
            "gid": entry.gid,
            "size": entry.size,
            "mtime": entry.mtime,
            "mtime_ns": entry.mtime_ns,
            "nlink": entry.nlink,
            "nested_mountpoint": entry.nested_mountpoint,
            "catalog": {
                "path": bytes(if self.catalog.0.is_root() { b"/" } else { self.catalog.0.as_bytes() }),
                "hash": self.catalog.1.to_string(),
            },
            "revision": self.revision,
            "xattrs": self.xattrs.iter()
                .map(|(name, value)| json!({ "name": bytes(name), "value": bytes(value) }))
                .collect::<Vec<_>>(),
        });
        let mut set = |name: &str, value: Value| object[name] = value;
        if entry.kind == EntryKind::Symlink {
            set("target", bytes(&entry.symlink));
            set("raw_target", bytes(&entry.raw_symlink));
        }
        if let Some((major, minor)) = device(entry) {
            set("rdev", json!({ "major": major, "minor": minor }));
        }
        match &entry.content {
            Content::Whole(object) => {
                set("hash", object.hash.to_string().into());
                set("compression", stored(object.compression).into());
            }
            Content::Chunked(style) => {
                set("compression", stored(style.compression).into());
            }
            Content::Broken(reason) => set("broken", (*reason).into()),
            Content::None => {}
        }
        if entry.external {
            set("external", true.into());
        }
        if self.is_chunked() {
            let chunk = |piece: &Piece| {
                json!({
                    "offset": piece.offset,
                    "size": piece.size,
                    "hash": piece.object.hash.to_string(),
                })
            };
            set("chunks", self.pieces.iter().map(chunk).collect());
        }
        object
    }
}

fn stored(compression: Compression) -> &'static str {
    match compression {
        Compression::Zlib => "zlib",
        Compression::None => "none",
    }
}

fn device(entry: &DirectoryEntry) -> Option<(u64, u64)> {
    let is_device = matches!(entry.kind, EntryKind::CharDevice | EntryKind::BlockDevice);
    let rdev = u64::from(entry.rdev);
    is_device.then(|| (nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev)))
}

/// Text as a string, other bytes as an object, so that the two cannot be mistaken for each other.
fn bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => {
            let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            });
            json!({ "hex": hex })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_in_json() {
        assert_eq!(bytes("a\nß".as_bytes()), json!("a\nß"));
        assert_eq!(bytes(b"a\xff"), json!({ "hex": "61ff" }));
    }
}
