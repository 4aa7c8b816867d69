//! Refuses to build with an SQLite that has more parts than a catalog needs.
//!
//! libsqlite3-sys takes its switches from the environment only, which `.cargo/config.toml` sets for every build in
//! the source tree. Cargo does not look there when it is called from elsewhere (`cargo install --git`).

/// The switches without which hostile catalogs would reach code that was never meant for them.
const NEEDED: [&str; 6] = [
    "-USQLITE_ENABLE_FTS3",
    "-USQLITE_ENABLE_FTS5",
    "-USQLITE_ENABLE_RTREE",
    "-USQLITE_ENABLE_STAT4",
    "-DSQLITE_OMIT_JSON",
    "-DSQLITE_MAX_ALLOCATION_SIZE=4194304",
];

#[allow(clippy::disallowed_methods, reason = "the only way in which Cargo tells a build script")]
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBSQLITE3_FLAGS");
    let flags = std::env::var("LIBSQLITE3_FLAGS").unwrap_or_default();
    let flags: Vec<_> = flags.split_whitespace().collect();
    let missing: Vec<_> = NEEDED.into_iter().filter(|needed| !flags.contains(needed)).collect();
    assert!(
        missing.is_empty(),
        "SQLite would be built with extensions: LIBSQLITE3_FLAGS lacks {missing:?}; build inside the source tree, \
         where .cargo/config.toml sets it, or set it as there"
    );
}
