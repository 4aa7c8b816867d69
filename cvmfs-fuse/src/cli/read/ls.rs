//! `ls`: names, one a line.

use std::io::Write;

use cvmfs_core::catalog::{DirectoryEntry, EntryKind};

use super::present::{mode_string, short_time};
use super::{Output, Reader, Stop, find};
use crate::cli::args::LsArgs;

/// Bytes of the entries of one directory, which are sorted in memory: several million.
const MAX_SORTED: usize = 2 << 30;

/// Lists every target; several get a headline each.
pub(super) async fn run(reader: &mut Reader<'_>, args: &LsArgs) -> Result<(), Stop> {
    let mut first = true;
    for text in &args.targets {
        let (target, revision) = reader.target(text).await?;
        let listed = async {
            let found = match find::find(&revision, &target.path, true).await {
                // A link that leads nowhere is still there to be listed.
                Err(find::FindError::Absent | find::FindError::Outside { .. }) => {
                    find::find(&revision, &target.path, false).await?
                }
                found => found?,
            };
            if found.entry.kind != EntryKind::Directory {
                return Ok((None, found));
            }
            let mut entries = revision.list_up_to(&found.path, MAX_SORTED).await?.to_vec();
            entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            Ok((Some(entries), found))
        };
        match listed.await {
            Err(error) => reader.report(&target, &error),
            Ok((entries, found)) => {
                let output = &mut reader.output;
                if args.targets.len() > 1 && entries.is_some() {
                    let separator = if first { "" } else { "\n" };
                    write!(output, "{separator}")?;
                    output.name(&target.bytes())?;
                    writeln!(output, ":")?;
                }
                match entries {
                    Some(entries) => print(output, &entries, args.long)?,
                    None => {
                        let entry = DirectoryEntry {
                            name: target.bytes().into(),
                            ..DirectoryEntry::clone(&found.entry)
                        };
                        print(output, &[entry.into()], args.long)?;
                    }
                }
            }
        }
        first = false;
    }
    Ok(())
}

fn print(
    output: &mut Output,
    entries: &[std::sync::Arc<DirectoryEntry>],
    long: bool,
) -> std::io::Result<()> {
    if !long {
        for entry in entries {
            output.name(&entry.name)?;
            writeln!(output)?;
        }
        return Ok(());
    }
    let sizes: Vec<_> = entries.iter().map(|entry| size(entry)).collect();
    let width = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or_default();
    let size_width = width(&mut sizes.iter().map(String::len));
    let link_width = width(&mut entries.iter().map(|e| e.nlink.to_string().len()));
    let uid_width = width(&mut entries.iter().map(|e| e.uid.to_string().len()));
    let gid_width = width(&mut entries.iter().map(|e| e.gid.to_string().len()));
    for (entry, size) in entries.iter().zip(sizes) {
        write!(
            output,
            "{} {:>link_width$} {:>uid_width$} {:>gid_width$} {size:>size_width$} {} ",
            mode_string(entry.kind, entry.mode),
            entry.nlink,
            entry.uid,
            entry.gid,
            short_time(entry),
        )?;
        output.name(&entry.name)?;
        if entry.kind == EntryKind::Symlink {
            write!(output, " -> ")?;
            output.name(&entry.symlink)?;
        }
        writeln!(output)?;
    }
    Ok(())
}

/// Device nodes have numbers where others have a size.
fn size(entry: &DirectoryEntry) -> String {
    match entry.kind {
        EntryKind::CharDevice | EntryKind::BlockDevice => {
            let rdev = u64::from(entry.rdev);
            format!("{}, {}", nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev))
        }
        _ => entry.size.to_string(),
    }
}
