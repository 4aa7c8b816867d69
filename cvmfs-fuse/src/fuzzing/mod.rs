//! Entries of the fuzz targets (`cvmfs-fuse/fuzz`) to parsers that are not public.
//!
//! Each function takes the input of the target of its name, and panics if a promise of the parser is broken.
//!
//! | module | parsers |
//! |---|---|
//! | `content` | files of configuration, of repositories and of users |
//! | `requests` | what clients ask a mount, and a broker |
//! | `supervision` | what a server says to its supervisor, and leaves to its successor |

mod content;
mod requests;
mod supervision;

pub use content::{
    bundle, configuration_file, configuration_repository, profile, pyc, url_templates,
};
pub use requests::{cache, talk_request};
pub use supervision::{journal, supervisor_protocol};
