//! POSIX ACLs that a publisher stored: the kernel enforces them where a site wants that.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::fs::File;
use std::time::Duration;

use fixtures::publish::TestRepo;
use fixtures::server::TestServer;
use tests::apart::as_user;
use tests::walk::get_xattr;
use tests::{MountSpec, client, deadline};

const LIMIT: Duration = Duration::from_secs(110);
const NAME: &str = "system.posix_acl_access";
const USER: u32 = 61_234;
const OTHER: u32 = 61_235;

/// An ACL as the kernel stores it: version 2, then tag, permissions and id of each entry. The owner
/// and the mask may read; `USER` has `named`, all others `others`.
fn acl(named: u16, others: u16) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let entries = [
        (0x01, 6, NOBODY),
        (0x02, named, USER),
        (0x04, others, NOBODY),
        (0x10, 4, NOBODY),
        (0x20, others, NOBODY),
    ];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        let tag: u16 = tag;
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

#[test]
fn the_kernel_enforces_stored_acls_where_that_is_wanted() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new("acls.test.repo");
        repo.file("/kept-from", b"1".to_vec()).mode(0o644).xattr(NAME, acl(0, 4));
        repo.file("/open-to", b"2".to_vec()).mode(0o640).xattr(NAME, acl(4, 0));
        repo.file("/plain", b"3".to_vec()).mode(0o644);
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        for (wanted, kept_from, open_to) in
            [("no", [true; 2], [false; 2]), ("yes", [false, true], [true, false])]
        {
            let set = format!("--set=CVMFS_ENFORCE_ACLS={wanted}");
            let mount = MountSpec::published(&client!(), &published, &[&server]).arg(&set).start();
            let may_read = |name: &str| {
                let path = mount.path(name);
                [USER, OTHER].map(|user| as_user(user, user, || File::open(&path).is_ok()))
            };
            assert_eq!(may_read("kept-from"), kept_from, "{wanted}");
            assert_eq!(may_read("open-to"), open_to, "{wanted}");
            assert_eq!(may_read("plain"), [true; 2], "{wanted}");
            // Shown in either case, as they were published.
            let shown = get_xattr(&mount.path("kept-from"), NAME.as_bytes());
            assert_eq!(shown.unwrap(), acl(0, 4), "{wanted}");
        }
    });
}
