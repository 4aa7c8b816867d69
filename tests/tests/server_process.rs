//! What sites say of the process that serves: descriptors, memory pressure, processors, permissions.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::process::Command;
use std::time::Duration;

use tests::apart::{as_user, private_mounts};
use tests::site::Site;
use tests::walk::get_xattr;
use tests::{client, deadline};

const LIMIT: Duration = Duration::from_secs(100);

#[test]
fn it_is_as_the_site_wants_it() {
    deadline(LIMIT, || {
        private_mounts();
        let site = Site::new(client!());
        let (fqrn, m, root) = (site.genuine.fqrn(), site.m(), site.path("m"));
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(site.path(""), open).unwrap();
        let attribute = |name: &[u8]| String::from_utf8(get_xattr(&root, name).unwrap()).unwrap();
        let of_server = |file: &str| {
            let path = format!("/proc/{}/{file}", attribute(b"user.pid"));
            std::fs::read_to_string(path).unwrap()
        };
        let read_as_another = || as_user(2, 2, || std::fs::read(root.join("modes/f0600")));
        site.assert_mounted(&site.tool("mount.cvmfs", &[fqrn, &m]));
        assert_eq!(read_as_another().unwrap_err().raw_os_error(), Some(libc::EACCES));
        site.umount();
        site.write(
            "etc/default.d/50-process.conf",
            "CVMFS_NFILES=9000\nCVMFS_OOM_SCORE_ADJ=17\nCVMFS_CPU_AFFINITY=0\n\
             CVMFS_CHECK_PERMISSIONS=no\n",
        );
        // Below what is wanted at first, as a login shell is.
        let mut command = Command::new("prlimit");
        command.arg("--nofile=4096:10000").arg(site.path("bin/mount.cvmfs")).args([fqrn, &m]);
        command.env("CVMFS_FUSE_CONFIG_DIR", site.path("etc"));
        site.assert_mounted(&command.output().unwrap());
        let limits = of_server("limits");
        let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(files.split_whitespace().nth(3), Some("9000"), "{files}");
        assert_eq!(of_server("oom_score_adj").trim(), "17");
        let status = of_server("status");
        let allowed = status.lines().find(|line| line.starts_with("Cpus_allowed_list"));
        assert_eq!(allowed.unwrap().split_whitespace().nth(1), Some("0"));
        assert_eq!(read_as_another().unwrap(), std::fs::read(root.join("modes/f0600")).unwrap());
        site.umount();
    });
}
