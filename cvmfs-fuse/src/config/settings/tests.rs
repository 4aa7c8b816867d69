use super::*;
use crate::config::CacheFlags;

const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/keys/egi.eu.pub");

fn environment() -> Environment {
    Environment {
        is_root: false,
        home: Some("/home/u".into()),
        cache_home: None,
        config_home: None,
        log: None,
        http_proxy: None,
        configuration: "/nonexistent".into(),
        reads_config_repository: true,
    }
}

fn resolve(fqrn: &str, flags: &RepositoryFlags) -> Result<RepositorySettings, Failure> {
    RepositorySettings::resolve(fqrn.parse().unwrap(), flags, &environment())
}

/// Flags that suffice for any repository.
fn flags() -> RepositoryFlags {
    RepositoryFlags {
        server: Some("http://h/@fqrn@".into()),
        public_key: Some(KEY.into()),
        ..RepositoryFlags::default()
    }
}

#[test]
fn names() {
    for (text, name) in [
        ("atlas.cern.ch", "atlas.cern.ch"),
        ("/cvmfs/atlas.cern.ch", "atlas.cern.ch"),
        ("/cvmfs/atlas.cern.ch/", "atlas.cern.ch"),
    ] {
        assert_eq!(parse_fqrn(OsStr::new(text)).unwrap().as_str(), name);
    }
    let long = format!("{}.ch", "a".repeat(60));
    for (text, message) in [
        ("atlas", "\"atlas\" is not fully qualified: give name and domain, as in atlas.cern.ch"),
        ("", "\"\" is no repository name"),
        ("a b.ch", "\"a b.ch\" is no repository name"),
        (&long, "repository name of 63 characters, at most 60"),
    ] {
        let failure = parse_fqrn(OsStr::new(text)).unwrap_err();
        assert_eq!(failure.status, ExitStatus::Options);
        assert!(failure.message.starts_with(message), "{failure}");
    }
}

#[test]
fn defaults_of_a_known_domain() {
    let settings = resolve("cms.cern.ch", &RepositoryFlags::default()).unwrap();
    assert_eq!(settings.servers[0], "http://s1cern-cvmfs.openhtc.io/cvmfs/cms.cern.ch");
    assert_eq!(settings.servers.len(), 4);
    assert_eq!(settings.keys.names().count(), 3);
    assert_eq!(settings.proxy, ProxySpec::direct());
    assert_eq!(settings.blocklist, Blocklist::default());
    assert_eq!(settings.cache.directory, Path::new("/home/u/.cache/cvmfs-fuse"));
    assert_eq!(settings.cache.quota, cvmfs_cache::Quota::Stored);
    assert!(matches!(settings.pin, Pin::Latest));
    let mut variables = SymlinkVariables::new();
    variables.set("CVMFS_FQRN", "cms.cern.ch");
    variables.set("CVMFS_ARCH", std::env::consts::ARCH);
    assert_eq!(settings.symlink_variables, variables);

    let behind_proxy = RepositoryFlags { proxy: Some("squid:3128".into()), ..Default::default() };
    let settings = resolve("cms.cern.ch", &behind_proxy).unwrap();
    assert_eq!(settings.servers[0], "http://cvmfs-stratum-one.cern.ch/cvmfs/cms.cern.ch");
}

#[test]
fn flags_win() {
    let flags = RepositoryFlags {
        server: Some("http://a/@org@/@fqrn@/; https://b:8/x;;file:///srv/@fqrn@".into()),
        cache: CacheFlags {
            cache_dir: Some("/c".into()),
            quota: Some("20G".into()),
            ..CacheFlags::default()
        },
        proxy: Some("http://a:1|b:2;DIRECT".into()),
        symlink_variable: vec!["A=b=c".into(), "CVMFS_ARCH=".into()],
        ..flags()
    };
    let settings = resolve("sw.example.org", &flags).unwrap();
    assert_eq!(
        settings.servers,
        ["http://a/sw/sw.example.org", "https://b:8/x", "file:///srv/sw.example.org"]
    );
    assert_eq!(settings.keys.names().collect::<Vec<_>>(), [KEY]);
    assert_eq!(settings.cache.directory, Path::new("/c"));
    assert_eq!(settings.cache.quota, cvmfs_cache::Quota::Bytes(20 << 30));
    assert_eq!(settings.proxy.groups().len(), 2);
    assert_eq!(settings.symlink_variables.expand(b"$(A)|$(CVMFS_ARCH)|$(HOME)"), b"b=c||");
}

#[test]
fn snapshots() {
    let hash = "0123456789abcdef0123456789abcdef01234567-shake128";
    let pin = |flags: RepositoryFlags| resolve("sw.example.org", &flags).unwrap().pin;
    let by_hash = pin(RepositoryFlags { root_hash: Some(hash.into()), ..flags() });
    assert!(matches!(by_hash, Pin::RootHash(h) if h.to_string() == hash));
    let by_tag = pin(RepositoryFlags { tag: Some("v1 β".into()), ..flags() });
    assert!(matches!(by_tag, Pin::Tag(tag) if tag == "v1 β"));
    // facts/behaviours.md section 2.12, and an offset.
    for (date, seconds) in [
        ("1995-12-23T23:01:05Z", 819_759_665),
        ("1999-07-11T05:32:59Z", 931_671_179),
        ("1999-07-11T07:32:59+02:00", 931_671_179),
        ("1999-07-11T05:32:59.5Z", 931_671_179),
    ] {
        let by_date = pin(RepositoryFlags { date: Some(date.into()), ..flags() });
        assert!(matches!(by_date, Pin::Date(s) if s == seconds), "{date}");
    }
}

#[test]
fn refusals() {
    let with = |change: fn(&mut RepositoryFlags, String), value: &str| {
        let mut flags = flags();
        change(&mut flags, value.to_owned());
        flags
    };
    let server = |url: &str| with(|flags, v| flags.server = Some(v), url);
    let proxy = |spec: &str| with(|flags, v| flags.proxy = Some(v), spec);
    let quota = |size: &str| with(|flags, v| flags.cache.quota = Some(v), size);
    let hash = |hash: &str| with(|flags, v| flags.root_hash = Some(v), hash);
    let date = |date: &str| with(|flags, v| flags.date = Some(v), date);
    let variable = |text: &str| with(|flags, v| flags.symlink_variable = vec![v.into()], text);
    let upper = "0123456789ABCDEF0123456789abcdef01234567";
    for (flags, status, message) in [
        (RepositoryFlags::default(), ExitStatus::Options, "give --server URL and --public-key"),
        (server(";"), ExitStatus::Options, "--server names no server"),
        (server("h/x"), ExitStatus::Options, "--server h/x: "),
        (server("ftp://h/x"), ExitStatus::Options, "only http://, https:// and file://"),
        (server("http://"), ExitStatus::Options, "--server http://: empty host"),
        (server("http://h/?x"), ExitStatus::Options, "not supported in server URLs"),
        (server("file://h/x"), ExitStatus::Options, "missing or too much"),
        (proxy("auto|http://p:1"), ExitStatus::Proxy, "a whole group"),
        (proxy(""), ExitStatus::Proxy, "write DIRECT to use none"),
        (proxy("socks5://h"), ExitStatus::Options, "no proxy address"),
        (quota("4000X"), ExitStatus::Options, "--quota: \"4000X\" is no quota"),
        (hash(upper), ExitStatus::Options, "lower-case"),
        (hash("abc"), ExitStatus::Options, "--root-hash: not a content hash"),
        (date("yesterday"), ExitStatus::Options, "--date \"yesterday\": "),
        (date("1995/12/23T23:01:05"), ExitStatus::Options, "expected a time such as"),
        (date("1995-12-23T23:01:05"), ExitStatus::Options, "expected a time such as"),
        (variable("=x"), ExitStatus::Options, "expected NAME=VALUE"),
        (variable("x"), ExitStatus::Options, "expected NAME=VALUE"),
    ] {
        let failure = resolve("sw.example.org", &flags).unwrap_err();
        assert_eq!(failure.status, status, "{failure}");
        assert!(failure.message.contains(message), "{failure}");
    }
    let homeless = Environment { home: None, ..environment() };
    let fqrn = "sw.example.org".parse().unwrap();
    let failure = RepositorySettings::resolve(fqrn, &flags(), &homeless).unwrap_err();
    assert_eq!(failure.status, ExitStatus::CacheDirectory);
}
