//! A check of monitoring as sites have it for cvmfs2: the shell functions, `attr`, `cvmfs2 --version`, `df`,
//! `curl`, and the exit codes of Nagios. The script is ours; it asks what upstream's asks.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fixtures::server::{Rule, TestServer};
use tests::apart::private_mounts;
use tests::mountinfo::MountInfo;
use tests::site::{Site, shown, stdout};
use tests::{client, deadline};

const LIMIT: Duration = Duration::from_secs(120);

/// `check LIBRARY BIN NAME`: one line, and the code.
const CHECK: &str = r#"
library=$1 bin=$2 name=$3
said= code=0
note() { said="${said:+$said; }$1"; [ "$code" -ge "$2" ] || code=$2; }
value() {
    attr -q -g "$1" . 2>/dev/null || { echo "UNKNOWN: no attribute $1"; exit 3; }
}
# As many parts as the attribute has.
whole() { v=$1; while [ "$(echo "$v" | tr -cd . | wc -c)" -lt 3 ]; do v=$v.0; done; echo "$v"; }

. "$library" || exit 3
cvmfs_readconfig || exit 2
fqrn=$(cvmfs_mkfqrn "$name") || exit 2
org=$(cvmfs_getorg "$fqrn")
cvmfs_readconfig "$fqrn" || exit 2
cd "$CVMFS_MOUNT_DIR/$fqrn" 2>/dev/null && [ -n "$(ls -A . 2>/dev/null)" ] || {
    echo "CRITICAL: cannot enter $fqrn"; exit 2; }

loaded=$(value version) || { echo "$loaded"; exit 3; }
installed=$("$bin/cvmfs2" --version 2>&1 | cut -d' ' -f3)
[ "$(whole $loaded)" = "$(whole $installed)" ] || note "loaded $loaded, installed $installed" 1
for name in nioerr usedfd maxfd nclg revision pid inode_max ncleanup24 timeout timeout_direct; do
    found=$(value $name) || { echo "$found"; exit 3; }
    case $found in
    '' | *[!0-9-]*) echo "UNKNOWN: $name is not a number: $found"; exit 3 ;;
    esac
    eval "$name=\$found"
done
[ "$nioerr" -eq 0 ] || note "$nioerr errors" 1
[ $((usedfd * 100 / maxfd)) -le 80 ] || note "few descriptors left" 1
[ $((nclg * 10)) -le "$maxfd" ] || note "$nclg catalogs" 1
[ "$ncleanup24" -le 24 ] || note "$ncleanup24 cleanups" 1
[ "$(ps -p "$pid" -o rss= | tr -d ' ')" -gt 0 ] || note "no process $pid" 1
df -P "$CVMFS_CACHE_BASE" >/dev/null || note "no cache" 2
for host in $(echo "$CVMFS_SERVER_URL" | tr ';,' '  ' | sed "s/@org@/$org/g; s/@fqrn@/$fqrn/g"); do
    for proxy in $(echo "$CVMFS_HTTP_PROXY $CVMFS_FALLBACK_PROXY" | tr ';|' '  '); do
        [ "$proxy" != auto ] || proxy=$("$bin/cvmfs2" __wpad__ auto "$CVMFS_SERVER_URL" | tr ';' ' ')
        case $proxy in
        DIRECT) limit=$CVMFS_TIMEOUT_DIRECT through= ;;
        *) limit=$CVMFS_TIMEOUT through="env http_proxy=$proxy" ;;
        esac
        $through curl -H Pragma: -fs --max-time $((limit * 3)) --connect-timeout "$limit" \
            "$host/.cvmfspublished" >/dev/null || note "offline: $host by $proxy" 1
    done
done
echo "${said:-OK}; revision $revision"
exit $code
"#;

/// A site whose repository is mounted where all of them are.
fn site() -> Site {
    private_mounts();
    let site = Site::new(client!());
    site.write(
        "etc/default.d/50-site.conf",
        &format!(
            "CVMFS_DEFAULT_DOMAIN=test.repo\nCVMFS_MOUNT_DIR={}\nCVMFS_TIMEOUT_DIRECT=5\n",
            site.path("m").display()
        ),
    );
    std::fs::create_dir(site.path("m").join(site.genuine.fqrn())).unwrap();
    site
}

fn check(site: &Site) -> (Option<i32>, String) {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/config.sh");
    let output = Command::new("timeout")
        .args(["60", "bash", "-c", CHECK, "check"])
        .args([library, site.path("bin")])
        .arg("small")
        .env("CVMFS_FUSE", site.command().get_program())
        .env("CVMFS_FUSE_CONFIG_DIR", site.path("etc"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(!said.is_empty(), "{}", shown(&output));
    (output.status.code(), said)
}

/// Unmounts on every way out.
struct Unmounted<'a>(&'a Site, String);

impl Drop for Unmounted<'_> {
    fn drop(&mut self) {
        let _ = self.0.command().args(["umount", "--lazy", &self.1]).output();
    }
}

#[test]
fn a_check_finds_what_it_found_with_cvmfs2() {
    deadline(LIMIT, || {
        let site = site();
        let place = site.path("m").join(site.genuine.fqrn());
        let m = place.to_str().unwrap().to_owned();
        let (code, said) = check(&site);
        assert_eq!((code, said.as_str()), (Some(2), "CRITICAL: cannot enter small.test.repo"));
        let mounted = site.tool("mount.cvmfs", &[site.genuine.fqrn(), &m]);
        assert!(mounted.status.success(), "{}", shown(&mounted));
        let guard = Unmounted(&site, m);
        assert_eq!(check(&site), (Some(0), "OK; revision 4".to_owned()));
        // A server that is gone is noticed, and so is what could not be read for that.
        site.server.rule(Rule::on("*").status(503));
        let base = site.server.base(site.genuine.fqrn());
        let offline = format!("offline: {base} by DIRECT; revision 4");
        assert_eq!(check(&site), (Some(1), offline.clone()));
        let refused = std::fs::read(place.join("big-chunked.bin")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EIO));
        let (code, said) = check(&site);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.ends_with(&format!(" errors; {offline}")), "{said}");
        drop(guard);
        assert!(MountInfo::of(&place).is_none());
    });
}

#[test]
fn a_check_asks_which_proxies_are_meant() {
    deadline(LIMIT, || {
        let site = site();
        let scripts = tempfile::tempdir().unwrap();
        let proxy = TestServer::serving(scripts.path());
        proxy.rule(
            Rule::on("/wpad.dat")
                .body("function FindProxyForURL(url, host) { return 'PROXY one:3128; DIRECT'; }"),
        );
        site.write(
            "etc/default.d/60-proxy.conf",
            &format!("CVMFS_PAC_URLS={}/wpad.dat\n", proxy.url()),
        );
        let servers = site.server.base(site.genuine.fqrn());
        let found = site.tool("cvmfs2", &["__wpad__", "auto;http://two:3128", &servers]);
        assert_eq!(stdout(&found), "http://one:3128;DIRECT;http://two:3128\n");
        let plain = site.tool("cvmfs2", &["__wpad__", "http://two:3128", &servers]);
        assert_eq!(stdout(&plain), "http://two:3128\n");
        proxy.rule(Rule::on("/wpad.dat").status(404));
        let none = site.tool("cvmfs2", &["__wpad__", "auto", &servers]);
        assert_eq!(none.status.code(), Some(23), "{}", shown(&none));
    });
}

#[test]
fn an_alien_cache_is_made_for_a_user() {
    deadline(LIMIT, || {
        let site = site();
        let directory = site.path("alien");
        let words = ["__MK_ALIEN_CACHE__", directory.to_str().unwrap(), "1", "2"];
        // Twice: what is there stays.
        for _ in 0..2 {
            assert_eq!(stdout(&site.tool("cvmfs2", &words)), "");
        }
        for name in ["", "00", "7f", "ff", "txn", ".cvmfscache"] {
            let found = std::fs::symlink_metadata(directory.join(name)).unwrap();
            assert_eq!((found.uid(), found.gid()), (1, 2), "{name}");
        }
        assert_eq!(site.tool("cvmfs2", &["__nonsense__"]).status.code(), Some(2));
    });
}
