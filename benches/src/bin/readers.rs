//! `cargo run --release -p benches --bin readers -- --help`
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

use std::error::Error;
use std::path::PathBuf;

use benches::readers::Site;
use benches::readers::files::{LARGE, SMALL};
use benches::readers::report::{Curve, table};
use clap::Parser;

/// Measures readers side by side, in turns with native files: with caches of ours that are in memory
/// (warm: the kernel has nothing of the mount), and again (hot). Needs root or fusermount, and
/// /dev/fuse; 2 GB of memory.
#[derive(Debug, Parser)]
struct Arguments {
    /// Readers side by side
    #[arg(long, value_delimiter = ',', default_value = "1,2,8,64")]
    threads: Vec<usize>,
    /// Medians are of so many rounds, in which the numbers take turns
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// The program that is measured
    #[arg(long, default_value = "target/release/cvmfs-fuse")]
    program: PathBuf,
    /// More flags for `cvmfs-fuse mount`; repeatable
    #[arg(long, allow_hyphen_values = true)]
    flag: Vec<String>,
    /// Where repositories and caches are made, and removed at the end [default: temporary]
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Also write all figures there, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let program = std::path::absolute(&arguments.program)?;
    let scratch = match &arguments.directory {
        Some(directory) => tempfile::tempdir_in(directory)?,
        None => tempfile::tempdir()?,
    };
    let mut curves = Vec::new();
    for files in [SMALL, LARGE] {
        let site = Site::make(files, &program, &arguments.flag, scratch.path())?;
        let mut points = vec![Vec::new(); arguments.threads.len()];
        for round in 0..arguments.rounds.max(1) {
            for (&threads, rounds) in arguments.threads.iter().zip(&mut points) {
                rounds.push(site.point(threads)?);
            }
            eprintln!("{}: round {}", files.name, round + 1);
        }
        curves.push(Curve { name: files.name, len: files.len, points });
    }
    println!("{}", table(&curves));
    if let Some(path) = arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&curves)?)?;
    }
    Ok(())
}
