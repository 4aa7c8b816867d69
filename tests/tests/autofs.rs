//! Mounts by the real automount(8), on a machine of their own: all that is on this one, and nothing of
//! what is done there is seen here.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::process::{Command, Output};
use std::time::Duration;

use fixtures::genuine::Genuine;
use fixtures::publish::TestRepo;
use fixtures::server::TestServer;
use tests::site::{shown, stdout};
use tests::{client, deadline};

const LIMIT: Duration = Duration::from_secs(150);
const CONFIG: &str = "config.test.repo";

/// Makes a machine below `$STAGE/root` with the files of autofs and of the site, and runs the script in it
/// as process 1 of a pid namespace, with which all processes end. A session of its own gives it a process
/// group, which automount(8) needs.
const MACHINE: &str = r#"
set -eu
# Copies of the mounts of other tests, which could not end while they are here.
umount -alt fuse 2>/dev/null || true
mount -t tmpfs -o mode=755,dev tmpfs "$STAGE"
cd "$STAGE"
mkdir upper work root
mount -t overlay overlay -o "lowerdir=/,upperdir=$STAGE/upper,workdir=$STAGE/work" root
mount -t proc proc root/proc
mount --rbind /dev root/dev
mount -t tmpfs tmpfs root/run
mount -t tmpfs tmpfs root/tmp
rm -rf root/etc/auto* root/etc/cvmfs root/cvmfs root/var/lib/cvmfs*
mkdir -p root/etc/cvmfs/domain.d root/cvmfs root/run/lock
rm -f root/usr/bin/cvmfs-fuse
touch root/usr/bin/cvmfs-fuse
mount --bind "$CLIENT" root/usr/bin/cvmfs-fuse
for name in usr/sbin/mount.cvmfs usr/bin/cvmfs_config usr/bin/cvmfs_talk etc/auto.cvmfs; do
    rm -f root/$name
    ln -s /usr/bin/cvmfs-fuse root/$name
done
cp "$KEY" root/data.pub
cp "$CONFIG_KEY" root/config.pub
cat >root/etc/cvmfs/default.local <<END
CVMFS_HTTP_PROXY=DIRECT
CVMFS_TIMEOUT_DIRECT=5
CVMFS_MAX_RETRIES=0
END
cat >root/etc/cvmfs/domain.d/test.repo.conf <<END
CVMFS_SERVER_URL=$SERVER
CVMFS_PUBLIC_KEY=/data.pub:/config.pub
END
echo "/cvmfs program:/etc/auto.cvmfs --timeout=$EXPIRY" >root/etc/auto.master
printf '[ autofs ]\nlogging = verbose\n' >root/etc/autofs.conf
echo "$INSIDE" >root/inside
exec chroot root /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    CONFIG_SERVER="$CONFIG_SERVER" DEAD_SERVER="$DEAD_SERVER" bash -eu /inside
"#;

/// Words for scripts on it.
const WORDS: &str = r#"
# until CONDITION...: waits for it; the whole script has a time limit.
until_() { until "$@"; do read -t 0.1 <> <(:) || true; done; }
is_mounted() { grep -q " /cvmfs/$1 fuse " /proc/mounts; }
is_not_mounted() { ! is_mounted "$1"; }
has_ended() { ! kill -0 "$1" 2>/dev/null; }
start() {
    automount --foreground --dont-check-daemon /etc/auto.master >>/run/log 2>&1 &
    AUTOMOUNT=$!
    until_ grep -q ' /cvmfs autofs ' /proc/mounts
}
trap 'code=$?; [ $code = 0 ] || tail -n 40 /run/log /run/said >&2; exit $code' EXIT
# look PATH: what is there, or why not; a hang is an answer, too.
look() { timeout --kill-after=1 20 ls "$@" 2>&1 || echo "exit code $?"; }
"#;

struct Machine {
    genuine: Genuine,
    server: TestServer,
    config: fixtures::publish::Published,
    config_server: TestServer,
}

impl Machine {
    /// A genuine repository, and a configuration repository that sets a variable for links.
    fn new() -> Self {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let mut config = TestRepo::new(CONFIG);
        config.file("/etc/cvmfs/default.conf", b"CVMFS_TIMEOUT_DIRECT=6\n".to_vec());
        let config = config.publish();
        let config_server = TestServer::serving(config.root());
        Self { genuine, server, config, config_server }
    }

    /// Runs a script there; unused mounts expire after so many seconds.
    fn run(&self, expiry: u32, script: &str) -> Output {
        let stage = tempfile::tempdir().unwrap();
        // Nobody listens there any more.
        let dead = TestServer::serving(self.genuine.dir()).base("x");
        let servers = self.server.base(self.genuine.fqrn()).replace(self.genuine.fqrn(), "@fqrn@");
        Command::new("timeout")
            .args(["--kill-after=5", "120", "unshare", "--mount", "--pid", "--fork"])
            .args(["--kill-child", "--mount-proc", "setsid", "--wait", "bash", "-c", MACHINE])
            .env("STAGE", stage.path())
            .env("CLIENT", client!().command().get_program())
            .env("KEY", self.genuine.public_key())
            .env("CONFIG_KEY", self.config.public_key())
            .env("SERVER", servers)
            .env("CONFIG_SERVER", self.config_server.base(CONFIG))
            .env("DEAD_SERVER", dead)
            .env("EXPIRY", expiry.to_string())
            .env("INSIDE", [WORDS, script].concat())
            .output()
            .unwrap()
    }

    /// Returns what the script printed, after success.
    #[track_caller]
    fn said(&self, expiry: u32, script: &str) -> String {
        let output = self.run(expiry, script);
        assert!(output.status.success(), "{}", shown(&output));
        stdout(&output)
    }
}

#[test]
fn a_repository_is_mounted_when_it_is_looked_at() {
    deadline(LIMIT, || {
        let said = Machine::new().said(
            300,
            r#"
start
look /cvmfs/small.test.repo | grep hello
cat /cvmfs/small.test.repo/hello.txt
# All of them at once: one mount.
for i in 1 2 3 4 5 6 7 8; do look /cvmfs/small.test.repo/hello.txt & done | sort -u
grep -c ' /cvmfs/small.test.repo fuse ' /proc/mounts
# A name that no server knows, one that is none, and one whose server is gone.
mkdir /etc/cvmfs/config.d
echo "CVMFS_SERVER_URL=$DEAD_SERVER" >/etc/cvmfs/config.d/dead.test.repo.conf
look /cvmfs/absent.test.repo
look /cvmfs/.hidden
look /cvmfs/dead.test.repo
# The lines of the map are followed again after a reload.
kill -HUP $AUTOMOUNT
look /cvmfs/small.test.repo/hello.txt
"#,
        );
        let refused = |name: &str| {
            format!("ls: cannot access '/cvmfs/{name}': No such file or directory\nexit code 2\n")
        };
        let expected = format!(
            "hello.txt\nhello cvmfs\n/cvmfs/small.test.repo/hello.txt\n1\n{}{}{}\
             /cvmfs/small.test.repo/hello.txt\n",
            refused("absent.test.repo"),
            refused(".hidden"),
            refused("dead.test.repo")
        );
        assert_eq!(said, expected);
    });
}

#[test]
fn an_unused_mount_expires_and_comes_back() {
    deadline(LIMIT, || {
        let said = Machine::new().said(
            1,
            r#"
start
look /cvmfs/small.test.repo/hello.txt
SERVER=$(getfattr --only-values -n user.pid /cvmfs/small.test.repo)
until_ is_not_mounted small.test.repo
until_ has_ended $SERVER
look /cvmfs/small.test.repo/hello.txt
"#,
        );
        assert_eq!(said, "/cvmfs/small.test.repo/hello.txt\n".repeat(2));
    });
}

#[test]
fn a_mount_in_use_outlives_automount() {
    deadline(LIMIT, || {
        let said = Machine::new().said(
            300,
            r#"
start
look /cvmfs/small.test.repo >/dev/null
cd /cvmfs/small.test.repo
kill -TERM $AUTOMOUNT
wait $AUTOMOUNT || true
cat hello.txt
# Servers are no children of automount: they are replaced as ever.
SERVER=$(getfattr --only-values -n user.pid .)
kill -9 $SERVER
cat bin/../hello.txt
# The next automount takes over what is there.
start
cat /cvmfs/small.test.repo/hello.txt
cd /
"#,
        );
        assert_eq!(said, "hello cvmfs\n".repeat(3));
    });
}

#[test]
fn a_configuration_repository_is_mounted_for_a_mount() {
    deadline(LIMIT, || {
        let said = Machine::new().said(
            300,
            r#"
mkdir -p /etc/cvmfs/config.d
echo CVMFS_CONFIG_REPOSITORY=config.test.repo >/etc/cvmfs/default.conf
echo "CVMFS_SERVER_URL=$CONFIG_SERVER" >/etc/cvmfs/config.d/config.test.repo.conf
start
look /cvmfs/small.test.repo/hello.txt
is_mounted config.test.repo && echo mounted
# Without it: bounded, and the repository is there all the same.
umount /cvmfs/small.test.repo
umount /cvmfs/config.test.repo
echo "CVMFS_SERVER_URL=$DEAD_SERVER" >/etc/cvmfs/config.d/config.test.repo.conf
rm -rf /var/lib/cvmfs-fuse
look /cvmfs/small.test.repo/hello.txt
"#,
        );
        let file = "/cvmfs/small.test.repo/hello.txt\n";
        assert_eq!(said, format!("{file}mounted\n{file}"));
    });
}

#[test]
fn the_mount_helper_ends_with_the_codes_of_mount() {
    deadline(LIMIT, || {
        let said = Machine::new().said(
            300,
            r#"
mkdir /m
code() { local code=0; "$@" >/run/said 2>&1 || code=$?; echo $code; }
code mount -t cvmfs absent.test.repo /m
code mount.cvmfs absent.test.repo /m
code mount.cvmfs small.test.repo /nowhere
code mount.cvmfs small.test.repo /m -o frobnicate
code mount.cvmfs small.test.repo
code mount.cvmfs small.test.repo /m -o cvmfs_suid
grep -o 'set-user-ID bits have no effect' /run/said
grep -c ' /m fuse .*nosuid' /proc/mounts
umount /m
code cvmfs-fuse mount absent.test.repo /m
"#,
        );
        let expected = "32\n32\n32\n1\n1\n0\nset-user-ID bits have no effect\n1\n16\n";
        assert_eq!(said, expected);
    });
}
