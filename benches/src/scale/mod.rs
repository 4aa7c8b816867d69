//! What an operation costs as the repository grows, and with more readers.
//!
//! | module | what it holds |
//! |---|---|
//! | [`tree`] | repositories of any size whose files share one content |
//! | [`served`] | a mount of one, and what the kernel and its server say |
//! | [`curve`] | the measurements |
//! | [`report`] | tables |

pub mod curve;
pub mod report;
pub mod served;
pub mod tree;
