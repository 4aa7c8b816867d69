use super::*;
use FailureClass::{BadData, Busy, Final, HostHttp, HostTransfer, ProxyHttp, ProxyTransfer};

fn failure(class: FailureClass) -> Failure {
    Failure { class, transient: false, retry_after: None }
}

fn selection(hosts: &str, proxies: &str, options: SelectionOptions) -> Selection {
    let hosts = hosts.split(';').map(|host| format!("http://{host}")).collect();
    Selection::seeded(hosts, &proxies.parse().unwrap(), options, 7)
}

fn name(way: &Way) -> String {
    let host = ["A", "B", "C"][way.host];
    match &way.proxy {
        Proxy::Direct => host.to_owned(),
        Proxy::Url(url) => format!("{host} {}", url.trim_start_matches("http://")),
    }
}

/// The ways of one request that fails as `fails` says for each.
fn walked(
    selection: &mut Selection,
    now: Instant,
    fails: impl Fn(&Way, usize) -> Failure,
) -> Vec<String> {
    let mut walk = Walk::new(None, 0);
    let mut seen = Vec::new();
    while let Some(way) = selection.way(&mut walk, now) {
        let cache = if walk.no_cache() { " fresh" } else { "" };
        seen.push(name(&way) + cache);
        assert!(seen.len() < 100, "{seen:?}");
        if selection.failed(&mut walk, &fails(&way, seen.len()), now) == Next::GiveUp {
            break;
        }
    }
    seen
}

fn transfer(way: &Way) -> Failure {
    failure(if way.proxy == Proxy::Direct { HostTransfer } else { ProxyTransfer })
}

const RETRIES: SelectionOptions = SelectionOptions {
    max_retries: 1,
    backoff_init: Duration::ZERO,
    backoff_max: Duration::ZERO,
    host_reset_after: Duration::from_secs(3),
    proxy_reset_after: Duration::from_secs(3),
    shard: false,
};

/// The table of spec/network.md section 15.
#[test]
fn worked_examples() {
    let now = Instant::now();
    let all_down = |way: &Way, _| transfer(way);
    let seen = walked(&mut selection("a;b", "p1|p2", RETRIES), now, all_down);
    let (first, second) = if seen[0] == "A p1" { ("p1", "p2") } else { ("p2", "p1") };
    assert_eq!(seen[..3], [format!("A {first}"), format!("A {first}"), format!("A {second}")]);
    assert_eq!(seen.len(), 5);
    assert!(seen[3] != seen[4] && seen[3..].iter().all(|way| way.starts_with("B p")), "{seen:?}");

    let seen = walked(&mut selection("a;b", "p1|p2;DIRECT", RETRIES), now, all_down);
    assert_eq!(seen[0], seen[1]);
    assert_ne!(seen[1], seen[2]);
    assert_eq!(seen[3..], ["A", "B"]);

    let seen = walked(&mut selection("a;b", "DIRECT", RETRIES), now, all_down);
    assert_eq!(seen, ["A", "A", "B"]);

    let mut one = selection("a;b", "p1", RETRIES);
    assert_eq!(walked(&mut one, now, |_, _| failure(HostHttp)), ["A p1", "B p1"]);
    let mut two = selection("a", "p1|p2", RETRIES);
    assert_eq!(walked(&mut two, now, |_, _| failure(ProxyHttp)).len(), 2);
    let mut bad = selection("a;b", "p1", RETRIES);
    let seen = walked(&mut bad, now, |_, _| failure(BadData));
    assert_eq!(seen, ["A p1", "A p1 fresh", "B p1", "B p1 fresh"]);
    let mut ours = selection("a;b", "p1", RETRIES);
    assert_eq!(walked(&mut ours, now, |_, _| failure(Final)), ["A p1"]);
    let mut none = Selection::seeded(vec![], &ProxySpec::direct(), RETRIES, 1);
    assert!(walked(&mut none, now, all_down).is_empty());
}

#[test]
fn the_number_of_attempts_is_bounded_and_nothing_else_is_asked() {
    let now = Instant::now();
    for (hosts, proxies, most) in [("a;b;c", "p|q;r|s;DIRECT", 2 * 5 * 3), ("a", "p;q", 4)] {
        let mut set = selection(hosts, proxies, RETRIES);
        for _ in 0..5 {
            let seen = walked(&mut set, now, |way, n| match (&way.proxy, n % 3) {
                (Proxy::Url(_), 0) => failure(ProxyHttp),
                (_, 1) => failure(BadData),
                _ => transfer(way),
            });
            assert!(seen.len() <= most, "{seen:?}");
        }
    }
}

#[test]
fn groups_are_used_in_order_and_come_back_after_their_time() {
    let start = Instant::now();
    let mut set = selection("a", "p;q;DIRECT", RETRIES);
    assert_eq!(walked(&mut set, start, |way, _| transfer(way)), ["A p", "A p", "A q", "A"]);
    // All failed once, so the last group is the current one until the time is over.
    let once = |set: &mut Selection, now| name(&set.way(&mut Walk::new(None, 0), now).unwrap());
    assert_eq!(once(&mut set, start), "A");
    assert_eq!(once(&mut set, start + Duration::from_secs(3)), "A");
    assert_eq!(once(&mut set, start + Duration::from_millis(3001)), "A p");

    let mut set = selection("a", "p|q", RETRIES);
    let burned =
        walked(&mut set, start, |way, n| if n < 3 { transfer(way) } else { failure(Final) });
    assert_eq!(burned.len(), 3);
    let left = once(&mut set, start);
    assert_eq!(left, burned[2], "the other one is burned");
    let seen: std::collections::HashSet<_> = (0..64)
        .map(|n| {
            let now = start + Duration::from_secs(4);
            let proxies: ProxySpec = "p|q".parse().unwrap();
            let hosts = vec!["http://a".to_owned()];
            once(&mut Selection::seeded(hosts, &proxies, RETRIES, n), now)
        })
        .collect();
    assert_eq!(seen.len(), 2, "the load is shared over clients");
}

#[test]
fn a_server_that_was_left_comes_back_after_its_time() {
    let start = Instant::now();
    let mut set = selection("a;b;c", "DIRECT", RETRIES);
    let mut walk = Walk::new(None, 0);
    let way = set.way(&mut walk, start).unwrap();
    assert_eq!(way.host, 0);
    // Two requests fail on the same server: it is switched once.
    let mut other = walk.clone();
    set.failed(&mut walk, &failure(HostHttp), start);
    set.failed(&mut other, &failure(HostHttp), start);
    assert_eq!(set.current_host(), 1);
    let later = start + Duration::from_secs(2);
    let mut third = Walk::new(None, 0);
    set.way(&mut third, later);
    set.failed(&mut third, &failure(HostHttp), later);
    assert_eq!(set.current_host(), 2);
    // Counted from the first switch.
    set.way(&mut Walk::new(None, 0), start + Duration::from_secs(3));
    assert_eq!(set.current_host(), 2);
    set.way(&mut Walk::new(None, 0), start + Duration::from_millis(3001));
    assert_eq!(set.current_host(), 0);
    // Letters of one server stay there and switch nothing.
    let mut only = Walk::new(Some(2), 0);
    assert_eq!(set.way(&mut only, later).unwrap().host, 2);
    assert_eq!(set.failed(&mut only, &failure(HostHttp), later), Next::GiveUp);
    assert_eq!(set.current_host(), 0);
}

#[test]
fn patience_is_bounded_and_only_without_another_way() {
    let now = Instant::now();
    let none = SelectionOptions { max_retries: 0, ..RETRIES };
    let asked = |seconds| Failure {
        class: HostTransfer,
        transient: true,
        retry_after: Some(Duration::from_secs(seconds)),
    };
    for (hosts, options, seconds, expected) in [
        ("a", RETRIES, 3, Next::Again(Duration::from_secs(3))),
        ("a", none, 3, Next::Again(Duration::from_secs(3))),
        ("a", none, 86_400, Next::Again(MAX_RETRY_AFTER)),
        ("a;b", RETRIES, 3, Next::Again(Duration::ZERO)),
    ] {
        let mut set = selection(hosts, "DIRECT", options);
        let mut walk = Walk::new(None, 0);
        set.way(&mut walk, now);
        assert_eq!(set.failed(&mut walk, &asked(seconds), now), expected, "{hosts} {seconds}");
    }
    let cut = Failure { class: HostTransfer, transient: true, retry_after: None };
    assert_eq!(walked(&mut selection("a", "DIRECT", none), now, |_, _| cut), ["A", "A"]);
    assert_eq!(walked(&mut selection("a;b", "DIRECT", none), now, |_, _| cut), ["A", "B"]);
}

#[test]
fn what_others_switch_meanwhile_hides_no_way() {
    let now = Instant::now();
    let none = SelectionOptions { max_retries: 0, ..RETRIES };
    for seed in 0..200 {
        let hosts = vec!["http://a".to_owned(), "http://b".to_owned()];
        let mut set = Selection::seeded(hosts, &"p|q".parse().unwrap(), none, seed);
        // Only one way is good; four requests go side by side and switch for each other.
        let good = ["A p", "A q", "B p", "B q"][usize::try_from(seed % 4).unwrap()];
        let mut walks: Vec<_> = (0..4).map(|_| (Walk::new(None, 0), Vec::new())).collect();
        let mut left = walks.len();
        while left > 0 {
            let mut ways = Vec::new();
            for (walk, seen) in &mut walks {
                let done = seen.last().is_some_and(|last| last == good);
                ways.push((!done).then(|| set.way(walk, now).unwrap()));
            }
            left = 0;
            for ((walk, seen), way) in walks.iter_mut().zip(ways) {
                let Some(way) = way else { continue };
                seen.push(name(&way));
                if name(&way) != good {
                    let next = set.failed(walk, &failure(ProxyTransfer), now);
                    assert_ne!(next, Next::GiveUp, "{seed}: {good} was not tried: {seen:?}");
                    left += 1;
                }
                let mut once = seen.clone();
                once.sort_unstable();
                once.dedup();
                assert_eq!(once.len(), seen.len(), "{seed}: {seen:?}");
            }
        }
    }
}

#[test]
fn backoff_is_random_doubles_and_has_a_ceiling() {
    let now = Instant::now();
    let options = SelectionOptions {
        max_retries: 20,
        backoff_init: Duration::from_secs(2),
        backoff_max: Duration::from_secs(10),
        ..RETRIES
    };
    let mut set = selection("a", "DIRECT", options);
    let mut walk = Walk::new(None, 0);
    let mut waits = Vec::new();
    loop {
        set.way(&mut walk, now);
        match set.failed(&mut walk, &failure(HostTransfer), now) {
            Next::Again(wait) => waits.push(wait),
            Next::GiveUp => break,
        }
    }
    assert_eq!(waits.len(), 20);
    assert!(waits[0] <= Duration::from_secs(2));
    for pair in waits.windows(2) {
        assert_eq!(pair[1], (pair[0] * 2).min(Duration::from_secs(10)));
    }
    assert_eq!(waits[19], Duration::from_secs(10));
}

#[test]
fn addresses_of_a_name_are_members_of_their_group() {
    let now = Instant::now();
    let mut set = selection("a", "p|q;DIRECT", RETRIES);
    let url = |text: &str| Proxy::Url(format!("http://{text}"));
    let p = url("p");
    set.set_addresses(&p, &[url("10.0.0.1"), url("10.0.0.2")]);
    let first = vec![url("10.0.0.1"), url("10.0.0.2"), url("q")];
    assert_eq!(set.proxy_groups(), [first.clone(), vec![Proxy::Direct]]);
    walked(&mut set, now, |way, _| transfer(way));
    set.set_addresses(&p, &[url("10.0.0.2"), url("10.0.0.1")]);
    assert_eq!(set.proxy_groups()[0], first, "the same set in another order");
    set.set_addresses(&p, &[]);
    assert_eq!(set.proxy_groups()[0], first, "a name that is gone keeps its addresses");
    set.set_addresses(&p, &[url("10.0.0.9")]);
    assert_eq!(set.proxy_groups()[0], [url("10.0.0.9"), url("q")]);
}

#[test]
fn the_order_of_servers_can_change() {
    let mut set = selection("a;b;c", "DIRECT", RETRIES);
    for nonsense in [&[0, 1][..], &[0, 1, 1], &[1, 2, 3], &[]] {
        set.reorder_hosts(nonsense, 0);
        assert_eq!(set.hosts(), ["http://a", "http://b", "http://c"]);
    }
    set.reorder_hosts(&[2, 0, 1], 2);
    assert_eq!(set.hosts(), ["http://c", "http://a"]);
}

fn first(selection: &mut Selection, now: Instant) -> String {
    name(&selection.way(&mut Walk::new(None, 0), now).unwrap())
}

#[test]
fn m5_no_turn_is_no_fault_of_a_proxy_or_server() {
    let now = Instant::now();
    let mut selection = selection("a;b", "p1;DIRECT", RETRIES);
    let seen = walked(&mut selection, now, |_, _| failure(Busy));
    assert_eq!(seen, ["A p1", "A", "B p1", "B"]);
    assert_eq!(first(&mut selection, now), "A p1", "others go on as before");
}

/// The route of a request whose answers through proxies are wrong, until it is past them.
fn past_proxies(selection: &mut Selection, now: Instant) -> (Walk, Vec<String>) {
    let mut walk = Walk::new(None, 0);
    let mut seen = Vec::new();
    loop {
        let way = selection.way(&mut walk, now).unwrap();
        seen.push(name(&way));
        if way.proxy == Proxy::Direct {
            return (walk, seen);
        }
        walk.doubt(&way);
        let next = selection.failed(&mut walk, &failure(HostHttp), now);
        assert_eq!(next, Next::Again(Duration::ZERO), "{seen:?}");
    }
}

#[test]
fn low_a_proxy_that_lies_is_left() {
    let now = Instant::now();
    let mut unproven = selection("a;b", "p1;DIRECT", RETRIES);
    let (walk, seen) = past_proxies(&mut unproven, now);
    assert_eq!(seen, ["A p1", "B p1", "A"]);
    assert_eq!(unproven.proven_wrong(&walk, |_| false, now).len(), 1);
    assert!(!first(&mut unproven, now).contains("p1"));

    // One that was right before is left at its third wrong answer in a row.
    let mut proven = selection("a", "p1;DIRECT", RETRIES);
    let p1 = Proxy::Url("http://p1".to_owned());
    let lie = |selection: &mut Selection| {
        let (walk, _) = past_proxies(selection, now);
        selection.proven_wrong(&walk, |_| true, now).len()
    };
    assert_eq!((lie(&mut proven), lie(&mut proven)), (0, 0));
    proven.proven_right(&p1);
    assert_eq!((lie(&mut proven), lie(&mut proven)), (0, 0));
    assert_eq!(lie(&mut proven), 1);
    assert_eq!(first(&mut proven, now), "A");
}

#[test]
fn low_what_is_absent_is_asked_for_by_a_few_routes_and_nobody_is_blamed() {
    let now = Instant::now();
    let mut selection = selection("a;b;c", "p1;DIRECT", RETRIES);
    let mut walk = Walk::new(None, 0);
    let mut seen = Vec::new();
    while let Some(way) = selection.way(&mut walk, now) {
        seen.push(name(&way));
        walk.doubt(&way);
        if selection.failed(&mut walk, &failure(HostHttp), now) == Next::GiveUp {
            break;
        }
    }
    assert_eq!(seen[..3], ["A p1", "B p1", "C p1"]);
    assert!(seen.len() <= 7, "{seen:?}");
    assert!(first(&mut selection, now).ends_with(" p1"));
}
