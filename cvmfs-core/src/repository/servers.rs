//! The servers of a repository and those of its external data, nearest first if that is wanted.

use std::sync::Arc;

use super::RepositoryConfig;
use crate::fetch::Fetcher;
use crate::net::{Downloader, ProxySpec, Selection, Timeouts, Transport, geo};

/// Servers of external data (spec/format.md section 18); without any, such files are EIO.
#[derive(Debug, Clone, Default)]
pub struct ExternalServers {
    /// Base URLs, templates expanded; the path of the file is appended.
    pub servers: Vec<String>,
    /// How to get there.
    pub proxy: ProxySpec,
    /// Bounds of every network wait.
    pub timeouts: Timeouts,
    /// Servers used, the nearest or first ones; 0: all.
    pub max_servers: usize,
}

impl ExternalServers {
    pub(super) fn downloader(
        &self,
        transport: Arc<dyn Transport>,
        config: &RepositoryConfig,
    ) -> Option<Downloader> {
        if self.servers.is_empty() {
            return None;
        }
        let selection = Selection::new(self.servers.clone(), &self.proxy, config.selection);
        let downloader = Downloader::new(transport, selection, self.timeouts);
        Some(downloader.resolving(config.names.clone()))
    }
}

/// Places of the repository's servers and of the external ones, nearest first.
#[derive(Default)]
pub(super) struct Orders {
    servers: Option<Vec<usize>>,
    external: Option<Vec<usize>>,
}

pub(super) async fn find_order(config: &RepositoryConfig, fetcher: &Fetcher) -> Orders {
    let Some(options) = &config.geo else { return Orders::default() };
    let asked = fetcher.downloader();
    let (servers, external) = tokio::join!(
        geo::order(asked, options),
        geo::order_others(asked, &config.external.servers, options),
    );
    Orders { servers, external }
}

/// Orders the servers, and keeps as many as wanted: the nearest, or the first if nobody could tell.
pub(super) fn apply_order(config: &RepositoryConfig, fetcher: &Fetcher, orders: Orders) {
    if config.geo.is_some() {
        reorder(fetcher.downloader(), orders.servers, config.max_servers);
    }
    if let Some(external) = fetcher.external() {
        reorder(external, orders.external, config.external.max_servers);
    }
}

fn reorder(downloader: &Downloader, order: Option<Vec<usize>>, max_servers: usize) {
    if order.is_none() && max_servers == 0 {
        return;
    }
    let order = order.unwrap_or_else(|| (0..downloader.hosts().len()).collect());
    downloader.selection(|selection| selection.reorder_hosts(&order, max_servers));
}
