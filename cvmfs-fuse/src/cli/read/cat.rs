//! `cat`: contents, every byte checked.

use std::io::Write as _;

use cvmfs_core::cache::CachedObject;
use cvmfs_core::catalog::{Chunk, Content, EntryKind};
use cvmfs_core::fetch::{FetchOptions, Fetcher};
use futures_util::StreamExt as _;

use super::find::{self, Found};
use super::{Output, ReadError, Reader, Stop};
use crate::cli::args::CatArgs;

/// Bytes that are copied at once.
const PIECE_LEN: usize = 256 * 1024;
/// Chunks that are fetched while an earlier one is printed: hides the latency of the network, and
/// with the usual chunks of 4 to 16 MB stays small in memory and cache.
const CHUNKS_AHEAD: usize = 4;

/// Prints every target, one after the other.
pub(super) async fn run(reader: &mut Reader<'_>, args: &CatArgs) -> Result<(), Stop> {
    for text in &args.targets {
        let (target, revision) = reader.target(text).await?;
        let fetcher = reader.fetcher(&target.fqrn).await?;
        let label = target.shown();
        let found = match find::find(&revision, &target.path, true).await {
            Ok(found) => found,
            Err(error) => {
                reader.report(&target, &error.into());
                continue;
            }
        };
        let printed = match &found.entry.content {
            _ if found.entry.kind == EntryKind::Directory => Err(ReadError::IsADirectory.into()),
            Content::None => Err(ReadError::NotAFile.into()),
            Content::Broken(reason) => Err(ReadError::Broken(reason).into()),
            Content::Whole(id) => {
                let options = FetchOptions::content(&found.entry, &found.path, None, &label);
                match fetcher.open_with(id, &options).await {
                    Ok(object) => copy(&object, &mut reader.output),
                    Err(error) => Err(ReadError::Fetch(error).into()),
                }
            }
            Content::Chunked(_) => match revision.chunks(&found.path).await {
                Ok(chunks) => {
                    print_chunks(&fetcher, &found, &chunks, &label, &mut reader.output).await
                }
                Err(error) => Err(ReadError::from(error).into()),
            },
        };
        match printed {
            Ok(()) => {}
            Err(Printing::Content(error)) => reader.report(&target, &error),
            Err(Printing::Output(error)) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whose fault it is that a file was not printed to its end.
enum Printing {
    Content(ReadError),
    Output(std::io::Error),
}

impl From<ReadError> for Printing {
    fn from(error: ReadError) -> Self {
        Self::Content(error)
    }
}

async fn print_chunks(
    fetcher: &Fetcher,
    file: &Found,
    chunks: &[Chunk],
    label: &str,
    output: &mut Output,
) -> Result<(), Printing> {
    // Empty chunks are legal, and no range of an external file is empty.
    let fetches = chunks.iter().filter(|chunk| chunk.size > 0).map(|chunk| {
        let part = format!("{label} (bytes from {})", chunk.offset);
        let options = FetchOptions::content(&file.entry, &file.path, Some(chunk), part);
        async move { fetcher.open_with(&chunk.object, &options).await }
    });
    let mut objects = std::pin::pin!(futures_util::stream::iter(fetches).buffered(CHUNKS_AHEAD));
    while let Some(object) = objects.next().await {
        copy(&object.map_err(ReadError::Fetch)?, output)?;
    }
    Ok(())
}

fn copy(object: &CachedObject, output: &mut Output) -> Result<(), Printing> {
    let mut piece = vec![0; PIECE_LEN];
    let mut offset = 0;
    while offset < object.len() {
        let n = object.read_at(&mut piece, offset).map_err(ReadError::Cache)?;
        if n == 0 {
            return Err(ReadError::CacheCut.into());
        }
        output.write_all(&piece[..n]).map_err(Printing::Output)?;
        offset += n as u64;
    }
    Ok(())
}
