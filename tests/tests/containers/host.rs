//! A mount on the host, shown to containers by a volume.

use tests::engines::{Checks, Docker, Shell, alone};

use crate::LIMIT;

/// Mounts on the host, and starts two containers that use the mount without a pause until
/// `$W/cvmfs/stop` is there: one sees later mounts of the host, the other one never does.
const STAGE: &str = r#"
mkdir -p $W/cvmfs/$F $W/end
"$CLIENT" mount $F $W/cvmfs/$F $HOST_FLAGS --cache-dir $W/cache >/dev/null
docker run --rm -v $W/cvmfs/$F:$R img sh -c "$USE"
docker run --rm -v $W/cvmfs:/cvmfs:rslave img sh -c "$USE"
docker run --rm --user 1001 -v $W/cvmfs/$F:$R:ro img sh -c "$USE"
USERS='cd $R/bin && exec 3<$R/hello.txt && echo ready
while [ ! -e /end/now ]; do
    stat -f . >/dev/null && cat $R/hello.txt >/dev/null && ./run.sh >/dev/null && ls $R/deep >/dev/null && pwd >/dev/null || exit 1
done
cat <&3 && ls'
docker run -d --name private -v $W/end:/end -v $W/cvmfs/$F:$R img sh -c "$USERS" >/dev/null
docker run -d --name slave -v $W/end:/end -v $W/cvmfs:/cvmfs:rslave img sh -c "$USERS" >/dev/null
for name in private slave; do until docker logs $name | grep -q ready; do sleep 0.05; done; done
"#;

/// Waits until another server serves than `$old`.
const ANOTHER: &str = r#"
server() { getfattr --only-values -n user.pid $W/cvmfs/$F; }
supervisor() { awk '/^PPid:/ { print $2 }' /proc/$(server)/status; }
another() { until [ "$(server)" != "$1" ]; do sleep 0.05; done; }
"#;

fn script(sh: &Shell, text: &str) -> String {
    sh.ok(&[ANOTHER, text].concat())
}

#[test]
fn docker() {
    alone("host::docker", LIMIT, |scratch| {
        let docker = Docker::start(scratch);
        let (sh, used) = (&docker.shell, docker.stage.used());
        Checks::run(|checks| {
            checks.check("containers list and run software of a mount of the host", || {
                assert_eq!(sh.ok(STAGE), [used.as_str(); 3].join("\n"));
            });
            checks.check("the server is killed three times", || {
                script(sh, "for i in 1 2 3; do old=$(server); kill -9 $old; another $old; done");
            });
            checks.check("the server is upgraded", || {
                script(sh, "old=$(server); kill -HUP $(supervisor); another $old");
            });
            checks.check("the engine's network goes away and comes back", || {
                script(
                    sh,
                    "ip link set docker0 down; cat $W/cvmfs/$F/hello.txt; ip link set docker0 up",
                );
            });
            checks.check("no container noticed any of it", || {
                let said = sh.ok("touch $W/end/now; docker wait private slave; docker logs private; docker logs slave");
                let each = "ready\nhello cvmfs\nrun.sh\ntrue-elf";
                assert_eq!(said, format!("0\n0\n{each}\n{each}"));
            });
            checks.check("it is unmounted", || {
                sh.ok("\"$CLIENT\" umount $W/cvmfs/$F; ! grep \" $W/cvmfs/$F \" /proc/mounts");
            });
        });
    });
}
