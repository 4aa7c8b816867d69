//! A container that mounts for the others.

use std::time::{Duration, Instant};

use tests::engines::{Checks, Docker, Shell, alone};

use crate::LIMIT;

/// `service` starts the container that mounts. `user NAME FLAG...` starts one that uses the mount
/// without a pause until `$W/end/now` is there, and fails when anything fails.
const STAGE: &str = r#"
service() {
    docker run -d --name service --restart on-failure --cap-add SYS_ADMIN --device /dev/fuse \
        -v $W/cvmfs:/cvmfs:rshared -v cache:/var/lib/cvmfs-fuse "$@" >/dev/null
}
mounts="img cvmfs-fuse mount $F $R --foreground $FLAGS"
USING='cd $R/bin && exec 3<$R/hello.txt && echo ready
while [ ! -e /end/now ]; do
    stat -f . >/dev/null && cat $R/hello.txt >/dev/null && ./run.sh >/dev/null && ls $R/deep >/dev/null && pwd >/dev/null || exit 1
done
cat $R/one-byte && echo && cat <&3 && ls'
user() {
    name=$1; shift
    docker run -d --name $name -v $W/end:/end "$@" img sh -c "$USING" >/dev/null
    until docker logs $name 2>&1 | grep -q ready; do sleep 0.05; done
}
# Never 0, which is what a container without processes has.
process_1() { docker inspect -f '{{.State.Pid}}' ${1:-service} | grep -v '^0$'; }

# The server as this namespace of processes has it.
server_here() { local one=$(process_1); cat /proc/$one/task/$one/children; }
"#;

/// The same for all repositories: `automounter` mounts on `/cvmfs` itself.
const AUTOMOUNT: &str = r#"
automounter() {
    docker run -d --name service --restart on-failure --cap-add SYS_ADMIN --device /dev/fuse \
        -v $W/all:/cvmfs:rshared -v cache:/var/lib/cvmfs-fuse img \
        cvmfs-fuse automount --foreground $FLAGS >/dev/null
}
found() { until docker exec $1 stat -f $R >/dev/null 2>&1 && docker exec $1 cat $R/hello.txt 2>/dev/null; do sleep 0.05; done; }
"#;

fn script(sh: &Shell, text: &str) -> String {
    sh.ok(&[STAGE, text].concat())
}

#[test]
fn docker() {
    alone("service::docker", LIMIT, |scratch| {
        let docker = Docker::start(scratch);
        let (sh, used) = (&docker.shell, docker.stage.used());
        Checks::run(|checks| {
            checks.check("containers that are there before it see what it mounts", || {
                let said = script(
                    sh,
                    r#"
mkdir -p $W/cvmfs/$F $W/end
docker run -d --name early -v $W/cvmfs:/cvmfs:rslave img sleep 1000 >/dev/null
service $mounts
until docker exec early test -e $R/hello.txt; do sleep 0.05; done
docker exec early sh -c "$USE"
"#,
                );
                assert_eq!(said, used);
            });
            checks.check("and those that come later, as any user, without any privilege", || {
                let said = script(
                    sh,
                    r#"
docker run --rm --user 1001 --cap-drop ALL -v $W/cvmfs:/cvmfs:rslave img sh -c "$USE"
docker run --rm --user 1001 --cap-drop ALL -v $W/cvmfs/$F:$R:ro img sh -c "$USE"
"#,
                );
                assert_eq!(said, format!("{used}\n{used}"));
            });
            checks.check("its server is killed five times, and nobody notices", || {
                let said = script(
                    sh,
                    r#"
user slave -v $W/cvmfs:/cvmfs:rslave
user private -v $W/cvmfs/$F:$R
for i in 1 2 3 4 5; do
    old=$(server_here)
    kill -9 $old
    until [ -n "$(server_here)" ] && [ "$(server_here)" != "$old" ]; do sleep 0.05; done
    cat $W/cvmfs/$F/hello.txt >/dev/null
done
touch $W/end/now
docker wait slave private
docker logs slave
docker logs private
rm $W/end/now
docker rm slave private >/dev/null
"#,
                );
                let each = "ready\nx\nhello cvmfs\nrun.sh\ntrue-elf";
                assert_eq!(said, format!("0\n0\n{each}\n{each}"));
            });
            checks.check("all of it is killed: who looks again finds it again", || {
                let start = Instant::now();
                script(
                    sh,
                    r#"
kill -9 $(process_1)
until docker exec early stat -f $R >/dev/null 2>&1 && docker exec early cat $R/hello.txt 2>/dev/null; do sleep 0.05; done
docker exec early sh -c "$USE"
"#,
                );
                assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
            });
            checks.check("no dead mounts pile up", || {
                let said = script(
                    sh,
                    r#"
for i in 1 2 3; do
    kill -9 $(process_1)
    until docker exec early stat -f $R >/dev/null 2>&1 && docker exec early cat $R/hello.txt >/dev/null 2>&1; do sleep 0.05; done
done
docker exec early grep -c " $R fuse" /proc/mounts
grep -c " $W/cvmfs/$F fuse" /proc/mounts
"#,
                );
                assert_eq!(said, "1\n1");
            });
            checks.check("a volume that is the mountpoint itself", || {
                let said = script(
                    sh,
                    r#"
docker rm -f service >/dev/null
mkdir $W/one
docker run -d --name before -v $W/one:$R:rslave img sleep 1000 >/dev/null
volume() {
    docker run -d --name volume --restart on-failure --cap-add SYS_ADMIN --device /dev/fuse \
        -v $W/one:$R:rshared -v cache:/var/lib/cvmfs-fuse $mounts >/dev/null
}
found() { until docker exec $1 stat -f $R >/dev/null 2>&1 && docker exec $1 cat $R/hello.txt 2>/dev/null; do sleep 0.05; done; }
volume
found before
docker run -d --name after -v $W/one:$R:rslave img sleep 1000 >/dev/null
for i in 1 2 3; do
    kill -9 $(process_1 volume)
    found before
    found after
done
docker rm -f volume >/dev/null
volume
found before
found after
docker exec after sh -c "$USE"
docker rm -f volume before after >/dev/null
service $mounts
until docker exec early stat -f $R >/dev/null 2>&1 && docker exec early cat $R/hello.txt >/dev/null 2>&1; do sleep 0.05; done
"#,
                );
                assert_eq!(said, format!("{}{used}", "hello cvmfs\n".repeat(9)));
            });
            checks.check("it is stopped in order: no mount stays, here or in others", || {
                let said = script(
                    sh,
                    r#"
docker stop -t 30 service >/dev/null
docker inspect -f '{{.State.ExitCode}}' service
docker exec early ls -A $R
grep " $W/cvmfs/$F fuse" /proc/mounts || true
docker start service >/dev/null
until docker exec early stat -f $R >/dev/null 2>&1 && docker exec early cat $R/hello.txt 2>/dev/null; do sleep 0.05; done
"#,
                );
                assert_eq!(said, "0\nhello cvmfs");
            });
        });
    });
}

#[test]
fn docker_automount() {
    alone("service::docker_automount", LIMIT, |scratch| {
        let docker = Docker::start(scratch);
        let (sh, used) = (&docker.shell, docker.stage.used());
        let script = |text: &str| script(sh, &[AUTOMOUNT, text].concat());
        Checks::run(|checks| {
            checks.check("containers before and after it see repositories when they ask", || {
                let said = script(r#"
mkdir -p $W/all $W/end
docker run -d --name early -v $W/all:/cvmfs:rslave img sleep 1000 >/dev/null
automounter
found early
docker run -d --name late --user 1001 --cap-drop ALL -v $W/all:/cvmfs:rslave img sleep 1000 >/dev/null
docker exec early sh -c "$USE"
docker exec late sh -c "$USE"
docker run --rm -v $W/all:/cvmfs img sh -c "$USE"
docker exec early ls /cvmfs
docker exec early ls /cvmfs/none.of.these 2>&1 || echo "code $?"
"#);
                let none = "ls: /cvmfs/none.of.these: No such file or directory\ncode 1";
                let expected = format!("hello cvmfs\n{used}\n{used}\n{used}\nsmall.test.repo\n{none}");
                assert_eq!(said, expected);
            });
            checks.check("its server is killed five times, and nobody notices", || {
                let said = script(
                    r#"
user slave -v $W/all:/cvmfs:rslave
user private -v $W/all:/cvmfs
for i in 1 2 3 4 5; do
    old=$(server_here)
    kill -9 $old
    until [ -n "$(server_here)" ] && [ "$(server_here)" != "$old" ]; do sleep 0.05; done
    cat $W/all/$F/hello.txt >/dev/null
done
touch $W/end/now
docker wait slave private
docker logs slave
docker logs private
rm $W/end/now
docker rm slave private >/dev/null
"#,
                );
                let each = "ready\nx\nhello cvmfs\nrun.sh\ntrue-elf";
                assert_eq!(said, format!("0\n0\n{each}\n{each}"));
            });
            checks.check("the container is killed: all who follow the host find it again", || {
                let start = Instant::now();
                let said = script(
                    r#"
for i in 1 2 3; do
    kill -9 $(process_1)
    found early
    found late
done
"#,
                );
                assert_eq!(said, ["hello cvmfs"; 6].join("\n"));
                assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
            });
            checks.check("another container takes its place", || {
                let said = script(
                    "docker rm -f service >/dev/null\nautomounter\nfound early\nfound late\n",
                );
                assert_eq!(said, "hello cvmfs\nhello cvmfs");
            });
        });
    });
}

/// A container without any privilege keeps the mount for the next one that serves it.
const HOLDER: &str = r#"
holder() {
    mkdir -p $W/hold && chown 1001 $W/hold
    docker run -d --name holder --user 1001 --cap-drop ALL --network none --read-only \
        -v $W/hold:/hold img cvmfs-fuse hold --socket /hold/socket >/dev/null
    until [ -S $W/hold/socket ]; do sleep 0.05; done
}
# What serves needs privileges the first time only.
GRANT="--cap-add SYS_ADMIN --device /dev/fuse"
held() {
    docker run -d --name service --restart on-failure $GRANT -v $W/hold:/hold \
        -v $W/cvmfs:/cvmfs:rshared -v cache:/var/lib/cvmfs-fuse $mounts --holder /hold/socket --holder-user 1001 >/dev/null
}
count() { cat $W/end/count.$1 2>/dev/null || echo 0; }
# Somebody has read everything since now.
goes_on() {
    for name in "$@"; do
        before=$(count $name)
        while [ $(count $name) -le $((before + 1)) ]; do sleep 0.05; done
    done
}
USING='n=0; cd $R/bin && exec 3<$R/hello.txt && echo ready
while [ ! -e /end/now ]; do
    stat -f . >/dev/null && cat $R/hello.txt >/dev/null && ./run.sh >/dev/null && ls $R/deep >/dev/null && pwd >/dev/null || exit 1
    n=$((n + 1)); echo $n >/end/count.$HOSTNAME
done
cat $R/one-byte && echo && cat <&3 && ls'
"#;

#[test]
fn docker_with_a_holder() {
    held(
        "service::docker_with_a_holder",
        "img cvmfs-fuse mount $F $R --foreground $FLAGS",
        "-v $W/cvmfs/$F:$R",
    );
}

#[test]
fn docker_automount_with_a_holder() {
    held(
        "service::docker_automount_with_a_holder",
        "img cvmfs-fuse automount --foreground $FLAGS",
        "-v $W/cvmfs:/cvmfs",
    );
}

/// `mounts` is what the container that serves does, `private` the volume of one that uses it and
/// sees no later mounts of the host.
fn held(name: &str, mounts: &'static str, private: &'static str) {
    alone(name, LIMIT, move |scratch| {
        let docker = Docker::start(scratch);
        let sh = &docker.shell;
        let stage = format!("{HOLDER}\nmounts=\"{mounts}\"\nprivate=\"{private}\"\n");
        let script = |text: &str| script(sh, &[&stage, text].concat());
        Checks::run(|checks| {
            checks.check("containers use a mount that is held", || {
                script(
                    r#"
mkdir -p $W/cvmfs/$F $W/end
holder
held
until [ -e $W/cvmfs/$F/hello.txt ]; do sleep 0.05; done
user slave -h slave -v $W/cvmfs:/cvmfs:rslave
user private -h private $private
goes_on slave private
"#,
                );
            });
            checks.check(
                "the container that serves is killed three times, and nobody notices",
                || {
                    script(
                        r#"
for i in 1 2 3; do
    kill -9 $(process_1)
    goes_on slave private
done
"#,
                    );
                },
            );
            checks.check("it is stopped and removed; the next one needs no privilege", || {
                script(
                    r#"
docker stop -t 30 service >/dev/null
docker rm service >/dev/null
GRANT="--cap-drop ALL"
held
goes_on slave private
"#,
                );
            });
            checks.check("the holder is restarted, and keeps the mount after that", || {
                script(
                    r#"
docker restart -t 20 holder >/dev/null
goes_on slave private
until docker logs holder 2>&1 | tail -n 1 | grep -q "held from now on"; do sleep 0.05; done
kill -9 $(process_1)
goes_on slave private
"#,
                );
            });
            checks.check("no container noticed any of it", || {
                let said = script("touch $W/end/now; docker wait slave private; docker logs slave; docker logs private");
                let each = "ready\nx\nhello cvmfs\nrun.sh\ntrue-elf";
                assert_eq!(said, format!("0\n0\n{each}\n{each}"));
            });
        });
    });
}
