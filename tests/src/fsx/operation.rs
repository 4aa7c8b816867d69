//! The ways to read.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut, Read as _, Seek as _, SeekFrom, Write as _};
use std::num::NonZeroU64;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use rand::Rng as _;
use rand::rngs::StdRng;
use rustix::fs::{Advice, SeekFrom as SeekTo, copy_file_range, fadvise, seek, sendfile};
use rustix::io::{Errno, preadv, readv};

use super::mapping::{Kind, Mapping, PAGE};
use super::span::Span;
use super::truth::{Truth, Wrong};

/// O_DIRECT wants offsets, lengths and memory in multiples of this.
const SECTOR: usize = 512;
/// Largest file that is mapped as a whole.
const MAX_WHOLE_MAPPING: u64 = 16 << 20;

/// Why an operation was not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The kernel said no.
    #[error(transparent)]
    Call(#[from] io::Error),
    /// Other bytes.
    #[error(transparent)]
    Wrong(#[from] Wrong),
    /// Another number of bytes.
    #[error("{found} bytes instead of {want}")]
    Length {
        /// How many came.
        found: u64,
        /// How many there are.
        want: u64,
    },
    /// Another version than could be seen.
    #[error("version {found:?} was opened, {at_least} is the oldest that may be seen")]
    Version {
        /// What the file says.
        found: Option<u64>,
        /// What may be seen.
        at_least: u64,
    },
    /// A seek that ended elsewhere.
    #[error("a seek to {what} ended at {found:?}")]
    Seek {
        /// What was looked for.
        what: &'static str,
        /// Where it ended.
        found: Result<u64, Errno>,
    },
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Call(errno.into())
    }
}

/// An open file, and the version that it was when it was opened.
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) truth: Truth,
    /// Kept as long as the file is open.
    pub(super) mapping: Option<Mapping>,
}

/// What operations need beside the file; for one thread.
pub(super) struct Desk {
    /// A file outside of the mount.
    pub(super) outside: File,
    pub(super) pipe: (File, File),
    pub(super) buffer: Vec<u8>,
}

impl Desk {
    pub(super) fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let pipe = (File::from(OwnedFd::from(reader)), File::from(OwnedFd::from(writer)));
        Ok(Self { outside: tempfile::tempfile()?, pipe, buffer: Vec::new() })
    }

    fn zeroed(&mut self, len: usize) -> &mut [u8] {
        self.buffer.clear();
        self.buffer.resize(len, 0);
        &mut self.buffer
    }

    fn empty_outside(&mut self) -> io::Result<()> {
        self.outside.set_len(0)?;
        self.outside.rewind()
    }

    /// Compares what arrived outside with the span.
    fn check_outside(&mut self, truth: &Truth, span: Span) -> Result<(), Failure> {
        self.outside.rewind()?;
        self.buffer.clear();
        self.outside.read_to_end(&mut self.buffer)?;
        check(truth, span, &self.buffer)
    }
}

/// A way to read a span of a file and to compare it.
pub(super) type Operation = fn(&mut Opened, &mut Desk, Span, &mut StdRng) -> Result<(), Failure>;

/// All of them, by name.
pub(super) const TABLE: [(&str, Operation); 16] = [
    ("pread", pread),
    ("preadv", pread_vectors),
    ("readv", read_vectors),
    ("read", read_on),
    ("mmap shared", map_shared),
    ("mmap private", map_private),
    ("mmap whole", map_whole),
    ("sendfile", send_file),
    ("splice", splice),
    ("copy", copy),
    ("O_DIRECT", direct),
    ("copy_file_range", copy_range),
    ("mmap write", map_write),
    ("seek", seek_data_and_hole),
    ("advise", advise),
    ("fstat", stat),
];

/// Names of the operations.
pub const OPERATIONS: [&str; TABLE.len()] = {
    let mut names = [""; TABLE.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = TABLE[index].0;
        index += 1;
    }
    names
};

/// Compares all that a read of a span gave.
fn check(truth: &Truth, span: Span, found: &[u8]) -> Result<(), Failure> {
    let want = span.within(truth.len());
    if found.len() != want {
        return Err(Failure::Length { found: found.len() as u64, want: want as u64 });
    }
    Ok(truth.check(span.offset, found)?)
}

fn pread(open: &mut Opened, desk: &mut Desk, span: Span, _: &mut StdRng) -> Result<(), Failure> {
    let buffer = desk.zeroed(span.len);
    let len = open.file.read_at(buffer, span.offset)?;
    check(&open.truth, span, &buffer[..len])
}

/// Cuts a buffer into up to eight pieces, some of them empty.
fn pieces<'a>(mut buffer: &'a mut [u8], random: &mut StdRng) -> Vec<IoSliceMut<'a>> {
    let mut pieces = Vec::new();
    for _ in 0..7 {
        let (piece, rest) = buffer.split_at_mut(random.random_range(0..=buffer.len().min(9000)));
        pieces.push(IoSliceMut::new(piece));
        buffer = rest;
    }
    pieces.push(IoSliceMut::new(buffer));
    pieces
}

fn pread_vectors(
    open: &mut Opened,
    desk: &mut Desk,
    span: Span,
    random: &mut StdRng,
) -> Result<(), Failure> {
    let buffer = desk.zeroed(span.len);
    let len = preadv(&open.file, &mut pieces(buffer, random), span.offset)?;
    check(&open.truth, span, &buffer[..len])
}

fn read_vectors(
    open: &mut Opened,
    desk: &mut Desk,
    span: Span,
    random: &mut StdRng,
) -> Result<(), Failure> {
    open.file.seek(SeekFrom::Start(span.offset))?;
    let buffer = desk.zeroed(span.len);
    let len = readv(&open.file, &mut pieces(buffer, random))?;
    check(&open.truth, span, &buffer[..len])?;
    let position = open.file.stream_position()?;
    let want = span.offset + len as u64;
    if position == want { Ok(()) } else { Err(Failure::Length { found: position, want }) }
}

/// In order, in pieces of a size, so that there is read-ahead.
fn read_on(
    open: &mut Opened,
    desk: &mut Desk,
    span: Span,
    random: &mut StdRng,
) -> Result<(), Failure> {
    open.file.seek(SeekFrom::Start(span.offset))?;
    let step = random.random_range(1..=20_000);
    let mut at = span;
    for _ in 0..random.random_range(1..40) {
        let buffer = desk.zeroed(step);
        let len = open.file.read(buffer)?;
        check(&open.truth, Span { len: step, ..at }, &buffer[..len])?;
        at.offset += len as u64;
    }
    Ok(())
}

/// Maps the pages around a span; `None` where the file has none.
fn map_around(open: &Opened, span: Span, kind: Kind) -> io::Result<Option<(Mapping, Span)>> {
    let start = span.offset / PAGE as u64 * PAGE as u64;
    let before = usize::try_from(span.offset - start).expect("less than a page");
    let wide = Span { offset: start, len: span.len + before };
    let len = wide.within(open.truth.len());
    if len == 0 {
        return Ok(None);
    }
    Ok(Some((Mapping::of(&open.file, start, len, kind)?, wide)))
}

fn check_mapping(open: &Opened, mapping: &Mapping, wide: Span) -> Result<(), Failure> {
    check(&open.truth, wide, mapping.bytes())?;
    let reaches_end = wide.offset + mapping.bytes().len() as u64 == open.truth.len();
    let behind = &mapping.pages()[mapping.bytes().len()..];
    match behind.iter().position(|&byte| byte != 0).filter(|_| reaches_end) {
        None => Ok(()),
        Some(at) => {
            let (found, at) = (behind[at], open.truth.len() + at as u64);
            Err(Wrong { count: 1, at, found, want: 0 }.into())
        }
    }
}

fn map_shared(open: &mut Opened, _: &mut Desk, span: Span, _: &mut StdRng) -> Result<(), Failure> {
    let Some((mapping, wide)) = map_around(open, span, Kind::Shared)? else { return Ok(()) };
    check_mapping(open, &mapping, wide)
}

fn map_private(
    open: &mut Opened,
    _: &mut Desk,
    span: Span,
    random: &mut StdRng,
) -> Result<(), Failure> {
    let kind = if random.random() { Kind::Private } else { Kind::Populated };
    let Some((mapping, wide)) = map_around(open, span, kind)? else { return Ok(()) };
    check_mapping(open, &mapping, wide)?;
    mapping.drop_pages();
    check_mapping(open, &mapping, wide)
}

/// A mapping that stays: what it shows must not change with revisions either.
fn map_whole(
    open: &mut Opened,
    desk: &mut Desk,
    span: Span,
    random: &mut StdRng,
) -> Result<(), Failure> {
    let all = open.truth.len();
    if all == 0 || all > MAX_WHOLE_MAPPING {
        return pread(open, desk, span, random);
    }
    let whole = Span { offset: 0, len: usize::try_from(all).expect("was compared") };
    if open.mapping.is_none() {
        open.mapping = Some(Mapping::of(&open.file, 0, whole.len, Kind::Shared)?);
    }
    let mapping = open.mapping.as_ref().expect("made above");
    if random.random() {
        mapping.drop_pages();
    }
    let len = span.within(all);
    let start = whole.len.min(usize::try_from(span.offset).unwrap_or(usize::MAX));
    check(&open.truth, span, &mapping.bytes()[start..start + len])
}

/// What is written to a private mapping is nobody else's.
fn map_write(
    open: &mut Opened,
    desk: &mut Desk,
    span: Span,
    random: &mut StdRng,
) -> Result<(), Failure> {
    let Some((mut mapping, _)) = map_around(open, span, Kind::Private)? else { return Ok(()) };
    for byte in mapping.bytes_mut() {
        *byte ^= 0xff;
    }
    pread(open, desk, span, random)
}

fn send_file(
    open: &mut Opened,
    desk: &mut Desk,
    span: Span,
    _: &mut StdRng,
) -> Result<(), Failure> {
    desk.empty_outside()?;
    let mut at = span.offset;
    let mut left = span.len;
    while left > 0 {
        match sendfile(&desk.outside, &open.file, Some(&mut at), left)? {
            0 => break,
            sent => left -= sent,
        }
    }
    desk.check_outside(&open.truth, span)
}

fn splice(open: &mut Opened, desk: &mut Desk, span: Span, _: &mut StdRng) -> Result<(), Failure> {
    let mut found = Vec::with_capacity(span.len);
    while found.len() < span.len {
        let mut at =
            libc::loff_t::try_from(span.offset + found.len() as u64).map_err(io::Error::other)?;
        let (from, to) = (open.file.as_raw_fd(), desk.pipe.1.as_raw_fd());
        let (left, nothing) = (span.len - found.len(), std::ptr::null_mut());
        // SAFETY: both descriptors are open, and the offset lives over the call.
        let moved = unsafe { libc::splice(from, &raw mut at, to, nothing, left, 0) };
        let moved = usize::try_from(moved).map_err(|_| io::Error::last_os_error())?;
        if moved == 0 {
            break;
        }
        let start = found.len();
        found.resize(start + moved, 0);
        desk.pipe.0.read_exact(&mut found[start..])?;
    }
    check(&open.truth, span, &found)
}

/// As cp and the standard library do it, by whatever call works.
fn copy(open: &mut Opened, desk: &mut Desk, span: Span, _: &mut StdRng) -> Result<(), Failure> {
    desk.empty_outside()?;
    open.file.seek(SeekFrom::Start(span.offset))?;
    io::copy(&mut (&open.file).take(span.len as u64), &mut desk.outside)?;
    desk.check_outside(&open.truth, span)
}

/// Kernels may refuse it between file systems; what they copy must be right.
fn copy_range(
    open: &mut Opened,
    desk: &mut Desk,
    span: Span,
    random: &mut StdRng,
) -> Result<(), Failure> {
    desk.empty_outside()?;
    let (mut at, mut to) = (span.offset, 0);
    let mut left = span.len;
    while left > 0 {
        match copy_file_range(&open.file, Some(&mut at), &desk.outside, Some(&mut to), left) {
            Ok(0) => break,
            Ok(copied) => left -= copied,
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) if to == 0 => {
                return copy(open, desk, span, random);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    desk.check_outside(&open.truth, span)
}

/// The same inode again, past the page cache.
fn direct(open: &mut Opened, desk: &mut Desk, span: Span, _: &mut StdRng) -> Result<(), Failure> {
    let again = format!("/proc/self/fd/{}", open.file.as_raw_fd());
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(again)?;
    let sector = SECTOR as u64;
    let len = span.len.next_multiple_of(SECTOR);
    let span = Span { offset: span.offset / sector * sector, len };
    let buffer = desk.zeroed(len + PAGE);
    let start = buffer.as_ptr().align_offset(PAGE);
    let buffer = &mut buffer[start..start + len];
    let found = file.read_at(buffer, span.offset)?;
    check(&open.truth, span, &buffer[..found])
}

/// All is data, and the only hole is the one at the end.
fn seek_data_and_hole(
    open: &mut Opened,
    _: &mut Desk,
    span: Span,
    _: &mut StdRng,
) -> Result<(), Failure> {
    let len = open.truth.len();
    let is_inside = span.offset < len;
    for (what, place, want) in [
        ("data", SeekTo::Data(span.offset), is_inside.then_some(span.offset)),
        ("a hole", SeekTo::Hole(span.offset), is_inside.then_some(len)),
        ("the end", SeekTo::End(0), Some(len)),
    ] {
        let found = seek(&open.file, place);
        if found != want.ok_or(Errno::NXIO) {
            return Err(Failure::Seek { what, found });
        }
    }
    Ok(())
}

/// Changes nothing that may be seen; mostly makes the kernel ask again.
fn advise(
    open: &mut Opened,
    desk: &mut Desk,
    span: Span,
    random: &mut StdRng,
) -> Result<(), Failure> {
    let all = [
        Advice::DontNeed,
        Advice::DontNeed,
        Advice::WillNeed,
        Advice::Sequential,
        Advice::Random,
        Advice::Normal,
    ];
    let advice = all[random.random_range(0..all.len())];
    let (offset, len) = match advice {
        Advice::WillNeed => (span.offset, NonZeroU64::new(span.len as u64)),
        _ => (0, None),
    };
    // Without a length all the rest would be read ahead, also of the huge file.
    if advice != Advice::WillNeed || len.is_some() {
        fadvise(&open.file, offset, len, advice)?;
    }
    pread(open, desk, span, random)
}

fn stat(open: &mut Opened, desk: &mut Desk, span: Span, _: &mut StdRng) -> Result<(), Failure> {
    let (found, want) = (open.file.metadata()?.len(), open.truth.len());
    if found != want {
        return Err(Failure::Length { found, want });
    }
    // Reading is all that can be done with it.
    let written = open.file.write(desk.zeroed(1));
    match written.map_err(|error| error.raw_os_error()) {
        Err(Some(libc::EBADF)) => Ok(()),
        other => Err(Failure::Call(io::Error::other(format!("a write at {span:?}: {other:?}")))),
    }
}
