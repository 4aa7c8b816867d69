use std::fs::File;
use std::os::fd::AsRawFd as _;

use super::*;

const TABLE: &[u8] = b"\
40 28 0:57 / /m ro,nosuid,nodev shared:7 - fuse cvmfs2 ro,user_id=1,group_id=1
41 28 0:58 / /victim ro,nosuid,nodev - fuse cvmfs2 ro,user_id=0,group_id=0
42 28 0:59 / /data rw - tmpfs tmpfs rw
43 28 0:60 / /covered ro - fuse cvmfs2 ro,user_id=1,group_id=1
44 43 0:61 / /covered rw - tmpfs tmpfs rw
";

/// A machine with these mounts; every descriptor is /dev/fuse with this connection.
struct Machine {
    connection: Option<u32>,
    is_fuse: bool,
    is_over: bool,
}

const MACHINE: Machine = Machine { connection: None, is_fuse: true, is_over: false };

impl Kernel for Machine {
    fn is_fuse(&self, _: BorrowedFd<'_>) -> bool {
        self.is_fuse
    }

    fn is_over(&self, _: &OwnedFd) -> bool {
        self.is_over
    }

    fn connection_of(&self, _: BorrowedFd<'_>) -> Option<u32> {
        self.connection
    }

    fn mounts_at(&self, place: &Path) -> io::Result<Vec<MountEntry>> {
        let mut mounts = mountinfo::parse(TABLE);
        mounts.retain(|entry| entry.mountpoint == place);
        Ok(mounts)
    }
}

fn verify(
    place: &str,
    machine: Machine,
    said: Option<Device>,
    teller: Teller,
) -> Result<Option<Device>, String> {
    let own = OwnMount::of_kernel(Path::new(place), machine);
    let connection = File::open("/dev/null").unwrap().into();
    let mount = own.verify(connection, Greeting::example(), said, teller);
    let mount = mount.map_err(|error| format!("{error:?}"))?;
    assert_eq!(mount.mountpoint, Path::new(place));
    Ok(mount.device)
}

#[test]
fn h2_a_mount_is_what_the_kernel_shows_at_the_own_mountpoint() {
    use Teller::{Holder, Server};
    let device = |minor| Some(Device::of_connection(minor));
    let elsewhere = || Err("Elsewhere".to_owned());
    let table = [
        // From Linux 6.15 on: the connection of the descriptor counts, whatever is said.
        ("/m", Some(57), device(57), Server, Ok(device(57))),
        ("/m", Some(57), device(58), Server, Ok(device(57))),
        ("/m", Some(57), None, Server, Ok(device(57))),
        ("/m", Some(58), device(57), Server, elsewhere()),
        ("/data", Some(59), device(59), Server, elsewhere()),
        ("/nothing", Some(57), device(57), Server, elsewhere()),
        ("/covered", Some(60), device(60), Server, Ok(device(60))),
        // Before: what is on top at the mountpoint.
        ("/m", None, device(58), Server, Ok(device(57))),
        ("/data", None, device(59), Server, elsewhere()),
        ("/covered", None, device(60), Server, elsewhere()),
        ("/nothing", None, device(57), Server, elsewhere()),
        // Of a holder, it may be out of sight.
        ("/m", Some(57), device(58), Holder, Ok(device(57))),
        ("/nothing", Some(57), device(58), Holder, Ok(device(57))),
        ("/m", None, device(57), Holder, Ok(device(57))),
        ("/m", None, device(58), Holder, Ok(None)),
        ("/nothing", None, device(58), Holder, Ok(None)),
    ];
    for (place, connection, said, teller, expected) in table {
        let machine = Machine { connection, ..MACHINE };
        let found = verify(place, machine, said, teller);
        assert_eq!(found, expected, "{place} {connection:?} {said:?} {teller:?}");
    }
    let null = Machine { is_fuse: false, connection: Some(57), ..MACHINE };
    assert_eq!(verify("/m", null, device(57), Server), Err("NotFuse".to_owned()));
    let over = Machine { is_over: true, connection: Some(57), ..MACHINE };
    assert_eq!(verify("/m", over, device(57), Server), Err("Over".to_owned()));
    let own = OwnMount::of_kernel(Path::new("/m"), Machine { connection: Some(57), ..MACHINE });
    let odd: Greeting = serde_json::from_str(r#"{"request":[1],"reply":[2]}"#).unwrap();
    let connection = File::open("/dev/null").unwrap().into();
    let refused = own.verify(connection, odd, None, Server);
    assert!(matches!(refused, Err(NotOurs::Greeting)));
}

/// This kernel, with the mounts of this thread.
struct OfThread;

impl Kernel for OfThread {
    fn mounts_at(&self, place: &Path) -> io::Result<Vec<MountEntry>> {
        let mut mounts = mountinfo::parse(&std::fs::read("/proc/thread-self/mountinfo")?);
        mounts.retain(|entry| entry.mountpoint == place);
        Ok(mounts)
    }
}

/// Mounts a connection that nobody serves.
fn mount(place: &Path) -> OwnedFd {
    let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let flags = nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV;
    nix::mount::mount(Some("x"), place, Some("fuse"), flags, Some(data.as_str())).unwrap();
    device.into()
}

#[test]
fn h2_on_this_kernel() {
    // The mounts end with the thread.
    std::thread::spawn(|| {
        // SAFETY: changes only what this thread sees of the file system.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0, "needs CAP_SYS_ADMIN");
        let flags = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
        nix::mount::mount(None::<&Path>, "/", None::<&Path>, flags, None::<&Path>).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (ours, other) = (directory.path().join("ours"), directory.path().join("other"));
        for place in [&ours, &other] {
            std::fs::create_dir(place).unwrap();
        }
        let (connection, victim) = (mount(&ours), mount(&other));
        let unmounted: OwnedFd =
            File::options().read(true).write(true).open("/dev/fuse").unwrap().into();
        let own = OwnMount::of_kernel(&ours, OfThread);
        let verify = |connection: &OwnedFd| {
            let connection = connection.try_clone().unwrap();
            own.verify(connection, Greeting::example(), None, Teller::Server)
        };
        let found = verify(&connection).unwrap();
        let table = OfThread.mounts_at(&ours).unwrap();
        assert_eq!(found.device, Some(table[0].device));
        assert!(matches!(verify(&unmounted), Err(NotOurs::Over)));
        // Only from 6.15 on does the kernel tell them apart; before, no harm comes of it.
        if connection_of(victim.as_fd()).is_some() {
            assert!(matches!(verify(&victim), Err(NotOurs::Elsewhere)));
        } else {
            assert_eq!(verify(&victim).unwrap().device, Some(table[0].device));
        }
        let null = File::open("/dev/null").unwrap().into();
        assert!(matches!(verify(&null), Err(NotOurs::NotFuse)));
        drop((found, connection, victim));
        for place in [&ours, &other] {
            nix::mount::umount2(place, nix::mount::MntFlags::MNT_DETACH).unwrap();
        }
    })
    .join()
    .unwrap();
}
