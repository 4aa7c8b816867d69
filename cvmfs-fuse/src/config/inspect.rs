//! From settings to what each server and proxy says, for `doctor`, `mirrors` and `chksetup`.

pub mod reach;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cvmfs_core::cache::MemoryCache;
use cvmfs_core::clock::SystemClock;
use cvmfs_core::format::blocklist::Blocklist;
use cvmfs_core::mirrors::{Examiner, Plan};
use cvmfs_core::net::{Downloader, HttpTransport, Names, Proxy, Selection, TransportOptions};
use cvmfs_core::repository::{Inspection, RepositoryConfig, inspect};
use futures_util::future::join_all;

use super::environment::Environment;
use super::settings::RepositorySettings;
use super::trust;
use crate::cli::exit::Failure;

/// Longest time for one server: all its letters, by all proxies. Those who ask are waiting.
const SERVER_LIMIT: Duration = Duration::from_secs(40);
/// Longest time for the connection to a proxy.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Longest time for the question whether a server is there.
const ONLINE_LIMIT: Duration = Duration::from_secs(10);
/// Longest manifest that is read; real ones have some hundred bytes.
const LETTER_LIMIT: u64 = 1 << 20;

/// The ways to the servers, and what was found on them.
pub struct Ways {
    config: RepositoryConfig,
    transport: Arc<HttpTransport>,
}

impl RepositorySettings {
    /// Finds the proxies, if they are to be found.
    pub async fn ways(&self) -> Result<Ways, Failure> {
        let (mut config, transport) = self.connect(1);
        let found = self.find_proxies(&config, &transport, &MemoryCache::default()).await?;
        config.proxy = found.spec;
        Ok(Ways { config, transport })
    }
}

impl RepositorySettings {
    /// Prepares a comparison of all servers, after the proxies are found.
    pub async fn examiner(&self, plan: Plan) -> Result<Examiner, Failure> {
        let Ways { config, transport } = self.ways().await?;
        Ok(Examiner::new(config, transport, &self.authorities, plan))
    }
}

impl Ways {
    /// Asks every server at once; `None` for one that took too long.
    pub async fn servers(&self) -> Vec<(String, Option<Inspection>)> {
        let ask = |server: &String| {
            let server = server.clone();
            async move {
                let transport = Arc::clone(&self.transport);
                let asked = inspect(&self.config, transport, &server, &SystemClock);
                let answer = tokio::time::timeout(SERVER_LIMIT, asked).await.ok();
                (server, answer)
            }
        };
        join_all(self.config.servers.iter().map(ask)).await
    }

    /// Connects to every proxy at once; the name without password, and the time or the failure.
    pub async fn proxies(&self) -> Vec<(String, Result<Duration, String>)> {
        let proxies = self.config.proxy.groups().iter().flatten();
        let connected = proxies.filter_map(|proxy| {
            let Proxy::Url(url) = proxy else { return None };
            let shown = proxy.display();
            let names = &self.config.names;
            Some(async move {
                let start = Instant::now();
                let tried = tokio::time::timeout(CONNECT_LIMIT, connect(url, names)).await;
                let limit = || Err(format!("no answer within {} s", CONNECT_LIMIT.as_secs()));
                (shown, tried.unwrap_or_else(|_| limit()).map(|()| start.elapsed()))
            })
        });
        join_all(connected).await
    }
}

/// Asks whether a server can be reached by a proxy, both as mounts show them; `None` if the proxy
/// cannot be used, since its password is not shown.
pub fn is_online(server: &str, proxy: &str, settings: Option<&RepositorySettings>) -> Option<bool> {
    let stated = settings.map(|settings| settings.proxy.groups()).unwrap_or_default();
    let stated = stated.iter().flatten().find(|stated| stated.display() == proxy);
    let spec = match stated {
        Some(Proxy::Url(url)) => url.as_str(),
        _ if proxy.contains(":***@") => return None,
        _ => proxy,
    };
    let parameters = settings.map(|settings| settings.parameters.clone()).unwrap_or_default();
    let transport = HttpTransport::new(TransportOptions {
        timeouts: parameters.timeouts,
        follow_redirects: parameters.follow_redirects,
        authorities: settings.map(|settings| settings.authorities.clone()).unwrap_or_default(),
        ..TransportOptions::default()
    });
    let selection =
        Selection::new(vec![server.to_owned()], &spec.parse().ok()?, parameters.selection);
    let downloader = Downloader::new(Arc::new(transport), selection, parameters.timeouts);
    let asked = async {
        let fetched = downloader.fetch_letter(".cvmfspublished", LETTER_LIMIT, 0);
        tokio::time::timeout(ONLINE_LIMIT, fetched).await.is_ok_and(|answer| answer.is_ok())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    Some(runtime.block_on(asked))
}

async fn connect(url: &str, names: &Names) -> Result<(), String> {
    let url = url::Url::parse(url).map_err(|error| error.to_string())?;
    let host = url.host().ok_or("it has no host")?;
    let port = url.port_or_known_default().unwrap_or(3128);
    let addresses = match host {
        url::Host::Ipv4(address) => vec![address.into()],
        url::Host::Ipv6(address) => vec![address.into()],
        url::Host::Domain(name) => {
            names.lookup(name).await.map_err(|error| error.to_string())?.to_vec()
        }
    };
    let mut failure = "its name has no address".to_owned();
    for address in addresses {
        match tokio::net::TcpStream::connect((address, port)).await {
            Ok(_) => return Ok(()),
            Err(error) => failure = error.to_string(),
        }
    }
    Err(failure)
}

/// Reads the blocklist of this machine as it is now.
pub fn present_blocklist(environment: &Environment) -> Result<Blocklist, Failure> {
    trust::blocklist(&environment.blocklist_file())
}
