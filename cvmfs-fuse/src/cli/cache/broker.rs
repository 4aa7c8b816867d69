//! `cache broker`: the one process that writes to a cache among users who do not trust each other.

use cvmfs_cache::{Broker, BrokerOptions, Peers};
use tokio::signal::unix::{SignalKind, signal};

use super::print;
use crate::cli::args::CacheBrokerArgs;
use crate::cli::exit::{ExitStatus, Failure};
use crate::cli::runtime;
use crate::config::cache::CacheFlags;
use crate::config::{CacheSettings, Environment};

/// Serves until SIGTERM or SIGINT.
pub(super) fn run(
    args: &CacheBrokerArgs,
    environment: &Environment,
) -> Result<ExitStatus, Failure> {
    let flags = CacheFlags {
        cache_dir: args.directory.cache_dir.clone(),
        quota: args.quota.clone(),
        cache_broker: args.socket.clone(),
        ..CacheFlags::default()
    };
    let settings = CacheSettings::resolve(&flags, environment)?;
    let peers = peers(&args.allow)?;
    let cache = settings.open_directory()?;
    if cache.sharing() != cvmfs_cache::Sharing::Private {
        let message = format!("{} can be written by others", settings.directory.display());
        return Err(Failure::new(ExitStatus::CacheDirectory, message)
            .advise("a broker needs a directory of its own: chmod 0700, or another --cache-dir"));
    }
    let listening = |error: cvmfs_core::cache::CacheError| {
        Failure::caused(ExitStatus::CacheDirectory, "cannot start the broker", &error)
            .advise("give another --socket")
    };
    // Before the socket is there, so that no signal is missed.
    let runtime = runtime()?;
    let mut signals = {
        let _inside = runtime.enter();
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Failure::caused(ExitStatus::Unknown, "cannot listen to signals", &error)
            })
        };
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?)
    };
    let options = BrokerOptions { socket: settings.broker.clone(), peers };
    let broker = Broker::bind(options, cache).map_err(listening)?;
    let stop = broker.stopper();
    print(&format!(
        "broker of {} listens on {}\n",
        settings.directory.display(),
        settings.broker.display()
    ))?;
    let serving = std::thread::Builder::new()
        .name("cvmfs-broker".to_owned())
        .spawn(move || broker.serve())
        .map_err(|error| Failure::caused(ExitStatus::Unknown, "cannot start a thread", &error))?;
    runtime.block_on(async {
        tokio::select! {
            _ = signals.0.recv() => {}
            _ = signals.1.recv() => {}
        }
    });
    stop();
    match serving.join() {
        Ok(Ok(())) => Ok(ExitStatus::Ok),
        Ok(Err(error)) => Err(Failure::caused(ExitStatus::Unknown, "the broker failed", &error)),
        Err(_) => Err(Failure::new(ExitStatus::Unknown, "the broker died")),
    }
}

/// Parses `--allow`: `all`, numbers of users, and `@` with numbers of groups.
pub(in crate::cli) fn peers(texts: &[String]) -> Result<Peers, Failure> {
    let (mut users, mut groups) = (Vec::new(), Vec::new());
    for text in texts {
        let wrong = |_| {
            let message = format!("--allow {text}: neither all, nor a UID, nor @GID");
            Failure::new(ExitStatus::Options, message)
        };
        match text.strip_prefix('@') {
            _ if text == "all" => return Ok(Peers::All),
            Some(group) => groups.push(group.parse().map_err(wrong)?),
            None => users.push(text.parse().map_err(wrong)?),
        }
    }
    Ok(Peers::Listed { users, groups })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_connect() {
        let parse =
            |texts: &[&str]| peers(&texts.iter().map(|&t| t.to_owned()).collect::<Vec<_>>());
        assert_eq!(parse(&["5", "all"]).unwrap(), Peers::All);
        let listed = Peers::Listed { users: vec![1000, 1001], groups: vec![50] };
        assert_eq!(parse(&["1000", "@50", "1001"]).unwrap(), listed);
        for bad in ["", "@", "root", "-1"] {
            assert_eq!(parse(&[bad]).unwrap_err().status, ExitStatus::Options, "{bad}");
        }
    }
}
