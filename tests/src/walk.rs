//! A mounted tree as data, and how it differs from the truth.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use fixtures::genuine::{EntryType, TruthEntry};
use sha2::{Digest as _, Sha256};

/// Differences shown by [`assert_equal`]; a broken mount has thousands.
const SHOWN: usize = 20;

/// What a walk found, by path; an entry that could not be read has the error instead.
pub type Walk = BTreeMap<Vec<u8>, Result<TruthEntry, String>>;

/// Walks a whole tree: lists, asks for attributes, reads every file.
///
/// # Panics
/// If the root cannot be listed.
pub fn walk(root: &Path) -> Walk {
    let mut found = Walk::new();
    let mut directories = vec![Vec::new()];
    while let Some(directory) = directories.pop() {
        let path = root.join(std::ffi::OsStr::from_bytes(&directory));
        let names: Vec<_> = match fs::read_dir(&path).and_then(Iterator::collect) {
            Ok(names) => names,
            Err(error) => {
                assert!(!directory.is_empty(), "cannot list the root: {error}");
                found.insert(directory, Err(format!("cannot list: {error}")));
                continue;
            }
        };
        if directory.is_empty() {
            found.insert(b".".to_vec(), look(b".", root).map_err(|error| error.to_string()));
        }
        for name in names {
            let name = fs::DirEntry::file_name(&name);
            let mut relative = directory.clone();
            if !relative.is_empty() {
                relative.push(b'/');
            }
            relative.extend_from_slice(name.as_bytes());
            let entry = look(&relative, &path.join(name)).map_err(|error| error.to_string());
            if entry.as_ref().is_ok_and(|entry| entry.entry_type == EntryType::Directory) {
                directories.push(relative.clone());
            }
            if found.insert(relative.clone(), entry).is_some() {
                found.insert(relative, Err("listed twice".to_owned()));
            }
        }
    }
    found
}

/// Compares as `truth.py check` does: what the truth does not say about an entry is not looked
/// at, and extended attributes beside those of the truth are allowed.
pub fn compare(truth: &[TruthEntry], walked: &Walk) -> Vec<String> {
    let mut differences = Vec::new();
    let mut unexpected: BTreeMap<_, _> = walked.iter().collect();
    for want in truth {
        let path = String::from_utf8_lossy(&want.path).escape_debug().to_string();
        match unexpected.remove(&want.path) {
            None => differences.push(format!("{path}: missing")),
            Some(Err(error)) => differences.push(format!("{path}: {error}")),
            Some(Ok(got)) => {
                let mut got = got.clone();
                got.xattrs.retain(|name, _| want.xattrs.contains_key(name));
                if got != *want {
                    differences.push(format!("{path}:\n  want {want:?}\n  got  {got:?}"));
                }
            }
        }
    }
    for path in unexpected.keys() {
        differences
            .push(format!("{}: not in the truth", String::from_utf8_lossy(path).escape_debug()));
    }
    differences
}

/// Walks the tree under `root` and panics with the first differences from `truth`.
pub fn assert_equal(truth: &[TruthEntry], root: &Path) {
    let differences = compare(truth, &walk(root));
    assert!(
        differences.is_empty(),
        "{} of {} entries differ:\n{}",
        differences.len(),
        truth.len(),
        differences[..differences.len().min(SHOWN)].join("\n")
    );
}

/// Reads all that is visible of one entry.
fn look(relative: &[u8], path: &Path) -> io::Result<TruthEntry> {
    let metadata = fs::symlink_metadata(path)?;
    let file_type = metadata.file_type();
    let entry_type = match () {
        () if file_type.is_dir() => EntryType::Directory,
        () if file_type.is_file() => EntryType::File,
        () if file_type.is_symlink() => EntryType::Symlink,
        () if file_type.is_fifo() => EntryType::Fifo,
        () if file_type.is_socket() => EntryType::Socket,
        () if file_type.is_char_device() => EntryType::CharDevice,
        () => EntryType::BlockDevice,
    };
    let sized = matches!(entry_type, EntryType::File | EntryType::Symlink);
    let device = matches!(entry_type, EntryType::CharDevice | EntryType::BlockDevice);
    Ok(TruthEntry {
        path: relative.to_vec(),
        entry_type,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime_ns: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
        size: sized.then(|| metadata.size()),
        nlink: sized.then(|| metadata.nlink()),
        rdev: device.then(|| metadata.rdev()),
        target: match entry_type {
            EntryType::Symlink => Some(fs::read_link(path)?.into_os_string().into_vec()),
            _ => None,
        },
        sha256: match entry_type {
            EntryType::File => Some(sha256(path)?),
            _ => None,
        },
        xattrs: xattrs(path)?,
    })
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(digest.finalize())),
            length => digest.update(&buffer[..length]),
        }
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Returns all extended attributes of an entry itself, links not followed.
///
/// # Errors
/// As llistxattr(2) and lgetxattr(2).
pub fn xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let names = list_xattrs(path)?;
    names.into_iter().map(|name| Ok((name.clone(), get_xattr(path, &name)?))).collect()
}

/// Returns the names of the listed extended attributes.
///
/// # Errors
/// As llistxattr(2).
pub fn list_xattrs(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let path = c_path(path)?;
    let list = sized_read(|buffer, size| {
        // SAFETY: the path ends with NUL; buffer and size are of one allocation, or null and 0.
        unsafe { libc::llistxattr(path.as_ptr(), buffer.cast(), size) }
    })?;
    Ok(list.split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

/// Returns the value of one extended attribute, listed or not.
///
/// # Errors
/// As lgetxattr(2).
pub fn get_xattr(path: &Path, name: &[u8]) -> io::Result<Vec<u8>> {
    let (path, name) = (c_path(path)?, CString::new(name).map_err(io::Error::other)?);
    sized_read(|buffer, size| {
        // SAFETY: both strings end with NUL; buffer and size are as above.
        unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), buffer.cast(), size) }
    })
}

/// Asks for the size with a null buffer, then for the content.
fn sized_read(call: impl Fn(*mut u8, usize) -> isize) -> io::Result<Vec<u8>> {
    let checked = |result: isize| usize::try_from(result).map_err(|_| io::Error::last_os_error());
    loop {
        let size = checked(call(std::ptr::null_mut(), 0))?;
        let mut buffer = vec![0; size];
        if size != 0 {
            match checked(call(buffer.as_mut_ptr(), size)) {
                Ok(filled) => buffer.truncate(filled),
                // It has grown since, as the number of a revision does.
                Err(error) if error.raw_os_error() == Some(libc::ERANGE) => continue,
                Err(error) => return Err(error),
            }
        }
        return Ok(buffer);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn walks_and_compares() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir_all(root.join("d/e")).unwrap();
        fs::write(root.join("d/e/f"), b"hello").unwrap();
        fs::set_permissions(root.join("d/e/f"), fs::Permissions::from_mode(0o4750)).unwrap();
        symlink("../x", root.join("d/l")).unwrap();
        let odd = std::ffi::OsStr::from_bytes(b"\xff");
        fs::write(root.join(odd), b"").unwrap();

        let walked = walk(root);
        let truth: Vec<_> = walked.values().cloned().map(Result::unwrap).collect();
        let paths: Vec<_> = truth.iter().map(|entry| entry.path.as_slice()).collect();
        assert_eq!(paths, [&b"."[..], b"d", b"d/e", b"d/e/f", b"d/l", b"\xff"]);
        assert_eq!((truth[3].mode, truth[3].size, truth[3].nlink), (0o4750, Some(5), Some(1)));
        let hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        assert_eq!(truth[3].sha256.as_deref(), Some(hello));
        assert_eq!(truth[4].target.as_deref(), Some(&b"../x"[..]));
        assert_eq!((truth[1].size, truth[1].nlink, truth[1].sha256.clone()), (None, None, None));
        assert_eq!(compare(&truth, &walked), [""; 0]);
        assert_equal(&truth, root);

        let mut changed = truth.clone();
        changed[3].mtime_ns += 1;
        changed[4].xattrs.insert(b"user.a".to_vec(), vec![]);
        let gone = changed.remove(1);
        changed.push(TruthEntry { path: b"more".to_vec(), ..gone });
        let differences = compare(&changed, &walked);
        assert_eq!(differences.len(), 4, "{differences:?}");
        assert!(differences[0].starts_with("d/e/f:\n  want"), "{differences:?}");
        assert!(differences[1].starts_with("d/l:\n  want"), "{differences:?}");
        assert_eq!(differences[2..], ["more: missing", "d: not in the truth"]);
    }

    #[test]
    fn more_attributes_are_allowed() {
        let directory = tempfile::tempdir().unwrap();
        let mut walked = walk(directory.path());
        let root = walked.get_mut(&b"."[..]).unwrap().as_mut().unwrap();
        let truth = [root.clone()];
        root.xattrs.insert(b"user.revision".to_vec(), b"1".to_vec());
        assert_eq!(compare(&truth, &walked), [""; 0]);
    }

    #[test]
    fn unknown_attributes_are_errors() {
        let directory = tempfile::tempdir().unwrap();
        let error = get_xattr(directory.path(), b"user.none").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODATA));
        assert!(list_xattrs(&directory.path().join("none")).is_err());
    }
}
