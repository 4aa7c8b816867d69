use fixtures::name_server::NameServer;

use super::*;

/// A resolver that trusts an answer for a fifth of a second only.
fn names(server: &NameServer, change: impl FnOnce(&mut NameOptions)) -> Names {
    let mut options = NameOptions {
        server: Some(server.address()),
        timeout: Duration::from_millis(500),
        retries: 0,
        min_ttl: Duration::from_millis(200),
        max_ttl: Duration::from_millis(200),
        ..NameOptions::default()
    };
    change(&mut options);
    Names::new(options)
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

async fn sorted(names: &Names, name: &str) -> Vec<IpAddr> {
    let mut found = names.lookup(name).await.unwrap().to_vec();
    found.sort_unstable();
    found
}

/// Asks until the answer is `wanted`.
async fn wait_for(names: &Names, name: &str, wanted: &[IpAddr]) {
    let found = async {
        while sorted(names, name).await != wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), found).await.expect("the new addresses");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_addresses_of_one_family_and_the_new_ones_after_a_change() {
    let server = NameServer::start();
    server.set("proxy.test", &["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
    let own = names(&server, |_| ());
    assert_eq!(sorted(&own, "Proxy.test").await, ips(&["192.0.2.1", "192.0.2.2"]));
    let six = names(&server, |options| options.family = Family::V6);
    assert_eq!(sorted(&six, "proxy.test").await, ips(&["2001:db8::1"]));
    let one = names(&server, |options| options.max_addresses = 1);
    assert_eq!(sorted(&one, "proxy.test").await.len(), 1);
    server.set("proxy.test", &["192.0.2.3"]);
    wait_for(&own, "proxy.test", &ips(&["192.0.2.3"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_name_server_stops_nobody_who_has_an_address() {
    let server = NameServer::start();
    server.set("proxy.test", &["192.0.2.1"]);
    let own = names(&server, |_| ());
    assert_eq!(sorted(&own, "proxy.test").await, ips(&["192.0.2.1"]));
    server.set_silent(true);
    let asked = server.questions();
    let renewed = async {
        while server.questions() < asked + 4 {
            let start = Instant::now();
            assert_eq!(sorted(&own, "proxy.test").await, ips(&["192.0.2.1"]));
            assert!(start.elapsed() < Duration::from_millis(450), "it waited for the dead server");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), renewed).await.expect("renewals");
    let error = own.lookup("other.test").await.unwrap_err();
    assert!(matches!(error, NameError::Timeout { .. }), "{error}");
    server.set_silent(false);
    server.set("proxy.test", &["192.0.2.9"]);
    wait_for(&own, "proxy.test", &ips(&["192.0.2.9"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_merged_and_absences_remembered() {
    let server = NameServer::start();
    let long = |options: &mut NameOptions| options.min_ttl = Duration::from_secs(60);
    let own = names(&server, long);
    server.set("proxy.test", &["192.0.2.1"]);
    let all = (0..32).map(|_| own.lookup("proxy.test"));
    for found in futures_util::future::join_all(all).await {
        assert_eq!(*found.unwrap(), ips(&["192.0.2.1"]));
    }
    assert_eq!(server.questions(), 2, "one for each family");
    let absent = NameError::NotFound("none.test".to_owned());
    assert_eq!(own.lookup("none.test").await, Err(absent.clone()));
    let asked = server.questions();
    assert_eq!(own.lookup("none.test").await, Err(absent));
    assert_eq!(server.questions(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_not_taken_for_absence() {
    let server = NameServer::start();
    server.set("proxy.test", &["192.0.2.1"]);
    server.set_silent(true);
    let own = names(&server, |options| options.min_ttl = Duration::from_secs(3600));
    let error = own.lookup("proxy.test").await.unwrap_err();
    assert!(matches!(error, NameError::Timeout { .. }), "{error}");
    server.set_silent(false);
    let back = async {
        while own.lookup("proxy.test").await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), back).await.expect("the address");
}

#[tokio::test]
async fn addresses_and_the_hosts_file_need_no_name_server() {
    let names = Names::new(NameOptions {
        server: Some("127.0.0.1:9".parse().unwrap()),
        timeout: Duration::from_millis(300),
        ..NameOptions::default()
    });
    for (name, address) in [("192.0.2.7", "192.0.2.7"), ("[2001:db8::1]", "2001:db8::1")] {
        assert_eq!(*names.lookup(name).await.unwrap(), ips(&[address]));
    }
    assert_eq!(*names.lookup("localhost").await.unwrap(), ips(&["127.0.0.1"]));
    for bad in ["", "a..b", "\u{0}", &"x".repeat(300), "a b"] {
        assert!(names.lookup(bad).await.is_err(), "{bad:?}");
    }
}
