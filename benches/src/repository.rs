//! A published repository, opened without a network.

use std::path::Path;
use std::sync::Arc;

use cvmfs_cache::DiskCache;
use cvmfs_core::clock::SystemClock;
use cvmfs_core::format::blocklist::Blocklist;
use cvmfs_core::net::{HttpTransport, ProxySpec, SelectionOptions, Timeouts, TransportOptions};
use cvmfs_core::repository::{ExternalServers, Pin, Repository, RepositoryConfig};
use cvmfs_core::trust::MasterKeys;
use fixtures::publish::Published;
use tokio::runtime::Runtime;

/// Opens what was published from its directory, with a cache in another one.
pub fn open(runtime: &Runtime, published: &Published, cache: &Path) -> Arc<Repository> {
    let key = std::fs::read(published.public_key()).unwrap();
    let config = RepositoryConfig {
        fqrn: published.fqrn().parse().unwrap(),
        servers: vec![format!("file://{}/{}", published.root().display(), published.fqrn())],
        proxy: ProxySpec::direct(),
        keys: MasterKeys::parse([("master", key)]).unwrap(),
        blocklist: Blocklist::default(),
        pin: Pin::Latest,
        symlink_variables: cvmfs_core::catalog::symlink::SymlinkVariables::default(),
        timeouts: Timeouts::default(),
        selection: SelectionOptions::default(),
        wait_for_network: false,
        min_revision: 0,
        names: cvmfs_core::net::Names::default(),
        geo: None,
        max_servers: 0,
        external: ExternalServers::default(),
        descriptors: cvmfs_core::descriptors::DescriptorBudget::default(),
        fetch_ahead: false,
        ahead_bandwidth: None,
        grace: None,
        offline_limit: None,
    };
    let cache = Arc::new(DiskCache::open(cache).unwrap());
    let transport = Arc::new(HttpTransport::new(TransportOptions::default()));
    let opening = Repository::open(config, transport, cache, Arc::new(SystemClock));
    Arc::new(runtime.block_on(opening).unwrap())
}
