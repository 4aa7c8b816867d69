//! Many containers, one cache volume.

use std::collections::BTreeMap;

use tests::engines::{Checks, Docker, alone};

use crate::LIMIT;

const CONTAINERS: usize = 10;

/// Each reads what the others read, at once.
const START: &str = r#"
jobs=
for number in $(seq $CONTAINERS); do
    docker run --rm --cap-add SYS_ADMIN --device /dev/fuse -v cache:/cache img \
        $RUN --cache-dir /cache -- sh -c "$USE; cat \$R/random.bin \$R/big-chunked.bin | md5sum" \
        >$W/said.$number 2>&1 &
    jobs="$jobs $!"
done
for job in $jobs; do wait $job; done
cat $W/said.*
"#;

#[test]
fn docker() {
    alone("shared_cache::docker", LIMIT, |scratch| {
        let docker = Docker::start(scratch);
        let mut sh = docker.shell.clone();
        sh.set("CONTAINERS", CONTAINERS.to_string());
        let server = &docker.stage.server;
        let downloads = || {
            let mut paths = BTreeMap::<_, usize>::new();
            for request in server.requests().iter().filter(|one| one.path.contains("/data/")) {
                *paths.entry(request.path.clone()).or_default() += 1;
            }
            paths
        };
        Checks::run(|checks| {
            checks.check(
                "ten containers at once on an empty volume: each object once in total",
                || {
                    let said = sh.ok(START);
                    let each = said.lines().count() / CONTAINERS;
                    let first: Vec<_> = said.lines().take(each).collect();
                    assert!(said.starts_with(&docker.stage.used()), "{said}");
                    for other in said.lines().collect::<Vec<_>>().chunks(each) {
                        assert_eq!(other, first);
                    }
                    let downloads = downloads();
                    let twice: Vec<_> = downloads.iter().filter(|(_, times)| **times > 1).collect();
                    assert!(twice.is_empty(), "{} of {}: {twice:#?}", twice.len(), downloads.len());
                    assert!(downloads.len() > 10, "{downloads:?}");
                },
            );
            checks.check("containers that come later need no object", || {
                server.reset_log();
                sh.ok(START);
                assert_eq!(downloads(), BTreeMap::new());
            });
            checks.check("the cache outlives all of them, and the network", || {
                let said = sh.ok("docker run --rm --network none --cap-add SYS_ADMIN --device /dev/fuse -v cache:/cache img $RUN --cache-dir /cache -- sh -c \"$USE\"");
                assert_eq!(said, docker.stage.used());
            });
        });
    });
}

/// Who may not write to the cache has a broker, and each is in a container of its own.
#[test]
fn docker_with_a_broker() {
    alone("shared_cache::docker_with_a_broker", LIMIT, |scratch| {
        let docker = Docker::start(scratch);
        let (sh, used, server) = (&docker.shell, docker.stage.used(), &docker.stage.server);
        Checks::run(|checks| {
            checks.check("two containers use what a third one keeps, and each object comes once", || {
                let said = sh.ok(r#"
mkdir -p $W/store $W/run
chown 2001:2001 $W/store $W/run
docker run -d --name broker --user 2001:2001 --cap-drop ALL --network none --read-only \
    -v $W/store:/store -v $W/run:/run/cvmfs-fuse img \
    cvmfs-fuse cache broker --cache-dir /store >/dev/null
until [ -S $W/run/broker.sock ]; do sleep 0.05; done
for number in 1 2; do
    docker run --rm --cap-add SYS_ADMIN --device /dev/fuse \
        -v $W/run:/run/cvmfs-fuse img $RUN --cache-mode broker --cache-broker-user 2001 -- sh -c "$USE"
done
"#);
                assert_eq!(said, format!("{used}\n{used}"));
                let mut paths = BTreeMap::<_, usize>::new();
                for request in server.requests().iter().filter(|one| one.path.contains("/data/")) {
                    *paths.entry(request.path.clone()).or_default() += 1;
                }
                assert!(paths.values().all(|times| *times == 1), "{paths:#?}");
                assert!(!paths.is_empty(), "nothing was downloaded");
            });
        });
    });
}
