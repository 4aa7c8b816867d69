//! `completions`, `man`: what is generated from the command line.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;
use cvmfs_cache::safe_path::{OutputMode, write_output};

use super::args::Cli;
use super::exit::{ExitStatus, Failure};

/// `completions SHELL`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Which shell
    pub shell: Shell,
}

/// `man [DIR]`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Where to write cvmfs-fuse.1 and the pages of the subcommands [default: the first one to stdout]
    pub dir: Option<PathBuf>,
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<ExitStatus, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cvmfs-fuse", &mut script);
    print(&script)
}

pub(super) fn pages(args: &ManArgs) -> Result<ExitStatus, Failure> {
    let Some(dir) = &args.dir else {
        return print(&page(Cli::command())?);
    };
    let command = Cli::command();
    // Subcommands learn the flags of all from their parent.
    let mut built = command.clone();
    built.build();
    write(dir, "cvmfs-fuse", &page(command)?)?;
    write_below(dir, "cvmfs-fuse", &built)?;
    Ok(ExitStatus::Ok)
}

/// Writes the pages of all subcommands of one command.
fn write_below(dir: &Path, name: &str, command: &clap::Command) -> Result<(), Failure> {
    for subcommand in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        if subcommand.get_name() == "help" {
            continue;
        }
        let name = format!("{name}-{}", subcommand.get_name());
        // The name of a page has to be 'static for clap; there are some dozens of them.
        let named = subcommand.clone().name(String::leak(name.clone()) as &str);
        write(dir, &name, &page(named)?)?;
        write_below(dir, &name, subcommand)?;
    }
    Ok(())
}

/// Returns a page as troff.
fn page(command: clap::Command) -> Result<Vec<u8>, Failure> {
    let mut page = Vec::new();
    let failed = |error| Failure::caused(ExitStatus::Unknown, "cannot make a manual page", &error);
    Man::new(command.version(env!("CARGO_PKG_VERSION"))).render(&mut page).map_err(failed)?;
    Ok(page)
}

fn write(dir: &Path, name: &str, page: &[u8]) -> Result<(), Failure> {
    let path = dir.join(format!("{name}.1"));
    write_output(&path, page, OutputMode::ByUmask).map_err(|error| {
        Failure::caused(ExitStatus::Unknown, &format!("cannot write {path:?}"), &error)
    })
}

fn print(text: &[u8]) -> Result<ExitStatus, Failure> {
    match io::stdout().lock().write_all(text) {
        // A reader that has enough is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::caused(ExitStatus::Unknown, "cannot write to stdout", &error))
        }
        _ => Ok(ExitStatus::Ok),
    }
}
