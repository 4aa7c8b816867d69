//! What a person decides about servers and proxies while requests are under way.

use std::time::Instant;

use super::super::proxy::{Proxy, ProxySpec};
use super::{Member, Selection};

impl Selection {
    /// Leaves the current server for the next one.
    pub fn next_host(&mut self, now: Instant) {
        if self.hosts.len() > 1 {
            self.switch_host((self.host + 1) % self.hosts.len(), now);
        }
    }

    /// Asks these servers from now on; an empty list changes nothing.
    pub fn set_hosts(&mut self, hosts: Vec<String>) {
        if hosts.is_empty() {
            return;
        }
        self.hosts = hosts.into_iter().map(|host| host.trim_end_matches('/').to_owned()).collect();
        self.host = 0;
        self.host_left = None;
    }

    /// Uses these proxies from now on.
    pub fn set_proxies(&mut self, proxies: &ProxySpec) {
        let member = |proxy: &Proxy| Member { configured: proxy.clone(), used: proxy.clone() };
        let groups = proxies.groups().iter().map(|group| group.iter().map(member).collect());
        self.groups = groups.collect();
        self.group = 0;
        self.group_left = None;
        self.rebalance();
    }

    /// Returns the proxies as they were configured, group by group.
    pub fn configured_proxies(&self) -> Vec<Vec<Proxy>> {
        let of = |group: &Vec<Member>| {
            let mut proxies: Vec<Proxy> = Vec::new();
            for member in group {
                if !proxies.contains(&member.configured) {
                    proxies.push(member.configured.clone());
                }
            }
            proxies
        };
        self.groups.iter().map(of).collect()
    }

    /// Returns each proxy as it was configured and as it is used, group by group.
    pub fn members(&self) -> Vec<Vec<(Proxy, Proxy)>> {
        let of = |group: &Vec<Member>| {
            group.iter().map(|member| (member.configured.clone(), member.used.clone())).collect()
        };
        self.groups.iter().map(of).collect()
    }

    /// Returns the index of the group in use.
    pub fn current_group(&self) -> usize {
        self.group
    }

    /// Uses the whole group again, and chooses anew whom of it.
    pub fn rebalance(&mut self) {
        self.burned.clear();
        self.burning_since = None;
        self.chosen = None;
    }

    /// Leaves the current group for the next one.
    pub fn next_group(&mut self, now: Instant) {
        if self.groups.len() > 1 {
            self.enter_group((self.group + 1) % self.groups.len(), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{SelectionOptions, Walk};
    use super::*;

    fn selection(proxies: &str) -> Selection {
        let hosts = ["http://a", "http://b", "http://c"].map(str::to_owned).to_vec();
        Selection::new(hosts, &proxies.parse().unwrap(), SelectionOptions::default())
    }

    #[test]
    fn other_servers_while_requests_are_under_way() {
        let now = Instant::now();
        let mut selection = selection("DIRECT");
        selection.next_host(now);
        selection.next_host(now);
        let (mut free, mut bound) = (Walk::new(None, 0), Walk::new(Some(2), 0));
        assert_eq!(selection.way(&mut free, now).unwrap().host, 2);
        assert_eq!(selection.way(&mut bound, now).unwrap().host, 2);
        selection.set_hosts(vec!["http://d/".to_owned()]);
        assert_eq!(selection.hosts(), ["http://d"]);
        // One goes on at the new server, the other one's is gone.
        assert_eq!(selection.way(&mut free, now).unwrap().host, 0);
        assert_eq!(selection.way(&mut bound, now), None);
        selection.set_hosts(Vec::new());
        selection.next_host(now);
        assert_eq!((selection.hosts().len(), selection.current_host()), (1, 0));
    }

    #[test]
    fn groups_and_their_members() {
        let now = Instant::now();
        let mut selection = selection("http://p1:1|http://p2:1;http://q:1");
        let url = |text: &str| Proxy::Url(text.to_owned());
        selection.set_addresses(
            &url("http://p1:1"),
            &[url("http://1.1.1.1:1"), url("http://1.1.1.2:1")],
        );
        assert_eq!(selection.members()[0].len(), 3);
        assert_eq!(
            selection.configured_proxies(),
            [vec![url("http://p1:1"), url("http://p2:1")], vec![url("http://q:1")]]
        );
        selection.next_group(now);
        assert_eq!(selection.current_group(), 1);
        assert_eq!(selection.way(&mut Walk::new(None, 0), now).unwrap().proxy, url("http://q:1"));
        selection.next_group(now);
        assert_eq!(selection.current_group(), 0);
        selection.set_proxies(&"DIRECT".parse().unwrap());
        let later = now + Duration::from_secs(10_000);
        assert_eq!(selection.way(&mut Walk::new(None, 0), later).unwrap().proxy, Proxy::Direct);
    }
}
