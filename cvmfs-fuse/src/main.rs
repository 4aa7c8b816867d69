//! Parses the command line and runs one subcommand.

fn main() -> std::process::ExitCode {
    cvmfs_fuse::cli::main()
}
