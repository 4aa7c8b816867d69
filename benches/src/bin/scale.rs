//! `cargo run --release -p benches --bin scale -- --help`
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

use std::error::Error;
use std::path::PathBuf;

use benches::scale::curve::Site;
use benches::scale::report::Scale;
use benches::scale::tree::Tree;
use clap::Parser;

/// Measures what an operation costs as the repository grows, and with more readers. Times are
/// comparable within one run only. Needs root or fusermount, and /dev/fuse; 3 GB of memory for a million files.
#[derive(Debug, Parser)]
struct Arguments {
    /// Files of the repositories
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000,1000000")]
    files: Vec<usize>,
    /// Readers side by side, in the second to last of the repositories
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,16,64")]
    threads: Vec<usize>,
    /// Names that they look up together
    #[arg(long, default_value_t = 40_000)]
    lookups: usize,
    /// Medians are of so many rounds, in which the sizes take turns
    #[arg(long, default_value_t = 3)]
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
    let mut sites = Vec::new();
    for &files in &arguments.files {
        let below = scratch.path().join(files.to_string());
        let (site, took) = Site::publish(Tree { files }, &program, &arguments.flag, &below)?;
        eprintln!("{files} files, published in {took:.1?}");
        sites.push(site);
    }
    let mut points = vec![Vec::new(); sites.len()];
    let mut readers = vec![Vec::new(); arguments.threads.len()];
    for round in 0..arguments.rounds.max(1) {
        for (site, rounds) in sites.iter().zip(&mut points) {
            let cache = site.scratch.join("cache");
            if cache.exists() {
                std::fs::remove_dir_all(cache)?;
            }
            site.server.reset_log();
            rounds.push(site.point()?);
            eprintln!("round {}: {} files", round + 1, site.tree.files);
        }
        let Some(site) = sites.iter().rev().nth(1).or(sites.last()) else { break };
        for (&threads, rounds) in arguments.threads.iter().zip(&mut readers) {
            rounds.push(site.readers(threads, arguments.lookups)?);
        }
    }
    let scale = Scale { points, readers };
    println!("{}", scale.table());
    if let Some(path) = arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&scale)?)?;
    }
    Ok(())
}
