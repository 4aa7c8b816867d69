//! `cargo run --release -p benches --bin workloads -- --help`
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use benches::workloads::contender::{Contender, Place};
use benches::workloads::delay::Delay;
use benches::workloads::disk::{Disk, run};
use benches::workloads::report::{Ahead, Line, Results, Times};
use benches::workloads::tree::{self, FQRN};
use benches::workloads::work::{Knowledge, ROWS, State, Work};
use clap::Parser;
use fixtures::server::TestServer;

/// Measures whole programs that run from a repository, in turns with native files and, where it is
/// on PATH, upstream's client. Needs root, /dev/fuse, loop devices and 4 GB of disk.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where the tree, the repository and the caches are kept for the next run
    #[arg(long, default_value = "target/workloads")]
    directory: PathBuf,
    /// The program that is measured
    #[arg(long, default_value = "target/release/cvmfs-fuse")]
    program: PathBuf,
    /// Directory with downloaded wheels; without it PyPI is asked
    #[arg(long)]
    wheels: Option<PathBuf>,
    /// Medians are of so many rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only works whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Leave out round trips above this many milliseconds
    #[arg(long, default_value_t = u64::MAX)]
    max_round_trip: u64,
    /// More flags for `cvmfs-fuse mount`; repeatable
    #[arg(long, allow_hyphen_values = true)]
    flag: Vec<String>,
    /// Where results.json and results.html go [default: the directory]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Leave this out, as cargo adds it
    #[arg(long, hide = true)]
    bench: bool,
}

/// What was measured, by row.
#[derive(Default)]
struct Samples {
    seconds: BTreeMap<(usize, Contender), Vec<f64>>,
    ahead: BTreeMap<usize, Ahead>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    std::fs::create_dir_all(&arguments.directory)?;
    let directory = std::path::absolute(&arguments.directory)?;
    let disk = Disk::in_directory(&directory)?;
    let site = directory.join("site");
    prepare(disk.root(), &site, arguments.wheels.as_deref())?;
    let server = TestServer::serving(&site);
    let mountpoint = directory.join("mount");
    std::fs::create_dir_all(&mountpoint)?;
    let place = Place {
        disk,
        mountpoint,
        program: std::path::absolute(&arguments.program)?,
        key: site.join(format!("{FQRN}.pub")),
        flags: arguments.flag.clone(),
    };
    let mut contenders = vec![Contender::Native, Contender::Ours];
    let found = std::process::Command::new("cvmfs2").arg("--version").output();
    if found.is_ok_and(|output| output.status.success()) {
        contenders.push(Contender::Cvmfs2);
    }
    let known = Knowledge::of(&place.native())?;
    let mut samples = Samples::default();
    let mut memory = BTreeMap::new();
    for round in 0..arguments.rounds.max(1) {
        for &who in &contenders {
            let result = measure(&arguments, &place, who, server.address(), &known, &mut samples);
            let rss = result.inspect_err(|_| drop(place.hide(who)))?;
            memory.extend(rss.map(|bytes| (who.name(), bytes)));
            eprintln!("round {} of {}: {}", round + 1, arguments.rounds, who.name());
        }
    }
    let lines = ROWS.iter().enumerate().filter_map(|(number, row)| {
        let of = |who: &Contender| {
            let times = Times::of(samples.seconds.get(&(number, *who))?.clone())?;
            Some((who.name(), times))
        };
        let times: BTreeMap<_, _> = contenders.iter().filter_map(of).collect();
        (!times.is_empty()).then(|| Line::new(row, times, samples.ahead.get(&number).copied()))
    });
    let results = Results { lines: lines.collect(), memory };
    let out = arguments.out.unwrap_or(directory);
    std::fs::create_dir_all(&out)?;
    std::fs::write(out.join("results.json"), serde_json::to_vec_pretty(&results)?)?;
    std::fs::write(out.join("results.html"), results.page())?;
    println!("{}", results.table());
    println!("also in {0}/results.json and {0}/results.html", out.display());
    Ok(())
}

/// Makes tree and repository unless they are there.
fn prepare(disk: &Path, site: &Path, wheels: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let (native, key) = (disk.join("native"), site.join(format!("{FQRN}.pub")));
    if !native.exists() {
        eprintln!("making the tree");
        let new = disk.join("native.new");
        run(std::process::Command::new("rm").arg("-rf").arg(&new))?;
        tree::make(&new, wheels)?;
        std::fs::rename(new, &native)?;
    }
    if !key.exists() {
        eprintln!("publishing it");
        let new = site.with_extension("new");
        run(std::process::Command::new("rm").arg("-rf").arg(site).arg(&new))?;
        std::fs::create_dir_all(&new)?;
        let start = Instant::now();
        let published = tree::publish(&native, &new)?;
        std::fs::rename(&new, site)?;
        let (took, catalogs) = (start.elapsed(), published.catalog_count());
        eprintln!("{} entries, {catalogs} catalogs, {took:.1?}", published.tree().len());
    }
    Ok(())
}

/// Goes through the table once for one contender; returns the memory of its server after the walk.
fn measure(
    arguments: &Arguments,
    place: &Place,
    who: Contender,
    server: SocketAddr,
    known: &Knowledge,
    samples: &mut Samples,
) -> Result<Option<u64>, Box<dyn Error>> {
    let mut memory = None;
    let mut filled: Option<Work> = None;
    for (number, row) in ROWS.iter().enumerate() {
        let is_wanted =
            arguments.only.as_ref().is_none_or(|only| row.work.name().contains(only.as_str()));
        let is_native_mount = row.work == Work::Mount && who == Contender::Native;
        if !is_wanted || row.round_trip > arguments.max_round_trip || is_native_mount {
            continue;
        }
        let delay = match row.round_trip {
            0 => None,
            ms => Some(Delay::before(server, Duration::from_millis(ms))?),
        };
        let address = delay.as_ref().map_or(server, Delay::address);
        let url = format!("http://{address}");
        let show = || -> Result<(PathBuf, Duration), Box<dyn Error>> {
            let start = Instant::now();
            let root = place.show(who, &url)?;
            Ok((root, start.elapsed()))
        };
        // Each row begins and ends without a mount.
        let took = match row.state {
            State::Cold | State::Profiled => {
                place.wipe(who)?;
                if row.state == State::Profiled && who == Contender::Ours {
                    let (root, _) = show()?;
                    row.work.run(&root, known)?;
                    place.hide(who)?;
                    let profile = arguments.directory.join("profile");
                    place.export_profile(&profile)?;
                    place.wipe(who)?;
                    place.import_profile(&profile)?;
                }
                place.disk.forget()?;
                let (root, shown) = show()?;
                let took = row.work.run(&root, known)?;
                if who == Contender::Ours
                    && let Some((bytes, used)) = place.fetched_ahead()
                {
                    let ahead = samples.ahead.entry(number).or_default();
                    ahead.bytes += bytes;
                    ahead.used += used;
                }
                if row.work == Work::Mount { shown + took } else { took }
            }
            State::Warm | State::Hot => {
                if filled != Some(row.work) {
                    let (root, _) = show()?;
                    row.work.run(&root, known)?;
                    place.hide(who)?;
                }
                place.disk.forget()?;
                let (root, shown) = show()?;
                let mut took = row.work.run(&root, known)?;
                if row.state == State::Hot {
                    took = row.work.run(&root, known)?;
                }
                if row.work == Work::Mount { shown + took } else { took }
            }
        };
        if row.work == Work::Find && row.state == State::Hot && who != Contender::Native {
            Work::Import.run(&place.mountpoint, known)?;
            memory = place.memory(who);
        }
        filled = Some(row.work);
        place.hide(who)?;
        samples.seconds.entry((number, who)).or_default().push(took.as_secs_f64());
        eprintln!(
            "  {:<8}{:<26}{:?} {} ms: {took:.3?}",
            who.name(),
            row.work.name(),
            row.state,
            row.round_trip
        );
    }
    Ok(memory)
}
