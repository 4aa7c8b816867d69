//! `cvmfs_config setup` on a machine of its own: all that is on this one, and nothing of what is done there
//! is seen here.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::process::{Command, Output};
use std::time::Duration;

use fixtures::genuine::Genuine;
use fixtures::server::TestServer;
use tests::site::{shown, stdout};
use tests::{client, deadline};

const LIMIT: Duration = Duration::from_secs(100);

/// Makes a machine below `$STAGE/root`, without account, autofs and systemd.
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
rm -rf root/etc/auto* root/etc/cvmfs root/etc/systemd/system/autofs.service.d root/cvmfs root/var/lib/cvmfs*
rm -f root/usr/sbin/automount root/usr/sbin/mount.cvmfs root/usr/bin/cvmfs*
sed -i '/^cvmfs:/d; /^fuse:/d' root/etc/passwd root/etc/group root/etc/shadow root/etc/gshadow
mkdir -p root/etc/cvmfs root/etc/systemd/system
touch root/usr/bin/cvmfs-fuse
mount --bind "$CLIENT" root/usr/bin/cvmfs-fuse
ln -s cvmfs-fuse root/usr/bin/cvmfs_config
cp "$KEY" root/key.pub
echo "$INSIDE" >root/inside
exec chroot root /usr/bin/env -i PATH=/usr/sbin:/usr/bin SERVER="$SERVER" bash -eu /inside
"#;

/// Words for scripts on it.
const WORDS: &str = r#"
# Installs autofs, and a systemd that notes what it was asked to do.
autofs() {
    mkdir -p /etc/auto.master.d /run/systemd/system
    echo '+dir:/etc/auto.master.d' >/etc/auto.master
    for name in automount mount.cvmfs; do echo '#!/bin/sh' >/usr/sbin/$name; chmod 755 /usr/sbin/$name; done
    rm -f /usr/bin/systemctl
    cat >/usr/bin/systemctl <<'END'
#!/bin/sh
case $1 in
is-enabled) exec test -e /run/enabled ;;
is-active) exec test -e /run/active ;;
enable) touch /run/enabled ;;
start) touch /run/active ;;
esac
echo "$@" >>/run/asked
END
    chmod 755 /usr/bin/systemctl
    touch /run/asked
}
# All that may be changed.
state() {
    find /etc /cvmfs /var/lib/cvmfs* -printf '%p %u %g %m %T@ %l\n' 2>/dev/null | sort
    find /etc -type f | sort | xargs sha256sum
    cat /run/asked 2>/dev/null || true
}
# With the path that cron has.
setup() { PATH=/usr/bin cvmfs_config setup "$@"; }
# Runs a command that must fail with 1, and shows why.
refused() {
    code=0
    "$@" >/run/said 2>&1 || code=$?
    cat /run/said
    [ $code = 1 ] || { echo "exit code $code"; exit 99; }
}
owner() { stat -c '%U %G %a' "$1"; }
"#;

/// Runs a script on such a machine.
fn on_a_machine(script: &str) -> Output {
    let genuine = Genuine::small();
    let server = TestServer::serving(genuine.dir());
    let stage = tempfile::tempdir().unwrap();
    Command::new("timeout")
        .args([
            "--kill-after=5",
            "90",
            "unshare",
            "--mount",
            "sh",
            "-c",
            tests::apart::WITHOUT_COPIES,
            "sh",
            "bash",
            "-c",
            MACHINE,
        ])
        .env("STAGE", stage.path())
        .env("CLIENT", client!().command().get_program())
        .env("KEY", genuine.public_key())
        .env("SERVER", server.base(genuine.fqrn()))
        .env("INSIDE", [WORDS, script].concat())
        .output()
        .unwrap()
}

/// What it printed, after success.
#[track_caller]
fn said(script: &str) -> String {
    let output = on_a_machine(script);
    assert!(output.stderr.is_empty(), "{}", shown(&output));
    stdout(&output)
}

#[track_caller]
fn assert_lines(said: &str, expected: &[&str]) {
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn it_makes_what_sites_rely_on_and_that_once() {
    deadline(LIMIT, || {
        let said = said(
            r#"
autofs
groupadd --system fuse
(umask 077; setup)
echo -- twice
state >/run/before
setup
state >/run/after
cmp /run/before /run/after
echo -- result
owner /cvmfs; owner /var/lib/cvmfs-fuse
id -nG cvmfs
getent passwd cvmfs | cut -d: -f6
cat /etc/auto.master.d/cvmfs.autofs
grep -v '^#' /etc/systemd/system/autofs.service.d/cvmfs.conf
/etc/auto.cvmfs cms.cern.ch
stat -c %a /etc/auto.master.d/cvmfs.autofs
cat /run/asked
echo -- mounted
mkdir /m
cvmfs-fuse mount small.test.repo /m --server "$SERVER" --public-key /key.pub --proxy DIRECT >/dev/null
cat /m/hello.txt
cvmfs-fuse umount /m
# A base is given to the account, and used all the same; then it is in use, and stays whose it is.
echo CVMFS_CACHE_BASE=/var/lib/cvmfs >/etc/cvmfs/default.local
setup
owner /var/lib/cvmfs
cvmfs-fuse mount small.test.repo /m --server "$SERVER" --public-key /key.pub --proxy DIRECT >/dev/null
cat /m/hello.txt
cvmfs-fuse umount /m
owner /var/lib/cvmfs/cvmfs-fuse
chown root /var/lib/cvmfs
setup
owner /var/lib/cvmfs
"#,
        );
        let uid = said.lines().find_map(|line| line.split_once("/cvmfs to user ")).unwrap().1;
        assert_lines(
            &said,
            &[
                "made group cvmfs",
                "made user cvmfs",
                "added user cvmfs to group fuse",
                "made directory /cvmfs",
                "made directory /var/lib/cvmfs-fuse",
                "wrote /etc/cvmfs/config.sh: functions for scripts",
                "made link /etc/auto.cvmfs to /usr/bin/cvmfs-fuse",
                "wrote /etc/auto.master.d/cvmfs.autofs: /cvmfs /etc/auto.cvmfs",
                "wrote /etc/systemd/system/autofs.service.d/cvmfs.conf: mounts go on while autofs restarts",
                "enabled autofs",
                "started autofs",
                "-- twice",
                "all is set up already",
                "-- result",
                "root root 755",
                "root root 755",
                "cvmfs fuse",
                "/var/lib/cvmfs-fuse",
                "/cvmfs /etc/auto.cvmfs",
                "[Service]",
                "KillMode=process",
                "-fstype=cvmfs :cms.cern.ch",
                "644",
                "daemon-reload",
                "enable autofs.service",
                "start autofs.service",
                "-- mounted",
                "hello cvmfs",
                "made directory /var/lib/cvmfs",
                &format!("gave /var/lib/cvmfs to user {uid}"),
                "cvmfs cvmfs 755",
                "hello cvmfs",
                "root root 700",
                "all is set up already",
                "root cvmfs 755",
            ],
        );
    });
}

#[test]
fn words_leave_things_out() {
    deadline(LIMIT, || {
        let said = said(
            r#"
autofs
echo -- noautofs; setup nouser noautofs
ls -d /etc/auto.cvmfs 2>/dev/null || echo no map
owner /var/lib/cvmfs-fuse
echo -- nocfgmod; setup nouser nocfgmod
ls /etc/auto.cvmfs /etc/auto.master.d/* 2>/dev/null || echo no map
echo -- nostart; setup nouser nostart
echo -- reload; rm /etc/auto.cvmfs; setup nouser
cat /run/asked
getent passwd cvmfs || getent group cvmfs || echo no account
# An account that is there is used, and not made.
useradd --system --user-group cvmfs
echo CVMFS_CACHE_BASE=/var/lib/cvmfs >/etc/cvmfs/default.local
setup nouser | sed 's/user [0-9]*/user ID/'
owner /var/lib/cvmfs
"#,
        );
        assert_lines(
            &said,
            &[
                "-- noautofs",
                "made directory /cvmfs",
                "made directory /var/lib/cvmfs-fuse",
                "wrote /etc/cvmfs/config.sh: functions for scripts",
                "no map",
                "root root 755",
                "-- nocfgmod",
                "enabled autofs",
                "started autofs",
                "no map",
                "-- nostart",
                "made link /etc/auto.cvmfs to /usr/bin/cvmfs-fuse",
                "wrote /etc/auto.master.d/cvmfs.autofs: /cvmfs /etc/auto.cvmfs",
                "wrote /etc/systemd/system/autofs.service.d/cvmfs.conf: mounts go on while autofs restarts",
                "-- reload",
                "made link /etc/auto.cvmfs to /usr/bin/cvmfs-fuse",
                "reloaded autofs",
                "enable autofs.service",
                "start autofs.service",
                "reload autofs.service",
                "no account",
                "made directory /var/lib/cvmfs",
                "gave /var/lib/cvmfs to user ID",
                "cvmfs cvmfs 755",
            ],
        );
    });
}

#[test]
fn what_others_wrote_stays() {
    deadline(LIMIT, || {
        let said = said(
            r#"
autofs
echo 'CVMFS_CACHE_BASE=/srv/cache' >/etc/cvmfs/default.local
mkdir -p /srv/cache /cvmfs/x
touch /srv/cache/file
chown 4711:4712 /srv/cache
echo '#!/bin/sh' >/etc/auto.cvmfs
echo '/cvmfs /etc/auto.cvmfs --timeout=60' >/etc/auto.master
echo '# ours' >/etc/cvmfs/config.sh
useradd --system --user-group --home-dir /home/cvmfs cvmfs
cp -a /etc/passwd /etc/auto.cvmfs /etc/auto.master /run
setup nostart
echo -- kept
stat -c '%u %g' /srv/cache
ls /etc/auto.master.d
cmp /etc/passwd /run/passwd; cmp /etc/auto.cvmfs /run/auto.cvmfs; cmp /etc/auto.master /run/auto.master
[ ! -e /var/lib/cvmfs-fuse ]
grep -qx '# ours' /etc/cvmfs/config.sh
"#,
        );
        assert_lines(
            &said,
            &[
                "kept /etc/auto.cvmfs, which is not this program; \
                 'ln -sf /usr/bin/cvmfs-fuse /etc/auto.cvmfs' replaces it",
                "wrote /etc/systemd/system/autofs.service.d/cvmfs.conf: mounts go on while autofs restarts",
                "-- kept",
                "4711 4712",
            ],
        );
    });
}

#[test]
fn a_driver_for_kubernetes_gets_its_account_and_directories() {
    deadline(LIMIT, || {
        let said = said(
            r#"
echo 'CVMFS_CACHE_BASE=/var/lib/cvmfs
CVMFS_USER=vomsfs' >/etc/cvmfs/default.local
mkdir /etc/auto.master.d
setup nocfgmod nostart noautofs | sed 's/user [0-9]*$/user ID/'
owner /var/lib/cvmfs
id -nG vomsfs
ls -A /etc/auto*
# Without these words, the files are written where the system expects them.
setup
cat /etc/auto.master.d/cvmfs.autofs
rm -r /etc/auto*
setup
ls -d /etc/auto* 2>/dev/null || echo no files
"#,
        );
        let hint = "autofs is not installed: 'cvmfs-fuse automount' shows all repositories below /cvmfs without it";
        assert_lines(
            &said,
            &[
                "made group vomsfs",
                "made user vomsfs",
                "made directory /cvmfs",
                "made directory /var/lib/cvmfs",
                "gave /var/lib/cvmfs to user ID",
                "vomsfs vomsfs 755",
                "vomsfs",
                "wrote /etc/cvmfs/config.sh: functions for scripts",
                "made link /etc/auto.cvmfs to /usr/bin/cvmfs-fuse",
                "wrote /etc/auto.master.d/cvmfs.autofs: /cvmfs /etc/auto.cvmfs",
                hint,
                "/cvmfs /etc/auto.cvmfs",
                hint,
                "all is set up already",
                "no files",
            ],
        );
    });
}

#[test]
fn without_useradd_busybox_makes_the_account() {
    deadline(LIMIT, || {
        let said = said(
            r#"
echo CVMFS_CACHE_BASE=/var/lib/cvmfs >/etc/cvmfs/default.local
groupadd --system fuse
rm -f /usr/sbin/useradd /usr/sbin/groupadd /usr/bin/gpasswd /usr/sbin/adduser /usr/sbin/addgroup /usr/bin/busybox
refused setup
# As that of Alpine, which has no names of its own here.
cat >/usr/bin/busybox <<'END'
#!/bin/bash
echo "$*" >>/run/called
case "$*" in
'addgroup -S cvmfs') echo cvmfs:x:700: >>/etc/group ;;
'adduser -S -D -H -g CernVM-FS -G cvmfs '*' cvmfs') echo cvmfs:x:701:700::/:/bin/false >>/etc/passwd ;;
'addgroup cvmfs fuse') sed -i 's/^fuse:.*/&cvmfs/' /etc/group ;;
*) exit 1
esac
END
chmod 755 /usr/bin/busybox
setup
setup nouser noautofs
stat -c '%u %g' /var/lib/cvmfs
sed 's/-s .*nologin/-s nologin/' /run/called
"#,
        );
        assert_lines(
            &said,
            &[
                "cvmfs-fuse: setup: making group cvmfs needs groupadd or busybox, and none is installed; \
                 install it, or add 'nouser' (1 - unknown error)",
                "made group cvmfs",
                "made user cvmfs",
                "added user cvmfs to group fuse",
                "made directory /cvmfs",
                "made directory /var/lib/cvmfs",
                "gave /var/lib/cvmfs to user 701",
                "wrote /etc/cvmfs/config.sh: functions for scripts",
                "autofs is not installed: 'cvmfs-fuse automount' shows all repositories below /cvmfs without it",
                "all is set up already",
                "701 700",
                "addgroup -S cvmfs",
                "adduser -S -D -H -g CernVM-FS -G cvmfs -h /var/lib/cvmfs -s nologin cvmfs",
                "addgroup cvmfs fuse",
            ],
        );
    });
}

#[test]
fn what_is_wrong_ends_with_1_and_says_what_to_do() {
    deadline(LIMIT, || {
        let said = said(
            r#"
state >/run/before
refused setup nouser --force
refused setup wrong
refused setpriv --reuid 1234 --regid 1234 --clear-groups cvmfs_config setup
for wrong in CVMFS_MOUNT_DIR=cvmfs CVMFS_USER=-o CVMFS_USER=0; do
    echo $wrong >/etc/cvmfs/default.local
    refused setup
done
rm /etc/cvmfs/default.local
state >/run/after
diff /run/before /run/after | grep -v ' /etc/cvmfs ' | grep '^[<>]' || true
touch /cvmfs
refused setup nouser
rm /cvmfs
autofs
: >/etc/auto.master
refused setup nouser
echo '+dir:/etc/auto.master.d' >/etc/auto.master
printf '#!/bin/sh\necho no such unit >&2\nexit 5\n' >/usr/bin/systemctl
refused setup nouser
rm -r /run/systemd /usr/sbin/mount.cvmfs
setup nouser
"#,
        );
        let wrong = |text: &str| format!("cvmfs-fuse: setup: {text} (1 - unknown error)");
        let option = |word: &str| {
            wrong(&format!(
                "{word:?} is no option; there are nouser, nocfgmod, nostart and noautofs"
            ))
        };
        let user = |name: &str| {
            wrong(&format!(
                "CVMFS_USER={name} cannot be made: a name has letters, digits, '_', '-' and '.', and is no \
                 number; correct it in /etc/cvmfs/default.local, or add 'nouser'"
            ))
        };
        let lines = [
            option("--force"),
            option("wrong"),
            wrong(
                "this needs root; run it with sudo, or leave it out: mounts of a user need no setup",
            ),
            wrong(
                "CVMFS_MOUNT_DIR=cvmfs must begin with /; correct it in /etc/cvmfs/default.local",
            ),
            user("-o"),
            user("0"),
            wrong("/cvmfs is in the way; move it, or set CVMFS_MOUNT_DIR to a directory"),
            "made directory /cvmfs".into(),
            "made directory /var/lib/cvmfs-fuse".into(),
            "wrote /etc/cvmfs/config.sh: functions for scripts".into(),
            "made link /etc/auto.cvmfs to /usr/bin/cvmfs-fuse".into(),
            wrong(
                "autofs does not read /etc/auto.master.d; add the line '+dir:/etc/auto.master.d' to \
                 /etc/auto.master, and run this again",
            ),
            "wrote /etc/auto.master.d/cvmfs.autofs: /cvmfs /etc/auto.cvmfs".into(),
            "wrote /etc/systemd/system/autofs.service.d/cvmfs.conf: mounts go on while autofs restarts"
                .into(),
            wrong("'systemctl daemon-reload' failed: no such unit"),
            "mount.cvmfs is missing, which autofs calls: \
             'ln -s /usr/bin/cvmfs-fuse /sbin/mount.cvmfs' makes it"
                .into(),
            "systemd does not run here: start autofs as this system does it".into(),
            "all is set up already".into(),
        ];
        assert_eq!(said.lines().collect::<Vec<_>>(), lines);
    });
}

/// Other users prepared directories that setup writes to, and links on the way to others.
#[test]
fn h3_setup_uses_nothing_that_others_prepared() {
    deadline(LIMIT, || {
        let said = said(
            r#"
autofs
echo -- a directory of others
chown 4711 /etc/auto.master.d
refused setup nouser nostart
ls -A /etc/auto.master.d
chown root /etc/auto.master.d; chmod 777 /etc/auto.master.d
refused setup nouser nostart
ls -A /etc/auto.master.d
chmod 755 /etc/auto.master.d
echo -- functions of others
echo 'touch /run/owned' >/etc/cvmfs/config.sh
chown 4711 /etc/cvmfs/config.sh
refused setup nouser nostart
rm /etc/cvmfs/config.sh
echo -- a map of others
rm -f /etc/auto.cvmfs
cp /usr/bin/true /etc/auto.cvmfs; chmod 777 /etc/auto.cvmfs
refused setup nouser nostart
rm /etc/auto.cvmfs
echo -- a link to a directory of root
useradd --system --user-group cvmfs
mkdir -m 755 /srv/theirs; mkdir -m 700 /root/empty
ln -s /root/empty /srv/theirs/cache
chown -h 4711:4711 /srv/theirs /srv/theirs/cache
echo CVMFS_CACHE_BASE=/srv/theirs/cache >/etc/cvmfs/default.local
refused setup nouser noautofs
owner /root/empty
echo CVMFS_CACHE_BASE=/srv/theirs/cache/new/base >/etc/cvmfs/default.local
refused setup nouser noautofs
ls -A /root/empty
echo -- umask
echo CVMFS_CACHE_BASE=/srv/ours/base >/etc/cvmfs/default.local
(umask 0; setup nouser nostart | sed 's/user [0-9]*$/user ID/')
owner /srv/ours; owner /srv/ours/base; owner /etc/systemd/system/autofs.service.d
stat -c %a /etc/cvmfs/config.sh /etc/auto.master.d/cvmfs.autofs
"#,
        );
        let changeable = |path: &str, who: &str| {
            format!(
                "cvmfs-fuse: setup: {path} can be changed by others than root ({who}), and programs of root take \
                 commands from it; look at what is there, then: chown root:root {path} && chmod go-w {path} \
                 (1 - unknown error)"
            )
        };
        let link = "/srv/theirs/cache is a symbolic link of user 4711, who could lead it elsewhere; give the path \
                    behind it (1 - unknown error)";
        let expected = [
            "-- a directory of others".to_owned(),
            "made directory /cvmfs".into(),
            "made directory /var/lib/cvmfs-fuse".into(),
            "wrote /etc/cvmfs/config.sh: functions for scripts".into(),
            "made link /etc/auto.cvmfs to /usr/bin/cvmfs-fuse".into(),
            changeable("/etc/auto.master.d", "user 4711, group 0, mode 755"),
            changeable("/etc/auto.master.d", "user 0, group 0, mode 777"),
            "-- functions of others".into(),
            changeable("/etc/cvmfs/config.sh", "user 4711, group 0, mode 644"),
            "-- a map of others".into(),
            "wrote /etc/cvmfs/config.sh: functions for scripts".into(),
            changeable("/etc/auto.cvmfs", "user 0, group 0, mode 777"),
            "-- a link to a directory of root".into(),
            format!("cvmfs-fuse: setup: cannot make directory /srv/theirs/cache: {link}"),
            "root root 700".into(),
            format!("cvmfs-fuse: setup: cannot make directory /srv/theirs/cache/new/base: {link}"),
            "-- umask".into(),
            "made directory /srv/ours/base".into(),
            "gave /srv/ours/base to user ID".into(),
            "made link /etc/auto.cvmfs to /usr/bin/cvmfs-fuse".into(),
            "wrote /etc/auto.master.d/cvmfs.autofs: /cvmfs /etc/auto.cvmfs".into(),
            "wrote /etc/systemd/system/autofs.service.d/cvmfs.conf: mounts go on while autofs restarts"
                .into(),
            "root root 755".into(),
            "cvmfs cvmfs 755".into(),
            "root root 755".into(),
            "644".into(),
            "644".into(),
        ];
        assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    });
}
