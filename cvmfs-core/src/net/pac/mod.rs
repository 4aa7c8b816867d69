//! Proxy auto-configuration: JavaScript that decides which proxies to use for a URL.
//!
//! A [`Script`] is evaluated by an embedded engine that has no access to files, to the network or to
//! modules. What it may know of the world comes through [`Names`] and [`Clock`]. Memory, stack, time
//! and name look-ups are bounded, since such a script is commonly fetched by plain HTTP from wherever
//! the local network says.
//!
//! ```
//! use std::{net::IpAddr, sync::Arc, time::Duration};
//! use cvmfs_core::net::pac::{Choice, Clock, Names, Script};
//!
//! struct NoNames;
//! impl Names for NoNames {
//!     fn addresses(&self, _name: &str) -> Vec<IpAddr> {
//!         Vec::new()
//!     }
//!     fn own_address(&self) -> Option<IpAddr> {
//!         None
//!     }
//! }
//!
//! let script = Script::new(b"function FindProxyForURL(u, h) { return 'PROXY p:3128; DIRECT'; }")?;
//! let limit = Duration::from_secs(5);
//! let choices =
//!     script.find_proxies("http://h/", "h", Arc::new(NoNames), &Clock::system(), limit)?;
//! assert_eq!(choices, [Choice::Proxy("p:3128".to_owned()), Choice::Direct]);
//! # Ok::<(), cvmfs_core::net::pac::PacError>(())
//! ```

mod address;
mod answer;
mod clock;
mod engine;
mod error;
mod helpers;
mod host;
mod scene;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

pub use clock::Clock;
pub use error::PacError;

use scene::Scene;

/// The largest script accepted, in bytes.
pub const MAX_SCRIPT: usize = 1024 * 1024;
/// The memory an evaluation may use, in bytes.
pub const MAX_MEMORY: usize = 16 * 1024 * 1024;
/// The stack an evaluation may use, in bytes.
pub const MAX_STACK: usize = 256 * 1024;
/// The longest time an evaluation may be given; longer limits are shortened to it.
pub const MAX_TIME: Duration = Duration::from_secs(60);
/// The number of different names an evaluation may look up.
pub const MAX_LOOKUPS: usize = 64;
/// The number of addresses taken from one look-up; further ones are passed over.
pub const MAX_ADDRESSES: usize = 64;
/// The longest URL, host name or argument of a PAC function, in bytes.
pub const MAX_TEXT: usize = 8 * 1024;
/// The number of choices an answer may list.
pub const MAX_CHOICES: usize = 64;
/// The longest `host:port` in an answer, in bytes.
pub const MAX_PROXY: usize = 262;
/// The number of evaluations of one script that may be under way at the same time.
pub const MAX_RUNNING: usize = 8;

/// The number of arguments of a call that are looked at; no PAC function takes more than seven.
const MAX_ARGUMENTS: usize = 8;
/// The stack of the evaluating thread: the engine's bound, and ample room for what it calls.
const THREAD_STACK: usize = 2 * 1024 * 1024;
/// How long after the deadline the engine is waited for, so that its own report, rather than the
/// lack of one, is what the caller usually gets.
const GRACE: Duration = Duration::from_millis(250);

/// The answers to a script's questions about names and addresses.
///
/// The evaluation runs in a thread of its own, and calls these there.
pub trait Names: Send + Sync {
    /// The addresses of a host name, best first; none if it has none or cannot be resolved.
    ///
    /// The name is in lower case, made of letters, digits, dots, hyphens and underscores, and is not
    /// an address. Within one evaluation each name is asked for once.
    fn addresses(&self, name: &str) -> Vec<IpAddr>;

    /// The address of this machine that others see, if it is known.
    fn own_address(&self) -> Option<IpAddr>;
}

/// One way to reach a URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Choice {
    /// Without a proxy.
    Direct,
    /// Through a proxy, as `host:port`, or as `https://host:port` if it is spoken to over TLS.
    Proxy(String),
}

/// A proxy auto-configuration script.
#[derive(Clone)]
pub struct Script {
    source: Arc<str>,
    running: Arc<AtomicUsize>,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").field("bytes", &self.source.len()).finish_non_exhaustive()
    }
}

impl Script {
    /// Takes a script as it was fetched.
    ///
    /// It is read as UTF-8, with or without a byte order mark, or else as Latin-1. Whether it is
    /// valid JavaScript shows when it is evaluated.
    ///
    /// # Errors
    ///
    /// [`PacError::TooLarge`] if it has more than [`MAX_SCRIPT`] bytes.
    pub fn new(bytes: &[u8]) -> Result<Self, PacError> {
        if bytes.len() > MAX_SCRIPT {
            return Err(PacError::TooLarge { size: bytes.len() });
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let source = match std::str::from_utf8(bytes) {
            Ok(text) => text.into(),
            // Each byte of Latin-1 is the character of the same number.
            Err(_) => bytes.iter().copied().map(char::from).collect::<String>().into(),
        };
        Ok(Self { source, running: Arc::default() })
    }

    /// Asks the script how to reach a URL; its choices are returned in the order of preference.
    ///
    /// `host` is the host name in the URL, without its port. Each call loads the script anew, thus
    /// nothing it stores lasts. The result is never empty: an answer with nothing usable in it means
    /// [`Choice::Direct`].
    ///
    /// The call returns soon after `limit` in any case. Should the script be inside a name look-up
    /// or an operation of the engine that cannot be interrupted, its thread goes on until that ends;
    /// [`MAX_RUNNING`] bounds how many such threads there can be.
    ///
    /// # Errors
    ///
    /// Every fault of the script and every bound exceeded has its own variant of [`PacError`].
    pub fn find_proxies(
        &self,
        url: &str,
        host: &str,
        names: Arc<dyn Names>,
        clock: &Clock,
        limit: Duration,
    ) -> Result<Vec<Choice>, PacError> {
        for (what, text) in [("URL", url), ("host name", host)] {
            if text.len() > MAX_TEXT {
                return Err(PacError::TooLong { what, size: text.len() });
            }
        }
        let limit = limit.min(MAX_TIME);
        let deadline = Instant::now() + limit;
        let place = Place::take(&self.running).ok_or(PacError::Busy)?;
        let (source, url, host) = (Arc::clone(&self.source), url.to_owned(), host.to_owned());
        let clock = clock.clone();
        let (sender, receiver) = mpsc::sync_channel(1);
        // A thread of its own gives the engine a stack of known size, whatever the caller's is, and
        // the caller a way out of operations during which the engine does not look at the clock.
        thread::Builder::new()
            .name("pac".to_owned())
            .stack_size(THREAD_STACK)
            .spawn(move || {
                let scene = Rc::new(Scene::new(names, clock, limit, deadline));
                let result = engine::answer(&source, &url, &host, &scene);
                // Given back before the answer, so that a caller who has it can ask again at once.
                drop(place);
                // Nobody receives it if the caller has given up.
                let _ = sender.send(result);
            })
            .map_err(PacError::Thread)?;
        match receiver.recv_timeout(limit + GRACE) {
            Ok(answer) => answer::choices(&answer?),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(PacError::Deadline { limit }),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err(PacError::Engine { message: "its thread ended without an answer".to_owned() })
            }
        }
    }
}

/// Reads the answer of a script, for the fuzz targets.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz_answer(answer: &str) -> Result<Vec<Choice>, PacError> {
    answer::choices(answer)
}

/// One of the [`MAX_RUNNING`] places for evaluations, given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(running: &Arc<AtomicUsize>) -> Option<Self> {
        let more = |count: usize| (count < MAX_RUNNING).then_some(count + 1);
        running.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Self(Arc::clone(running)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
