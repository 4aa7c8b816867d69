//! What can go wrong while a proxy auto-configuration script is evaluated.

use std::time::Duration;

use super::{MAX_CHOICES, MAX_LOOKUPS, MAX_MEMORY, MAX_RUNNING, MAX_SCRIPT, MAX_STACK, MAX_TEXT};

/// The longest piece of script-made text repeated in an error, in characters.
///
/// A script may throw a message of megabytes; nobody wants that in a log.
const MAX_QUOTE: usize = 200;

/// Why a script gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PacError {
    /// The script is larger than [`MAX_SCRIPT`].
    #[error(
        "the proxy script is {size} bytes long, at most {MAX_SCRIPT} are accepted; \
         check that its address names a PAC file"
    )]
    TooLarge {
        /// The size of what was given, in bytes.
        size: usize,
    },
    /// The URL or host name to find proxies for is longer than [`MAX_TEXT`].
    #[error(
        "the {what} to find a proxy for is {size} bytes long, at most {MAX_TEXT} are accepted; \
         ask with a shorter one"
    )]
    TooLong {
        /// Which of the two: `URL` or `host name`.
        what: &'static str,
        /// Its length in bytes.
        size: usize,
    },
    /// The script is not valid JavaScript.
    #[error(
        "the proxy script is not valid JavaScript{}: {message}; correct the script",
        at_line(*.line)
    )]
    Syntax {
        /// The line of the fault, counted from one, where the engine tells it.
        line: Option<u32>,
        /// What the engine says about it.
        message: String,
    },
    /// The script defines neither `FindProxyForURL` nor `FindProxyForURLEx`.
    #[error(
        "the proxy script defines no function FindProxyForURL; \
         check that its address names a PAC file"
    )]
    NoFunction,
    /// The script ended with an exception it did not catch.
    #[error("the proxy script failed with an exception: {message}; correct the script")]
    Threw {
        /// The exception as text.
        message: String,
    },
    /// The function answered with something that is not a string.
    #[error("the proxy script answered with {found} in place of a string; correct the script")]
    Answer {
        /// The kind of value it answered with.
        found: String,
    },
    /// The answer names a proxy that cannot be a host and a port.
    #[error(
        "the proxy script answered with the malformed entry \"{entry}\"; \
         a proxy is written as PROXY host:port"
    )]
    Proxy {
        /// The entry, with control characters escaped.
        entry: String,
    },
    /// The answer lists more than [`MAX_CHOICES`] choices.
    #[error(
        "the proxy script answered with more than {MAX_CHOICES} choices; shorten its lists of \
         proxies"
    )]
    Choices,
    /// Loading and calling the script took longer than allowed.
    #[error(
        "the proxy script did not answer within {limit:?}; look for an endless loop or slow name \
         look-ups in it, or allow more time"
    )]
    Deadline {
        /// The time that was allowed.
        limit: Duration,
    },
    /// The script needs more than [`MAX_MEMORY`].
    #[error(
        "the proxy script needs more than {} MiB of memory; look for data that grows without \
         bound in it",
        MAX_MEMORY / (1024 * 1024)
    )]
    Memory,
    /// The script nests calls or expressions beyond [`MAX_STACK`].
    #[error(
        "the proxy script needs more than {} KiB of stack; look for endless recursion or deep \
         nesting in it",
        MAX_STACK / 1024
    )]
    Stack,
    /// The script asked for the addresses of more than [`MAX_LOOKUPS`] names.
    #[error(
        "the proxy script looked up more than {MAX_LOOKUPS} names in one evaluation; reduce its \
         calls of dnsResolve, isResolvable and isInNet"
    )]
    Lookups,
    /// Too many earlier evaluations of this script have not ended.
    #[error(
        "{MAX_RUNNING} evaluations of the proxy script are still under way; try again later, and \
         if this persists look for endless work in the script"
    )]
    Busy,
    /// The operating system gave no thread for the evaluation.
    #[error("no thread could be started for the proxy script; raise the limit of threads")]
    Thread(#[source] std::io::Error),
    /// The JavaScript engine itself failed.
    #[error("the JavaScript engine failed on the proxy script: {message}; please report this")]
    Engine {
        /// What it said.
        message: String,
    },
}

/// Words for a line number that may be unknown.
fn at_line(line: Option<u32>) -> String {
    line.map_or_else(String::new, |line| format!(" at line {line}"))
}

/// Makes text chosen by a script fit for a message: short, and without control characters, so that
/// a script can neither flood a log nor forge lines in it.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::new();
    for (count, letter) in text.chars().enumerate() {
        if count == MAX_QUOTE {
            out.push('…');
            break;
        }
        // Bidirectional and line-separating characters can reorder or split what a reader sees
        // and are escaped for the same reason.
        let misleading = matches!(
            letter,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
        );
        if letter.is_control() || misleading {
            out.extend(letter.escape_default());
        } else {
            out.push(letter);
        }
    }
    out
}
