//! Parsers of the signed letters, the certificate and the blocklist: bytes in, value out.
//!
//! Nothing here opens a file, a socket or a clock, and nothing here decides about trust: a parsed
//! [`manifest::Manifest`] is only a claim until [`crate::trust`] has checked its signature.

pub mod blocklist;
pub mod certificate;
pub mod manifest;
mod pem;
pub mod signed;
pub mod whitelist;

pub use pem::{PemError, single_block, write_block};
