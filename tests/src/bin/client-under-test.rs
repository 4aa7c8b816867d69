//! The program under test, built with this package so that `CARGO_BIN_EXE_client-under-test`
//! is never older than the code.

fn main() -> std::process::ExitCode {
    cvmfs_fuse::cli::main()
}
