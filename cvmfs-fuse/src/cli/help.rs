//! The long texts of `--help`.

/// What the program is, for `cvmfs-fuse --help`.
pub(super) const ABOUT: &str = "\
Mounts CernVM-FS repositories: large read-only trees of software and data that are published \
once and fetched over HTTP, file by file, when they are first read.

Everything is checked before it is shown: a master public key signs the whitelist, the whitelist \
names the certificate, the certificate signs the manifest, and every object is named by its hash. \
Repositories under cern.ch, egi.eu, opensciencegrid.org and eessi.io need no configuration; all \
others need --server and --public-key.";

/// Examples and exit codes, for `cvmfs-fuse --help`.
pub(super) const AFTER: &str = "\
Examples:
  cvmfs-fuse demo                                        try it, without network
  cvmfs-fuse mount cms.cern.ch /cvmfs/cms.cern.ch        mount with built-in servers and keys
  cvmfs-fuse umount /cvmfs/cms.cern.ch
  cvmfs-fuse ls -l cms.cern.ch:/                         look without mounting
  cvmfs-fuse cat cms.cern.ch:/cmsset_default.sh | head

Exit codes (a failure ends with one line on stderr: MESSAGE (CODE - TEXT)):
   0  OK                                15  keys or blocklist cannot be read
   1  other failure, no such path       16  manifest, whitelist or catalog not there or not right
   2  illegal options                   20  already mounted elsewhere
   3  permission denied, no mountpoint  21  something is mounted on the mountpoint
   4  failed to mount                   22  no such tag or date
   9  cache directory not usable        23  proxy problem
                                        25  revision is on the blocklist

Host configuration: /etc/cvmfs/keys (keys of domains that are not built in) and \
/etc/cvmfs/blacklist are read if they exist. Log level: -v, -vv, or the variable CVMFS_FUSE_LOG.";

/// Examples for `cvmfs-fuse mount --help`.
const MOUNT: &str = "\
Examples:
  cvmfs-fuse mount cms.cern.ch /cvmfs/cms.cern.ch
  cvmfs-fuse mount cms.cern.ch /cvmfs/cms.cern.ch --proxy 'squid1:3128|squid2:3128;DIRECT'
  cvmfs-fuse mount sw.example.org ~/sw --server http://s1.example.org/cvmfs/@fqrn@ \\
                   --public-key /etc/sw.example.org.pub
  cvmfs-fuse mount sw.example.org ~/sw --server file:///srv/cvmfs/@fqrn@ --public-key sw.pub \\
                   --tag v1.2 --foreground

The command returns when the mount can be used, or with an exit code that says why not (see \
cvmfs-fuse --help). The server goes on in the background until the directory is unmounted. \
Mounts are always read-only, nosuid and nodev. For root, allow_other is the default.";

/// Examples and parameters for `cvmfs-fuse mount --help`.
pub(super) fn mount() -> String {
    format!("{MOUNT}\n\n{}", crate::config::parameters::Parameters::help())
}

/// Examples for `cvmfs-fuse umount --help`.
pub(super) const UMOUNT: &str = "\
Examples:
  cvmfs-fuse umount /cvmfs/cms.cern.ch
  cvmfs-fuse umount --lazy /cvmfs/cms.cern.ch     even while files are open

umount(8) and fusermount3 -u do the same.";

/// Examples for `cvmfs-fuse ls --help`.
pub(super) const LS: &str = "\
Examples:
  cvmfs-fuse ls cms.cern.ch:/
  cvmfs-fuse ls -l sft.cern.ch:/lcg/releases sft.cern.ch:/lcg/views

Names are printed raw when the output is a pipe or a file, and escaped on a terminal. The exit \
code is 1 if a path does not exist, and that of a failed mount if the repository cannot be read.";

/// Examples for `cvmfs-fuse cat --help`.
pub(super) const CAT: &str = "\
Examples:
  cvmfs-fuse cat cms.cern.ch:/cmsset_default.sh
  cvmfs-fuse cat --tag v1.2 sw.example.org:/a.tar sw.example.org:/b.tar > both

Each byte is checked before it is printed. The exit code is 1 if a path does not exist or is no \
file, and that of a failed mount if the repository cannot be read.";

/// Examples for `cvmfs-fuse stat --help`.
pub(super) const STAT: &str = "\
Examples:
  cvmfs-fuse stat cms.cern.ch:/cmsset_default.sh
  cvmfs-fuse stat --json cms.cern.ch:/ | jq .mtime

With --json one object a path and line: fqrn, path, kind, mode (octal text), uid, gid, size, \
mtime, mtime_ns, nlink, catalog, revision, xattrs, and where they apply: target, raw_target, \
rdev, hash, compression, chunks. Names, targets and values that are no UTF-8 are objects \
{\"hex\": \"...\"} instead of strings.";

/// Examples for `cvmfs-fuse demo --help`.
pub(super) const DEMO: &str = "\
Examples:
  cvmfs-fuse demo               mount on a fresh temporary directory until Ctrl-C
  cvmfs-fuse demo /tmp/demo     mount there
  cvmfs-fuse demo --once        show the listing and end

Needs no network: a genuine repository, published by the official server tools, is inside the \
program and served on 127.0.0.1. Nothing is left behind.";
