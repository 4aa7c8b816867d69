//! Whole programs run from a repository, against native files and, where it is installed, `cvmfs2`.
//!
//! | module | what it holds |
//! |---|---|
//! | [`tree`] | a realistic directory (Python, wheels, compiler, headers) and its repository |
//! | [`disk`] | a file system of our own that can be made to forget its pages and names |
//! | [`delay`] | a way to the server with a round trip |
//! | [`contender`] | those who are measured: native files, us, `cvmfs2` |
//! | [`work`] | what is measured, and what we want to reach |
//! | [`report`] | table, JSON and HTML |

pub mod contender;
pub mod delay;
pub mod disk;
pub mod report;
pub mod tree;
pub mod work;
