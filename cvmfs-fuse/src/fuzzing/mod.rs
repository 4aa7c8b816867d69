//! Entries of the fuzz targets (`cvmfs-fuse/fuzz`) to parsers that are not public.
//!
//! Each function takes the input of the target of its name, and panics if a promise of the parser is broken.
//!
//! | module | parsers |
//! |---|---|
//! | `supervision` | what a server says to its supervisor, and leaves to its successor |

mod supervision;

pub use supervision::{journal, supervisor_protocol};
