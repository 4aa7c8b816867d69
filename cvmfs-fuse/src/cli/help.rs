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
  cvmfs-fuse automount                                   all repositories under /cvmfs, when used
  cvmfs-fuse upgrade --all                               after a new version was installed
  cvmfs-fuse run --repo cms.cern.ch -- bash              mount for one command, e.g. in containers
  cvmfs-fuse ls -l cms.cern.ch:/                         look without mounting
  cvmfs-fuse cat cms.cern.ch:/cmsset_default.sh | head
  cvmfs-fuse preload sw.example.org --cache-dir DIR      download ahead of use
  cvmfs-fuse profile record cms.cern.ch -o FILE -- CMD   so that others start CMD faster
  cvmfs-fuse status                                      all mounts at a glance
  cvmfs-fuse why PATH                                    what stands behind an 'Input/output error'
  cvmfs-fuse doctor [FQRN]                               what is wrong here, and what to do
  cvmfs-fuse mirrors cms.cern.ch                         which server is fast, new and right
  cvmfs-fuse docker-run cms.cern.ch                      print the flags that containers need
  cvmfs-fuse cache info                                  how full, shared with whom

Exit codes (a failure ends with one line on stderr: MESSAGE (CODE - TEXT)):
   0  OK                                15  keys or blocklist cannot be read
   1  other failure, no such path       16  manifest, whitelist or catalog not there or not right
   2  illegal options                   20  already mounted elsewhere
   3  permission denied, no mountpoint  21  something is mounted on the mountpoint
   4  failed to mount                   22  no such tag or date
   9  cache directory not usable        23  proxy problem
  12  the cache cannot be made smaller  25  revision is on the blocklist

Host configuration: the files of /etc/cvmfs are read as by cvmfs2 (cvmfs-fuse config --help). Log level: -v, -vv, or the variable CVMFS_FUSE_LOG; its form: --log-format.";

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
    format!("{MOUNT}\n\n{}", crate::config::parameters::table::help())
}

/// Examples for `cvmfs-fuse automount --help`.
const AUTOMOUNT: &str = "\
Examples:
  cvmfs-fuse automount                                   /cvmfs/FQRN for all built-in domains
  cvmfs-fuse automount --repo cms.cern.ch,sft.cern.ch --only-listed
  cvmfs-fuse automount /cvmfs --server http://s1.example.org/cvmfs/@fqrn@ \\
                   --public-key /etc/example.org.pub --idle-timeout 3600
  cvmfs-fuse umount /cvmfs

A service container for all others, which need no privilege:
  docker run -d --cap-add SYS_ADMIN --device /dev/fuse -v /cvmfs:/cvmfs:rshared \\
             -v cvmfs-cache:/var/lib/cvmfs-fuse cvmfs-fuse automount --foreground
  docker run -v /cvmfs:/cvmfs:rslave IMAGE ls /cvmfs/cms.cern.ch
/cvmfs of the host must be a shared mount; with systemd it is. Neither autofs, nor --privileged, nor \
the host's pid namespace is needed. A server that dies is replaced, and nobody notices; 'cvmfs-fuse \
upgrade' replaces it by a new version.

A repository is opened when its name is first used, with servers and keys of its domain, and closed \
when nobody has used it for --idle-timeout; working directories and names stay what they are. One \
process with one cache serves all of them; what is wrong with one is not seen in another. A listing \
shows those of --repo and those that are open.

A name that cannot be a repository, or whose servers all say that there is none, does not exist \
(ENOENT); the answer is remembered for a minute. A repository that cannot be reached is an \
input/output error, and is asked for again after 5 s. Nothing is stored about either.

Extended attributes: of a repository as with 'mount'; of the directory itself user.automount (how \
many are open) and user.repositories (which).";

/// Examples and parameters for `cvmfs-fuse automount --help`.
pub(super) fn automount() -> String {
    format!("{AUTOMOUNT}\n\n{}", crate::config::parameters::table::help())
}

/// Examples for `cvmfs-fuse umount --help`.
pub(super) const UMOUNT: &str = "\
Examples:
  cvmfs-fuse umount /cvmfs/cms.cern.ch
  cvmfs-fuse umount --lazy /cvmfs/cms.cern.ch     even while files are open

umount(8) and fusermount3 -u do the same.";

/// Examples for `cvmfs-fuse upgrade --help`.
pub(super) const UPGRADE: &str = "\
Examples:
  cvmfs-fuse upgrade /cvmfs/cms.cern.ch
  cvmfs-fuse upgrade --all

Nothing is unmounted, and no call fails: files stay open. The program is the one that has the name \
now under which the mount was started. It prepares while the old server goes on, and takes over when \
it is ready. If it fails, the old program goes on, and the exit code is 19. Each mount is told with \
the versions before and after. Only root and the user who mounted may do that, in the network \
namespace of the mount's processes (docker exec).";

/// Examples for `cvmfs-fuse status --help`.
pub(super) const STATUS: &str = "\
Examples:
  cvmfs-fuse status
  cvmfs-fuse status cms.cern.ch --json | jq .revision

AGE is the time since the revision was published, HITS the share of objects that were in the cache, \
ERRORS the calls that failed and are remembered ('cvmfs-fuse why' tells them). Mounts are asked through \
a socket and not through the kernel, all at once and for 5 s at most: one that hangs is told as such, \
with exit code 1. Root sees all mounts of a network namespace, users their own.";

/// Examples for `cvmfs-fuse top --help`.
pub(super) const TOP: &str = "\
Examples:
  cvmfs-fuse top
  cvmfs-fuse top --once --delay 10

OBJECTS/s counts the first uses of objects: what the kernel has in memory is read without us. End it \
with Ctrl-C, or q and Enter.";

/// Examples for `cvmfs-fuse trace --help`.
pub(super) const TRACE: &str = "\
Examples:
  cvmfs-fuse trace /cvmfs/cms.cern.ch --duration 30
  cvmfs-fuse trace cms.cern.ch --summary
  cvmfs-fuse trace cms.cern.ch --summary --profile FILE && cvmfs-fuse profile import cms.cern.ch FILE

Files are opened without a message to us, and what the kernel has in memory is read without one. So this \
shows lookups and the reads of what the kernel does not have: each file's first. Times are from the \
request to its answer, in microseconds; the summary counts by powers of two. The thread and its program \
are known for processes of this pid namespace. A profile names what each thread read, in its order, \
from the last 16,384 requests; files in chunks are left out.";

/// Examples for `cvmfs-fuse why --help`.
pub(super) const WHY: &str = "\
Examples:
  cvmfs-fuse why /cvmfs/cms.cern.ch/some/file     cat said 'Input/output error'
  cvmfs-fuse why /cvmfs/cms.cern.ch               all failures of the repository

The server of a mount remembers the last 64 failures, with the object, each server and proxy that was \
tried and what it answered. They end with the server, also by an upgrade. Exit code 1: nothing known.";

/// Examples for `cvmfs-fuse probe --help`.
pub(super) const PROBE: &str = "\
Examples:
  cvmfs-fuse probe                                all that are mounted here
  cvmfs-fuse probe cms.cern.ch atlas.cern.ch      mounts them, where an automounter is

Prints 'Probing DIR... OK' or 'Failed!' for each, as cvmfs_config does; exit code 1 if any failed.";

/// Examples for `cvmfs-fuse talk --help`.
pub(super) const TALK: &str = "\
Examples:
  cvmfs-fuse talk -i cms.cern.ch cache size
  cvmfs-fuse talk -i /cvmfs/cms.cern.ch remount sync
  cvmfs-fuse talk -p /var/lib/cvmfs-fuse/cvmfs_io.cms.cern.ch proxy info
  cvmfs-fuse talk --json status

Commands:
  cache size|instance|list|list pinned|list catalogs|limit get|limit set MB, cleanup MB, evict PATH,
  pin PATH, remount [sync], chroot HASH, revision, root hash, max ttl info|set MINUTES,
  host info|switch|probe|probe geo|set URLS, proxy info|rebalance|group switch|set|fallback PROXIES,
  external host|proxy ..., timeout info|set PROXY DIRECT, nameserver get, open catalogs,
  detach nested catalogs, internal affairs, reset error counters, parameters, mountpoint, device id,
  pid, pid watchdog, version, hotpatch history, vfs inodes, vfs entries;
  latency; ours: status, repositories, failures, trace watch SECONDS, trace profile

Only root, the user who mounted, and CVMFS_TALK_OWNER may talk to a mount. Programs write a line to the \
socket and read until its end; a JSON object with 'command' (and 'repository') is answered by one with \
'ok', 'text' and 'data'.";

/// Examples for `cvmfs-fuse bugreport --help`.
pub(super) const BUGREPORT: &str = "\
Examples:
  cvmfs-fuse bugreport -o report.txt

Versions, mounts, what each mount tells about itself, files below /etc/cvmfs and the ends of logs, as one \
text. Passwords in URLs and values of parameters with secret names are masked; look through it all the same.";

/// Examples for `cvmfs-fuse hold --help`.
pub(super) const HOLD: &str = "\
Examples:
  docker run --user 1001 --cap-drop ALL --network none --read-only -v hold:/hold IMAGE \\
      cvmfs-fuse hold --socket /hold/socket --allow 0
  docker run --cap-add SYS_ADMIN --device /dev/fuse -v hold:/hold -v /cvmfs:/cvmfs:rshared IMAGE \\
      cvmfs-fuse mount cms.cern.ch /cvmfs/cms.cern.ch --foreground \\
      --holder /hold/socket --holder-user 1001

A holder is believed that runs as root, as the user who mounts, or as the user of --holder-user. What one user \
deposits is given back to that user only. \
When all processes of a mount die or its container is stopped, users of the mount wait until the \
same 'mount --holder' command runs again, which goes on with the live mount: for that it needs \
neither the capability nor /dev/fuse. If nobody comes within the deadline, users get errors. \
SIGINT and 'umount' end a mount for good. The holder needs no privilege and no network; it may be \
restarted at any time. It ends at SIGTERM.";

/// Examples for `cvmfs-fuse run --help`.
pub(super) const RUN: &str = "\
Examples:
  cvmfs-fuse run --repo cms.cern.ch -- bash
  cvmfs-fuse run --repo sft.cern.ch,cms.cern.ch --cache-dir /scratch/cache -- ./job.sh --events 10
  docker run --device /dev/fuse --cap-add SYS_ADMIN IMAGE     with, in the Dockerfile:
      RUN mkdir /cvmfs
      ENTRYPOINT [\"cvmfs-fuse\", \"run\", \"--repo\", \"cms.cern.ch\", \"--\"]
      CMD [\"bash\"]
  podman run --device /dev/fuse IMAGE                         needs no capability

Mounts with CAP_SYS_ADMIN, or else in a user namespace that it makes. The command runs as the user \
who called, without any capability, and cannot gain one (no sudo, no ping). It gets every signal \
that 'run' gets; 'run' reaps, so it may be process 1. When the command ends, the mounts go with it; \
when 'run' is killed, the command is killed too. A repository that the host has mounted already is \
used as it is. Where nothing can be made in --mount-root, a tmpfs is put over it that keeps what was \
there. No other program is needed in the image. Without --cache-dir, and without a home that can be \
written to, the cache is $TMPDIR/cvmfs-fuse-UID.

Exit codes: that of the command, 128+N if signal N ended it, 126 or 127 if it cannot be executed or \
found. If a repository cannot be mounted, those of 'mount', unless --optional is given: then the \
message says what is missing, and the command runs.

In a user namespace, processes started with 'docker exec' may not enter the mounts: start them with \
'cvmfs-fuse enter'.";

/// Examples for `cvmfs-fuse enter --help`.
pub(super) const ENTER: &str = "\
Examples:
  docker exec -it CONTAINER cvmfs-fuse enter -- bash
  cvmfs-fuse enter --pid 4711 -- ls /cvmfs          process 4711 is 'cvmfs-fuse run' of this user

The command runs as the user who called, without any capability. Only the user who started 'run' \
may enter its namespaces, or root of the host.";

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

/// Examples for `cvmfs-fuse doctor --help`.
pub(super) const DOCTOR: &str = "\
Examples:
  cvmfs-fuse doctor                          kernel, /dev/fuse, privileges, mounts, cache
  cvmfs-fuse doctor cms.cern.ch              and its servers, signatures, proxies and the clock
  docker run --rm IMAGE cvmfs-fuse doctor    what a container lacks, and the flag that grants it

Nothing is changed. Each line is ok, a warning (works, but not for everybody or not for long) or a \
problem, with the command or flag that mends it. The exit code is 0 if there is no problem, 1 \
otherwise. Checks are bounded: 3 s for all mounts, 40 s for all servers.";

/// Examples for `cvmfs-fuse mirrors --help`.
pub(super) const MIRRORS: &str = "\
Examples:
  cvmfs-fuse mirrors cms.cern.ch
  cvmfs-fuse mirrors cern.ch --html mirrors.html           a repository that all servers have
  cvmfs-fuse mirrors sw.example.org --servers 'http://s1/cvmfs/@fqrn@;http://s2/cvmfs/@fqrn@' \\
                     --public-key sw.pub --proxy 'http://squid:3128;DIRECT' --json
  cvmfs-fuse mirrors cms.cern.ch --watch 10m --json >> mirrors.jsonl

Every server is asked by every proxy of the list (and directly, if it has DIRECT): the time for DNS, \
connecting, TLS and the first byte, whether connections are kept, HTTP/2; then manifest, whitelist \
and certificate, verified as for a mount; then random objects, whose hashes are checked, one and \
several at a time. The best server is the first line: right and new comes before fast.

Exit codes: 0 if nothing is wrong; else 64 plus the sum of 1 a server is unreachable or does not \
have the repository, 2 one is stale, 4 signatures or objects are not right or not there, 8 a \
whitelist is expired or will be soon; --fail-on says which of them count. Others: cvmfs-fuse --help. \
A server that is behind for less than --max-lag is a warning only.";

/// Examples for `cvmfs-fuse docker-run --help`.
pub(super) const DOCKER_RUN: &str = "\
Examples:
  cvmfs-fuse docker-run cms.cern.ch                        one container mounts, all others see it
  cvmfs-fuse docker-run --mode inside cms.cern.ch -- bash  the container mounts for itself
  cvmfs-fuse docker-run --mode rootless --engine podman cms.cern.ch

Only prints: the commands, and for each flag a comment that says why it is there. Flags for \
AppArmor and SELinux are there if this machine needs them. The output is a script for sh.";

/// Examples for `cvmfs-fuse cache --help`.
pub(super) const CACHE: &str = "\
Examples:
  cvmfs-fuse cache info
  cvmfs-fuse cache ls -n 20 --cache-dir /var/cache/shared
  cvmfs-fuse cache check --repair
  cvmfs-fuse cache evict cms.cern.ch:/cmsset_default.sh
  cvmfs-fuse cache clean --to 5G
  cvmfs-fuse cache wipe

All of them may be run while repositories are mounted. A directory can be shared by users of a \
group (chgrp GROUP DIR && chmod 2770 DIR), who then trust each other; among users who do not, a \
broker writes for all of them (cvmfs-fuse cache broker --help).";

/// Examples for `cvmfs-fuse cache evict --help`.
pub(super) const CACHE_EVICT: &str = "\
Examples:
  cvmfs-fuse cache evict cms.cern.ch:/cmsset_default.sh
  cvmfs-fuse cache evict 0123456789abcdef0123456789abcdef01234567

A file that is open stays readable for those who have it. The exit code is 1 if a target is not in \
the cache.";

/// Examples for `cvmfs-fuse cache broker --help`.
pub(super) const CACHE_BROKER: &str = "\
Examples:
  cvmfs-fuse cache broker --cache-dir /var/lib/cvmfs-fuse --quota 50G --allow @1000
  cvmfs-fuse mount cms.cern.ch /cvmfs/cms.cern.ch --cache-mode broker

The broker checks the hash of everything it is given, and hands out descriptors that can only be \
read: no user can change what another one gets. It ends at SIGTERM and may be restarted at any time; \
mounts go on in memory meanwhile. It runs in the foreground, for systemd or a container. Clients \
must run as other users than the broker, or they could write to its directory themselves.";

/// Examples for `cvmfs-fuse preload --help`.
pub(super) const PRELOAD: &str = "\
Examples:
  cvmfs-fuse preload sw.example.org --cache-dir /image/cache
  cvmfs-fuse preload cms.cern.ch:/cmsset_default.sh cms.cern.ch:/el9_amd64_gcc12/cms/cmssw/X
  cvmfs-fuse preload cms.cern.ch --list dirtab.txt --alien-cache /shared/alien

Repeat the command to go on after an interruption: what is there is not downloaded again. A \
repository that is preloaded as a whole can be mounted without network. With --list the targets say \
where to begin. The file is a dirtab as cvmfs_preload takes it: one path a line, '*' for anything \
within a name, '!' in front of a path that is left out; everything below a path belongs to it.";

/// Examples for `cvmfs-fuse profile --help`.
pub(super) const PROFILE: &str = "\
Examples:
  cvmfs-fuse profile record sw.example.org -o app.profile -- /cvmfs/sw.example.org/bin/app --version
  cvmfs-fuse profile import sw.example.org app.profile --cache-dir /image/cache
  cvmfs-fuse profile show sw.example.org
  cvmfs-fuse profile export sw.example.org | ssh node cvmfs-fuse profile import sw.example.org \
                     /dev/stdin

A mount remembers in its cache which objects a program used after its first one, and fetches them in \
parallel at the next start, also after a new revision. What is asked for goes first, and what is \
fetched in vain is forgotten. A profile names objects by their hash: it is right on every machine, and \
a wrong one only wastes bandwidth. The attributes user.prefetched and user.prefetch_used of the mount \
tell objects and bytes fetched ahead, and those of them that were used. --set CVMFS_FUSE_PREFETCH=no \
switches it off.";

/// Examples for `cvmfs-fuse profile record --help`.
pub(super) const PROFILE_RECORD: &str = "\
Examples:
  cvmfs-fuse profile record sw.example.org -o app.profile -- /cvmfs/sw.example.org/bin/app --version
  cvmfs-fuse profile record sw.example.org --mount ~/sw --cache-dir ~/c -o f -- ~/sw/bin/app

The repository is mounted already; --cache-dir is that of the mount, whose server stores what it saw \
before and after the command. So whatever else starts from this mount meanwhile is in the profile, \
too, and what the kernel has in memory is not: record with a fresh mount. The exit code is that of \
the command, 128+N if signal N ended it, 126 or 127 if it cannot be executed or found.";

/// Examples for `cvmfs-fuse completions --help`.
pub(super) const COMPLETIONS: &str = "\
Examples:
  cvmfs-fuse completions bash > /usr/share/bash-completion/completions/cvmfs-fuse
  cvmfs-fuse completions zsh > ~/.zfunc/_cvmfs-fuse
  cvmfs-fuse completions fish > ~/.config/fish/completions/cvmfs-fuse.fish
  source <(cvmfs-fuse completions bash)                  for this shell only";

/// Examples for `cvmfs-fuse man --help`.
pub(super) const MAN: &str = "\
Examples:
  cvmfs-fuse man | man -l -                              the page of the program
  cvmfs-fuse man /usr/local/share/man/man1               all pages, one for each subcommand

They have the same text as --help.";

/// Examples for `cvmfs-fuse config --help`.
pub(super) const CONFIG: &str = "\
Examples:
  cvmfs-fuse config show cms.cern.ch                     every parameter, and where it is set
  cvmfs-fuse config check cms.cern.ch                    mistakes, and what to do about them

Files are read in the order of cvmfs2, a later one counts more: /etc/cvmfs/default.conf, \
default.d/*.conf, default.local, domain.d/DOMAIN.conf and .local, config.d/FQRN.conf and .local, and in \
front of each of them the same of the repository in CVMFS_CONFIG_REPOSITORY if it is mounted, limited \
to servers, keys and the network. What flags say counts more than all of them, what is built in less. \
No shell is run: assignments, quotes, export, readonly, if, case, [ ], && and ||, ${A:-b}, and \
'source' are understood; whatever else is passed over with a warning. --config FILE reads other files \
instead, the variable CVMFS_FUSE_CONFIG_DIR another directory than /etc/cvmfs.";

/// Examples for `cvmfs-fuse config show --help`.
pub(super) const CONFIG_SHOW: &str = "\
Examples:
  cvmfs-fuse config show
  cvmfs-fuse config show cms.cern.ch --json
  cvmfs-fuse config show sw.example.org --config site.conf
  cvmfs-fuse config show sw.example.org --config site.toml
  cvmfs-fuse config show --all --json                    what else there is, and what it does

The form is that of 'cvmfs2 -o parse': NAME=VALUE    # from FILE:LINE.";

/// Examples for `cvmfs-fuse config check --help`.
pub(super) const CONFIG_CHECK: &str = "\
Examples:
  cvmfs-fuse config check
  cvmfs-fuse config check cms.cern.ch

The exit code is 0 if nothing is wrong, else 1.";

/// Examples for `cvmfs-fuse metrics --help`.
pub(super) const METRICS: &str = "\
Examples:
  cvmfs-fuse metrics > /var/lib/node_exporter/cvmfs.prom
  cvmfs-fuse metrics --listen 127.0.0.1:9867             /metrics for Prometheus, / for a browser
  cvmfs-fuse metrics --listen unix:/run/cvmfs-metrics.sock

One process tells about all mounts that are seen from here, by their control sockets. It has to run as \
root or as the user who mounted.";
