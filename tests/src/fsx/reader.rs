//! One thread: opens, reads, closes, and keeps old versions open.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::operation::{Desk, Failure, Opened, TABLE};
use super::span::Span;
use super::truth::{Library, MAX_HEAD, Volume};

/// Files that a reader has open: over several revisions, where there are revisions.
const OPEN: usize = 12;
/// One step of so many opens a file anew.
const REOPEN_EVERY: u32 = 20;
/// One open of so many may close any file, the others only one of the later half: so the earlier
/// half stays open for seconds, over revisions.
const CLOSE_ANY_EVERY: u32 = 100;
/// Steps that are told with a failure.
const TOLD: usize = 8;

/// What a reader did, and where it stopped.
#[derive(Debug)]
pub struct Report {
    /// The reader's seed: with it, it takes the same steps again.
    pub seed: u64,
    /// Which of its steps failed.
    pub step: u64,
    /// The last steps, the failed one at the end.
    pub steps: Vec<String>,
    /// What was wrong.
    pub failure: Failure,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, step, steps, failure } = self;
        write!(f, "reader with seed {seed}, step {step}: {failure}; its last steps:\n  ")?;
        f.write_str(&steps.join("\n  "))
    }
}

/// A thread's state.
pub struct Reader<'a> {
    library: &'a Library,
    seed: u64,
    random: StdRng,
    desk: Desk,
    open: Vec<(usize, u64, Opened)>,
    steps: u64,
    told: VecDeque<String>,
    /// How often each operation of [`OPERATIONS`](super::OPERATIONS) was done.
    pub done: [u64; TABLE.len()],
    /// How many files were read after a later version of them was there to be opened.
    pub outdated: u64,
}

impl<'a> Reader<'a> {
    /// Makes a reader whose steps follow from the seed.
    ///
    /// # Panics
    /// If this machine has no pipe or no temporary file left.
    pub fn new(library: &'a Library, seed: u64) -> Self {
        let (random, told) = (StdRng::seed_from_u64(seed), VecDeque::new());
        let desk = Desk::new().expect("a pipe and a temporary file");
        let (open, done) = (Vec::new(), [0; TABLE.len()]);
        Self { library, seed, random, desk, open, steps: 0, told, done, outdated: 0 }
    }

    /// Takes steps until it is told to stop.
    ///
    /// # Errors
    /// The [`Report`] of the first step that was wrong.
    pub fn run(&mut self, stop: &AtomicBool) -> Result<(), Report> {
        while !stop.load(Ordering::Relaxed) {
            self.step()?;
        }
        Ok(())
    }

    /// Takes one step.
    ///
    /// # Errors
    /// Its [`Report`].
    pub fn step(&mut self) -> Result<(), Report> {
        self.steps += 1;
        self.try_step().map_err(|failure| Report {
            seed: self.seed,
            step: self.steps,
            steps: self.told.iter().cloned().collect(),
            failure,
        })
    }

    fn try_step(&mut self) -> Result<(), Failure> {
        if self.open.len() < OPEN || self.random.random_ratio(1, REOPEN_EVERY) {
            let volume = self.random.random_range(0..self.library.volumes.len());
            let may_close_any = self.random.random_ratio(1, CLOSE_ANY_EVERY);
            let slot = self.random.random_range(if may_close_any { 0 } else { OPEN / 2 }..OPEN);
            let (version, opened) = self.open(volume)?;
            let opened = (volume, version, opened);
            match self.open.get_mut(slot) {
                Some(old) => *old = opened,
                None => self.open.push(opened),
            }
        }
        let at = self.random.random_range(0..self.open.len());
        let operation = self.random.random_range(0..TABLE.len());
        let (volume, version, opened) = &mut self.open[at];
        let volume = &self.library.volumes[*volume];
        let span = Span::random(&mut self.random, opened.truth.len());
        let (name, work) = TABLE[operation];
        let Span { offset, len } = span;
        let size = opened.truth.len();
        self.told.push_back(format!(
            "{name} of {} at {offset}, {len} bytes; version {version}, size {size}",
            volume.name
        ));
        if self.told.len() > TOLD {
            self.told.pop_front();
        }
        work(opened, &mut self.desk, span, &mut self.random)?;
        self.done[operation] += 1;
        self.outdated += u64::from(*version < volume.floor());
        Ok(())
    }

    fn open(&mut self, index: usize) -> Result<(u64, Opened), Failure> {
        let volume = &self.library.volumes[index];
        let at_least = volume.floor();
        self.told.push_back(format!("open of {}, {at_least} or later", volume.name));
        let file = File::open(self.library.path(volume))?;
        let found = if volume.changes { version_in(volume, &file)? } else { Some(1) };
        let version = found.filter(|&version| version >= at_least);
        let truth = version.and_then(|version| volume.version(version));
        match version.zip(truth) {
            Some((version, truth)) => Ok((version, Opened { file, truth, mapping: None })),
            None => Err(Failure::Version { found, at_least }),
        }
    }
}

/// Reads the version out of the first line.
fn version_in(volume: &Volume, file: &File) -> Result<Option<u64>, Failure> {
    let mut head = [0; MAX_HEAD];
    let len = file.read_at(&mut head, 0)?;
    let line = head[..len].split(|&byte| byte == b'\n').next().unwrap_or_default();
    let text = std::str::from_utf8(line).ok().and_then(|line| line.strip_prefix(&*volume.name));
    Ok(text.and_then(|text| text.trim_start().parse().ok()))
}
