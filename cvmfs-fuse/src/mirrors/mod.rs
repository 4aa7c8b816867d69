//! What a comparison of mirrors found, for people and programs.
//!
//! The measurements are [`cvmfs_core::mirrors`]; this shows them. All of it is plain functions over
//! a [`Survey`](cvmfs_core::mirrors::Survey), so a harness that embeds one can use the other.
//! `examples/mirrors.rs` does both.
//!
//! | module | what it makes |
//! |---|---|
//! | [`table`] | text for a terminal |
//! | [`csv`] | a line for each way to each server |
//! | [`page`] | one HTML file with plots that needs nothing from outside |
//! | [`history`] | what the page shows of earlier rounds |
//! | `plot` | drawings for the page |
//! | [`verdict`] | the exit code |
//! | `units` | durations, sizes and rates |

pub mod csv;
pub mod history;
pub mod page;
mod plot;
pub mod table;
pub mod units;
pub mod verdict;
