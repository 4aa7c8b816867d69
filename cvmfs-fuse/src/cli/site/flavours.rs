//! What scripts ask of `cvmfs2` itself: words with underscores in the place of a repository
//! (spec/config.md section 5).
//!
//! | word | who uses it |
//! |---|---|
//! | `__wpad__ PROXIES SERVERS` | checks of monitoring: which proxies are meant by `auto` |
//! | `__MK_ALIEN_CACHE__ DIR UID GID` | sites that make a cache for a cluster |
//! | `__RELOAD__ SOCKET` | scripts of packages; is `cvmfs_config reload` of the repository in the name |

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use cvmfs_cache::AlienCache;
use cvmfs_cache::safe_path::{self, PUBLIC};
use cvmfs_core::net::proxy::ProxySpecError;
use cvmfs_core::net::{Discovery, HttpTransport, Names, Proxy, ProxySpec, TransportOptions};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};

use crate::cli::cache::print;
use crate::cli::exit::{ExitStatus, Failure};
use crate::config::parameters::Parameters;
use crate::config::{Configuration, Environment, RepositoryFlags};

/// How long all of the search for proxies may take.
const LIMIT: Duration = Duration::from_secs(20);
/// Mode of an alien cache, as upstream makes it.
const SHARED: u32 = 0o770;

/// Prints a list of proxies with those in it that `auto` means here.
pub(super) fn wpad(
    list: &str,
    servers: &str,
    environment: &Environment,
) -> Result<ExitCode, Failure> {
    if !Discovery::is_wanted(list) {
        print(&format!("{list}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let configuration = Configuration::of(&RepositoryFlags::default(), environment, None)?;
    let flags = configuration.complete(&RepositoryFlags::default(), environment);
    let parameters = Parameters::parse(flags.set.iter().map(String::as_str))?;
    let discovery = Discovery {
        list: list.to_owned(),
        environment: environment.http_proxy.clone(),
        scripts: parameters.pac_urls.clone(),
    };
    let names = Names::new(parameters.names.clone());
    let transport = HttpTransport::new(TransportOptions {
        timeouts: parameters.longest_timeouts(),
        names: names.clone(),
        ..TransportOptions::default()
    });
    let servers: Vec<_> = servers.split([';', ',']).map(str::to_owned).collect();
    let found = crate::cli::runtime()?.block_on(async {
        tokio::time::timeout(LIMIT, discovery.find(&transport, &names, &servers)).await
    });
    let refused = |error: &(dyn std::error::Error + 'static)| {
        Failure::caused(ExitStatus::Proxy, "no proxy found", error)
            .advise("set CVMFS_PAC_URLS, or the variable http_proxy")
    };
    let found = found.map_err(|late| refused(&late))?.map_err(|error| refused(&error))?;
    let spec: ProxySpec = found.parse().map_err(|error: ProxySpecError| refused(&error))?;
    let groups = spec.groups().iter().map(|group| {
        let members = group.iter().map(|proxy| match proxy {
            Proxy::Direct => "DIRECT".to_owned(),
            // Whoever reads this may use them: with their passwords, as they are in the files.
            Proxy::Url(url) => url.as_str().trim_end_matches('/').to_owned(),
        });
        members.collect::<Vec<_>>().join("|")
    });
    print(&(groups.collect::<Vec<_>>().join(";") + "\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Makes an alien cache, or what is missing of one, and gives its directories to a user and a group.
pub(super) fn make_alien_cache(directory: &Path, uid: u32, gid: u32) -> Result<ExitCode, Failure> {
    let refused = |error: &(dyn std::error::Error + 'static)| {
        let what = format!("cannot make an alien cache in {}", directory.display());
        Failure::caused(ExitStatus::CacheDirectory, &what, error)
    };
    // Whoever calls this says with whom it is shared.
    safe_path::make_directories(directory, SHARED, PUBLIC).map_err(|error| refused(&error))?;
    let made = AlienCache::open(directory).map_err(|error| refused(&error))?;
    if made.is_read_only() {
        return Err(refused(&std::io::Error::from(std::io::ErrorKind::PermissionDenied)));
    }
    give(directory, Uid::from_raw(uid), Gid::from_raw(gid)).map_err(|error| refused(&error))?;
    Ok(ExitCode::SUCCESS)
}

/// The directories only: objects may be many, and are readable for all who may enter.
fn give(directory: &Path, uid: Uid, gid: Gid) -> std::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = safe_path::open_directory(directory)?;
    let root = rustix::fs::openat(root, ".", flags, Mode::empty())?;
    let all = ["txn".to_owned(), "quarantaine".to_owned()];
    for name in all.into_iter().chain((0..=u8::MAX).map(|fan| format!("{fan:02x}"))) {
        // What is no directory stays whose it is; a link is not followed.
        if let Ok(inner) = rustix::fs::openat(&root, name, flags, Mode::empty()) {
            rustix::fs::fchown(&inner, Some(uid), Some(gid))?;
        }
    }
    let handle = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&root, ".cvmfscache", handle, Mode::empty()) {
        Ok(marker) => {
            let found = rustix::fs::fstat(&marker)?;
            // With a second name it may be any file of the system.
            if FileType::from_raw_mode(found.st_mode).is_file() && found.st_nlink == 1 {
                rustix::fs::chownat(&marker, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
            }
        }
        Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    rustix::fs::fchown(&root, Some(uid), Some(gid))?;
    Ok(())
}
