//! `profile record`: a profile of one command.
//!
//! The server of the mount sees what is used, and keeps the profile; asking for an attribute makes it
//! store what it learnt. So this compares the record after the command with the one before it.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::io::Errno;

use super::{Kept, write};
use crate::cli::args::ProfileRecordArgs;
use crate::cli::complain;
use crate::cli::exit::{ExitStatus, Failure};
use crate::config::Environment;
use crate::inherited;

/// Attributes are short.
const MAX_ATTRIBUTE: usize = 512;
/// As a shell says that a command was not found, or cannot be executed.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;
/// As a shell says that a signal ended it.
const BY_SIGNAL: i32 = 128;

/// Runs a command and writes what it used.
pub(in crate::cli) fn run(
    args: &ProfileRecordArgs,
    environment: &Environment,
) -> Result<ExitCode, Failure> {
    let kept = Kept::open(&args.place, false, environment)?;
    let mount = match &args.mount {
        Some(mount) => mount.clone(),
        None => PathBuf::from("/cvmfs").join(kept.fqrn.as_str()),
    };
    let shown = attribute(&mount, "user.fqrn")?;
    if shown.as_deref() != Some(kept.fqrn.as_str()) {
        let message = format!("{} is not mounted on {}", kept.fqrn, mount.display());
        return Err(Failure::new(ExitStatus::Unknown, message).advise("give --mount DIR"));
    }
    saved(&mount)?;
    let before = kept.load();
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(Failure::new(ExitStatus::Options, "no command"));
    };
    let mut command = Command::new(program);
    command.args(arguments);
    // SAFETY: between fork and exec only system calls are made, and no memory is allocated.
    unsafe { command.pre_exec(inherited::restore) };
    let ended = match command.status() {
        Ok(ended) => ended,
        Err(error) => {
            let code = match error.kind() {
                io::ErrorKind::NotFound => NOT_FOUND,
                _ => NOT_EXECUTABLE,
            };
            let what = format!("cannot run {}", Path::new(program).display());
            complain(&Failure::caused(ExitStatus::Unknown, &what, &error));
            return Ok(ExitCode::from(code));
        }
    };
    saved(&mount)?;
    let used = kept.load().since(&before);
    if used.is_empty() {
        let message = format!(
            "the mount on {} stored nothing new in {}",
            mount.display(),
            kept.directory.display()
        );
        return Err(Failure::new(ExitStatus::Unknown, message).advise(
            "give the --cache-dir of the mount; mount anew, as what the kernel has in memory is \
             not asked for; four files are the least that is a program",
        ));
    }
    write(&args.output, &used.to_text(kept.fqrn.as_str()))?;
    let code = ended.code().or_else(|| Some(BY_SIGNAL + ended.signal()?)).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// Makes the server store what it learnt.
fn saved(mount: &Path) -> Result<(), Failure> {
    match attribute(mount, "user.profile_saved")? {
        Some(_) => Ok(()),
        None => {
            let message = format!("the mount on {} learns nothing", mount.display());
            Err(Failure::new(ExitStatus::Unknown, message)
                .advise("it has CVMFS_FUSE_PREFETCH=no, or is of an older version"))
        }
    }
}

fn attribute(mount: &Path, name: &str) -> Result<Option<String>, Failure> {
    let mut value = [0; MAX_ATTRIBUTE];
    match rustix::fs::getxattr(mount, name, &mut value[..]) {
        Ok(len) => {
            let value = value.get(..len).unwrap_or_default();
            Ok(Some(String::from_utf8_lossy(value).into_owned()))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => {
            let what = format!("cannot ask the mount on {}", mount.display());
            Err(Failure::caused(ExitStatus::Unknown, &what, &error).advise("give --mount DIR"))
        }
    }
}
