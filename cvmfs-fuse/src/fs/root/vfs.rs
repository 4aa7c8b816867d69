//! Requests of the kernel, passed on to the repository of their inode.

use std::time::Duration;

use cvmfs_core::fqrn::Fqrn;

use super::super::magic::OF_FAILURES;
use super::super::repo::statistics;
use super::super::{
    Buffer, DirectoryReplier, Entry, FsError, FsStatistics, Gate, Ino, Opened, ROOT_INO, Vfs,
};
use super::outward::Outward;
use super::{RootFs, Slot};

/// How long the kernel may remember that there is no such repository.
const ABSENCE_TTL: Duration = Duration::from_secs(5);

/// Attributes of the root of the mount, which is in no repository.
const OF_ROOT: &[&str] = &["user.automount", "user.pid", "user.repositories", "user.version"];

impl Vfs for RootFs {
    async fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Entry, FsError> {
        let Some(seat) = self.at(parent).await? else {
            return match name {
                b"." | b".." => Ok(self.root()),
                _ => self.lookup_repository(name).await,
            };
        };
        if seat.ino == ROOT_INO && name == b".." {
            return Ok(self.root());
        }
        let entry = seat.open.fs.lookup(seat.ino, name).await.map_err(seat.failed())?;
        if entry.attributes.ino == ROOT_INO {
            seat.member.refer();
        }
        Ok(seat.member.slot.entry(entry))
    }

    fn forget(&self, ino: Ino, count: u64) {
        let (Some(slot), inner) = Slot::split(ino) else { return };
        let Some(member) = self.shared.members.read().at(slot) else { return };
        if inner == ROOT_INO {
            member.forget_root(count);
        } else {
            member.forget(inner, count);
        }
    }

    async fn getattr(&self, ino: Ino) -> Result<Entry, FsError> {
        let Some(seat) = self.at(ino).await? else { return Ok(self.root()) };
        let entry = seat.open.fs.getattr(seat.ino).await.map_err(seat.failed())?;
        Ok(seat.member.slot.entry(entry))
    }

    async fn readlink(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let seat = self.inside(ino).await?;
        seat.open.fs.readlink(seat.ino).await.map_err(seat.failed())
    }

    async fn open(&self, ino: Ino, caller: u32) -> Result<Opened, FsError> {
        let seat = self.inside(ino).await?;
        let opened = seat.open.fs.open(seat.ino, caller).await.map_err(seat.failed())?;
        seat.open.file_opened();
        Ok(opened)
    }

    async fn read(&self, ino: Ino, caller: u32, offset: u64, size: u32) -> Result<Buffer, FsError> {
        let seat = self.inside(ino).await?;
        seat.open.fs.read(seat.ino, caller, offset, size).await.map_err(seat.failed())
    }

    fn release(&self, ino: Ino, handle: u64) {
        let (Some(slot), inner) = Slot::split(ino) else { return };
        let open = self.shared.members.read().at(slot).and_then(|member| member.peek());
        if let Some(open) = open {
            open.fs.release(inner, handle);
            open.file_released();
        }
    }

    async fn opendir(&self, ino: Ino) -> Result<u64, FsError> {
        // The root needs none: offsets of its listing are slots.
        let Some(seat) = self.at(ino).await? else { return Ok(0) };
        seat.open.fs.opendir(seat.ino).await.map_err(seat.failed())
    }

    async fn readdir<R: DirectoryReplier>(
        &self,
        ino: Ino,
        handle: u64,
        offset: u64,
        replier: &mut R,
    ) -> Result<(), FsError> {
        let Some(seat) = self.at(ino).await? else {
            self.list(offset, replier).await;
            return Ok(());
        };
        let (slot, of_its_root) = (seat.member.slot, seat.ino == ROOT_INO);
        let mut outward = Outward { replier, slot, of_its_root };
        let listed = seat.open.fs.readdir(seat.ino, handle, offset, &mut outward).await;
        listed.map_err(seat.failed())
    }

    fn releasedir(&self, ino: Ino, handle: u64) {
        let (Some(slot), inner) = Slot::split(ino) else { return };
        let open = self.shared.members.read().at(slot).and_then(|member| member.peek());
        if let Some(open) = open {
            open.fs.releasedir(inner, handle);
        }
    }

    async fn statfs(&self, ino: Ino) -> Result<FsStatistics, FsError> {
        let Some(seat) = self.at(ino).await? else {
            return Ok(statistics(self.shared.opener.usage(), 0, 0));
        };
        seat.open.fs.statfs(seat.ino).await.map_err(seat.failed())
    }

    async fn getxattr(&self, ino: Ino, name: &[u8], group: u32) -> Result<Vec<u8>, FsError> {
        let seat = self.at(ino).await?.ok_or(FsError::NoSuchAttribute)?;
        if !seat.open.fs.allows_attribute(seat.ino, name, group) {
            return Err(FsError::NoSuchAttribute);
        }
        match seat.open.fs.server_attribute(seat.ino, name) {
            // It was not open when that was asked first.
            Some(value) => Ok(value),
            None => seat.open.fs.getxattr(seat.ino, name, group).await.map_err(seat.failed()),
        }
    }

    async fn listxattr(&self, ino: Ino, group: u32) -> Result<Vec<u8>, FsError> {
        let Some(seat) = self.at(ino).await? else {
            let exposure = &self.shared.options.exposure;
            let listed = OF_ROOT.iter().chain(OF_FAILURES).filter(|name| {
                exposure.visibility.lists(true) && exposure.allows(name.as_bytes(), group)
            });
            return Ok(listed.flat_map(|name| name.bytes().chain([0])).collect());
        };
        seat.open.fs.listxattr(seat.ino, group).await.map_err(seat.failed())
    }

    fn gate(&self) -> &Gate {
        &self.gate
    }

    fn server_attribute(&self, ino: Ino, name: &[u8]) -> Option<Vec<u8>> {
        let (Some(slot), inner) = Slot::split(ino) else {
            return match name {
                b"user.version" => Some(crate::VERSION.as_bytes().to_vec()),
                b"user.pid" => Some(std::process::id().to_string().into_bytes()),
                // Ours: how many repositories are open, and which.
                b"user.automount" => Some(self.open_repositories().len().to_string().into_bytes()),
                b"user.repositories" => {
                    let names = self.open_repositories();
                    let names: Vec<_> = names.iter().map(Fqrn::as_str).collect();
                    Some(names.join("\n").into_bytes())
                }
                _ => None,
            };
        };
        let open = self.shared.members.read().at(slot)?.open()?;
        open.fs.server_attribute(inner, name)
    }

    fn allows_attribute(&self, ino: Ino, name: &[u8], group: u32) -> bool {
        let (Some(slot), inner) = Slot::split(ino) else {
            return self.shared.options.exposure.allows(name, group);
        };
        // One that is not open yet has nothing to tell; 'getxattr' opens it and asks again.
        let open = self.shared.members.read().at(slot).and_then(|member| member.peek());
        open.is_none_or(|open| open.fs.allows_attribute(inner, name, group))
    }

    fn negative_ttl(&self, parent: Ino) -> Duration {
        let (Some(slot), inner) = Slot::split(parent) else { return ABSENCE_TTL };
        let open = self.shared.members.read().at(slot).and_then(|member| member.peek());
        open.map_or(ABSENCE_TTL, |open| open.fs.negative_ttl(inner))
    }

    fn shown_path(&self, ino: Ino) -> Option<String> {
        let (Some(slot), inner) = Slot::split(ino) else { return Some(String::new()) };
        let member = self.shared.members.read().at(slot)?;
        let inside = member.peek()?.fs.shown_path(inner)?;
        Some(format!("/{}{inside}", member.fqrn))
    }

    fn keeps_listing(&self, ino: Ino) -> bool {
        // That of the root changes with every repository that is opened.
        ino != ROOT_INO
    }

    fn keeps_all_listings(&self) -> bool {
        false
    }
}
