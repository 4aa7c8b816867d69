//! `talk`: asks a live mount, or tells it to do something, with upstream's commands. Called
//! `cvmfs_talk`, it is this command.

use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::mounts;
use crate::cli::exit::{ExitStatus, Failure};
use crate::config::Environment;
use crate::config::environment::absolute;
use crate::fuse::mountinfo::show;
use crate::talk::address::{Address, workspaces};
use crate::talk::client::{ANSWER_LIMIT, AskError, ask, ask_text};
use crate::talk::mounts::Found;
use crate::talk::wire::{REFUSAL, Request, UNSEEN};

/// `talk [-i FQRN|MOUNTPOINT | -p SOCKET] COMMAND`.
#[derive(Debug, Args)]
pub struct TalkArgs {
    /// The repository, or where it is mounted; without it all that are found here are asked
    #[arg(short, long, value_name = "FQRN|DIR", conflicts_with = "socket")]
    pub instance: Option<PathBuf>,

    /// The control socket
    #[arg(short = 'p', long, value_name = "FILE")]
    pub socket: Option<PathBuf>,

    /// Print answers as JSON, one object a line
    #[arg(long)]
    pub json: bool,

    /// What is asked or to be done, e.g. cache size
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Whom to ask about which repository.
struct Partner {
    address: Address,
    repository: Option<String>,
}

/// Runs the command.
pub(in crate::cli) fn run(
    args: &TalkArgs,
    environment: &Environment,
) -> Result<ExitStatus, Failure> {
    let command = args.command.join(" ");
    if let Some(socket) = &args.socket {
        let address = Address::Path(socket.clone());
        let name = socket.display().to_string();
        let partner = Partner { address, repository: None };
        return told(exchange(&partner, &command, args.json), &name, parent(socket));
    }
    if let Some(instance) = &args.instance {
        let (partner, name, directory) = find(instance, environment)?;
        return told(exchange(&partner, &command, args.json), &name, &directory);
    }
    let mut all = Vec::new();
    let mut refusal = None;
    for found in mounts()? {
        if let Err(error @ AskError::Refused { .. }) = &found.status {
            refusal = Some(format!("{}: {error}", show(&found.mount.mountpoint)));
        }
        for status in found.status.into_iter().flatten() {
            let address = found.mount.address();
            let repository = Some(status.repository);
            all.push(Partner { address, repository });
        }
    }
    if all.is_empty() {
        let message = match refusal {
            Some(refusal) => format!("no mount answers; {refusal}"),
            None => "no mount is found here that answers".to_owned(),
        };
        return Err(Failure::new(ExitStatus::Unknown, message));
    }
    let mut outcome = ExitStatus::Ok;
    for partner in all {
        let name = partner.repository.clone().unwrap_or_default();
        if !args.json {
            print(format!("{name}:\n").as_bytes())?;
        }
        let directory = PathBuf::from("/");
        match told(exchange(&partner, &command, args.json), &name, &directory)? {
            ExitStatus::Ok => {}
            worse => outcome = worse,
        }
    }
    Ok(outcome)
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// Finds whom to ask: the socket in the workspace where upstream's tool looks, or the mount itself.
fn find(instance: &Path, environment: &Environment) -> Result<(Partner, String, PathBuf), Failure> {
    let named = instance.as_os_str().as_bytes();
    if named.contains(&b'/') {
        return at_directory(instance);
    }
    let name = instance.display().to_string();
    let workspaces = workspaces(environment);
    let found = crate::talk::mounts::showing(&name).map_err(|error| {
        Failure::caused(ExitStatus::Unknown, "cannot read /proc/self/mountinfo", &error)
    })?;
    if let Some(found) = found {
        let address = found.address();
        let partner = Partner { address, repository: Some(name.clone()) };
        let workspace = workspaces.into_iter().next().unwrap_or_default();
        return Ok((partner, name, workspace));
    }
    // For who may not enter the control directory (CVMFS_TALK_OWNER), of another version, or of upstream's client.
    let sockets = workspaces.iter().map(|workspace| Address::in_workspace(workspace, &name));
    let is_there = |address: &Address| matches!(address, Address::Path(path) if path.exists());
    let there = sockets.clone().zip(&workspaces).find(|(address, _)| is_there(address));
    if there.is_none()
        && let Some(silent) = unwilling(&name)?
    {
        let (address, mountpoint) = (silent.address(), silent.mount.mountpoint);
        return Ok((Partner { address, repository: Some(name.clone()) }, name, mountpoint));
    }
    let first = workspaces.first().cloned().unwrap_or_default();
    let (address, workspace) = match there {
        Some((address, workspace)) => (address, workspace.clone()),
        None => (Address::in_workspace(&first, &name), first),
    };
    Ok((Partner { address, repository: None }, name, workspace))
}

/// A mount that does not talk to us, and may be the one with a repository: the one that is named so, or
/// else any.
fn unwilling(name: &str) -> Result<Option<Found>, Failure> {
    let mut refusing = mounts()?;
    refusing.retain(|found| matches!(found.status, Err(AskError::Refused { .. })));
    let is_named_so = |found: &Found| found.mount.mountpoint.file_name() == Some(name.as_ref());
    let at = refusing.iter().position(is_named_so).unwrap_or(0);
    Ok((!refusing.is_empty()).then(|| refusing.swap_remove(at)))
}

fn at_directory(directory: &Path) -> Result<(Partner, String, PathBuf), Failure> {
    let name = show(directory);
    let trouble = |error: io::Error| Failure::caused(ExitStatus::Unknown, &name, &error);
    let path = absolute(directory).map_err(trouble)?;
    let found = crate::talk::mounts::of_path(&path).map_err(trouble)?;
    let (mount, inside) = found.ok_or_else(|| {
        Failure::new(ExitStatus::Unknown, format!("{name}: no repository is mounted"))
    })?;
    let repository = inside.iter().next().map(|first| first.to_string_lossy().into_owned());
    let (address, mountpoint) = (mount.address(), mount.mountpoint);
    // Below a mount of one repository are its own directories.
    let repository = repository.filter(|name| name.parse::<cvmfs_core::fqrn::Fqrn>().is_ok());
    let Some(repository) = repository.filter(|name| shows_several(&address, name)) else {
        return Ok((Partner { address, repository: None }, name, mountpoint));
    };
    let is_open = tell(&address, "repositories", None);
    if is_open.is_some_and(|text| text.lines().all(|line| line != repository)) {
        // Else the answer would be that of another one.
        let message = format!("{name}: {repository} is not open in this mount");
        return Err(Failure::new(ExitStatus::Unknown, message));
    }
    Ok((Partner { address, repository: Some(repository) }, name, mountpoint))
}

/// Tells whether repositories are below a mount: each is somewhere else then.
fn shows_several(address: &Address, name: &str) -> bool {
    let of_all = tell(address, "mountpoint", None);
    of_all.is_some() && of_all != tell(address, "mountpoint", Some(name.to_owned()))
}

fn tell(address: &Address, command: &str, repository: Option<String>) -> Option<String> {
    let request = Request { command: command.to_owned(), repository };
    ask(address, &request, crate::talk::mounts::PATIENCE).ok().map(|reply| reply.text)
}

fn exchange(partner: &Partner, command: &str, json: bool) -> Result<Vec<u8>, AskError> {
    let Partner { address, repository } = partner;
    if !json && repository.is_none() {
        return ask_text(address, command, ANSWER_LIMIT);
    }
    let request = Request { command: command.to_owned(), repository: repository.clone() };
    let reply = ask(address, &request, ANSWER_LIMIT)?;
    Ok(match json {
        true => crate::escape::json(&reply).unwrap_or_default().into_bytes(),
        false => reply.text.into_bytes(),
    })
}

/// Prints an answer, or says why there is none in the words that scripts look for.
fn told(
    answer: Result<Vec<u8>, AskError>,
    name: &str,
    directory: &Path,
) -> Result<ExitStatus, Failure> {
    let directory = directory.display();
    let message = match answer {
        Ok(mut text) => {
            if text.last() != Some(&b'\n') {
                text.push(b'\n');
            }
            print(&text)?;
            return Ok(ExitStatus::Ok);
        }
        Err(AskError::Connect { address, source }) if source.kind() == io::ErrorKind::NotFound => {
            format!("Seems like CernVM-FS is not running in {directory} (not found: {address})")
        }
        Err(error @ (AskError::Refused { .. } | AskError::Unseen { .. })) => {
            let number = libc::EACCES;
            let text = nix::errno::Errno::EACCES.desc();
            let why = if matches!(error, AskError::Unseen { .. }) { UNSEEN } else { REFUSAL };
            format!(
                "Could not access instance '{name}' active in {directory} ({number} - {text}: {why})"
            )
        }
        Err(AskError::Connect { source, .. } | AskError::Broken { source, .. })
            if source.raw_os_error().is_some() =>
        {
            let number = source.raw_os_error().unwrap_or(0);
            let text = nix::errno::Errno::from_raw(number).desc();
            format!("Could not access instance '{name}' active in {directory} ({number} - {text})")
        }
        Err(error) => {
            format!(
                "Could not access instance '{name}' active in {directory} ({})",
                cvmfs_core::chain::chain(&error)
            )
        }
    };
    // Scripts match the line as a whole.
    let _ = writeln!(io::stderr(), "{}", crate::escape::one_line(&message));
    Ok(ExitStatus::Unknown)
}

fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(crate::escape::lines_of(bytes).as_bytes()).and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::caused(ExitStatus::Unknown, "cannot write to stdout", &error))
        }
        _ => Ok(()),
    }
}
