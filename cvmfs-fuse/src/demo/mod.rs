//! `cvmfs-fuse demo`: a genuine repository on a loopback server, mounted for a look around.
//!
//! The mount is made by running `cvmfs-fuse mount` with the flags that any repository without
//! built-in knowledge needs, so the demo shows nothing that its user could not do. Everything it
//! makes lies in one temporary directory and is gone at the end.
//!
//! | module | what it holds |
//! |---|---|
//! | [`archive`] | the repository inside the program |
//! | [`server`] | the web server |
//! | `listing` | what is shown of a directory |

pub mod archive;
mod listing;
pub mod server;

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cvmfs_cache::safe_path::{self, PRIVATE};
use cvmfs_core::path::RepoPath;
use tokio::signal::unix::{Signal, SignalKind, signal};

use cvmfs_core::chain::chain;

use crate::cli::exit::{ExitStatus, Failure};
use crate::cli::runtime;
use crate::config::CacheFlags;
use crate::config::environment::absolute;
use crate::config::{Environment, RepositoryFlags, RepositorySettings, parse_fqrn};
use listing::Line;
use server::DemoServer;

/// Runs the demo: mounts on `dir` or on a temporary directory, shows a listing, waits for Ctrl-C
/// unless `once`, and cleans up.
///
/// Where mounting is not possible the listing is read through the library, and the status is that
/// of the failed mount.
pub fn run(
    dir: Option<&Path>,
    once: bool,
    environment: &Environment,
) -> Result<ExitStatus, Failure> {
    runtime()?.block_on(async {
        // Before anything is mounted: from now on Ctrl-C leads through the clean-up.
        let mut signals = Signals::new().map_err(failed("cannot wait for signals"))?;
        let stage = Stage::set_up(dir).await?;
        let outcome = match stage.mount()? {
            ExitStatus::Ok => {
                let shown = show_mount(&stage, once);
                if !once && shown.is_ok() {
                    signals.wait().await;
                }
                stage.unmount()?;
                shown.map(|()| ExitStatus::Ok)
            }
            status => show_without_mount(&stage, environment).await.map(|()| status),
        };
        stage.tear_down();
        outcome
    })
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::caused(ExitStatus::Unknown, what, &error)
}

/// The signals that end the demo.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

/// Server and files of one demo.
struct Stage {
    server: DemoServer,
    /// Holds the key, the cache, and the mountpoint if none was given.
    home: tempfile::TempDir,
    mountpoint: PathBuf,
    /// The mountpoint did not exist before.
    made_mountpoint: bool,
}

impl Stage {
    async fn set_up(dir: Option<&Path>) -> Result<Self, Failure> {
        let files = archive::unpack().map_err(failed("the bundled repository is damaged"))?;
        let home = tempfile::Builder::new()
            .prefix("cvmfs-fuse-demo-")
            .tempdir()
            .map_err(failed("cannot make a temporary directory"))?;
        let mountpoint = match dir {
            Some(dir) => absolute(dir).map_err(failed("cannot use the directory"))?,
            None => home.path().join(archive::FQRN),
        };
        let made_mountpoint = match safe_path::make_new_directory(&mountpoint, PRIVATE) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => {
                let what = format!("cannot make the directory {}", mountpoint.display());
                return Err(Failure::caused(ExitStatus::Permission, &what, &error));
            }
        };
        let server =
            DemoServer::start(files).await.map_err(failed("cannot listen on 127.0.0.1"))?;
        let stage = Self { server, home, mountpoint, made_mountpoint };
        std::fs::write(stage.key_file(), archive::MASTER_KEY)
            .map_err(failed("cannot write the master key"))?;
        Ok(stage)
    }

    fn key_file(&self) -> PathBuf {
        self.home.path().join("small.test.repo.pub")
    }

    /// What a user types for a repository without built-in servers and keys.
    fn flags(&self) -> RepositoryFlags {
        RepositoryFlags {
            server: Some(self.server.base_url(archive::FQRN)),
            public_key: Some(self.key_file().into()),
            cache: CacheFlags {
                cache_dir: Some(self.home.path().join("cache")),
                ..CacheFlags::default()
            },
            ..RepositoryFlags::default()
        }
    }

    fn mount_arguments(&self) -> Vec<PathBuf> {
        vec![
            "mount".into(),
            archive::FQRN.into(),
            self.mountpoint.clone(),
            "--server".into(),
            self.server.base_url(archive::FQRN).into(),
            "--public-key".into(),
            self.key_file(),
            "--cache-dir".into(),
            self.home.path().join("cache"),
        ]
    }

    /// Runs `cvmfs-fuse mount`, which says on stderr what goes wrong.
    fn mount(&self) -> Result<ExitStatus, Failure> {
        // Not current_exe(): the file may have been replaced by an upgrade.
        let ended = Command::new("/proc/self/exe")
            .arg0("cvmfs-fuse")
            .args(self.mount_arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .map_err(failed("cannot run this program"))?;
        Ok(ended
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .and_then(ExitStatus::of_code)
            .unwrap_or(ExitStatus::Unknown))
    }

    fn unmount(&self) -> Result<(), Failure> {
        crate::daemon::unmount(&self.mountpoint, false).or_else(|busy| {
            tracing::warn!(reason = busy.message, "detaching the mount");
            crate::daemon::unmount(&self.mountpoint, true)
        })
    }

    fn tear_down(self) {
        if self.made_mountpoint {
            // Only ever removes an empty directory.
            if let Err(error) = std::fs::remove_dir(&self.mountpoint) {
                tracing::warn!(mountpoint = %self.mountpoint.display(), %error, "stays behind");
            }
        }
        let home = self.home.path().to_owned();
        if let Err(error) = self.home.close() {
            tracing::warn!(directory = %home.display(), %error, "stays behind");
        }
    }
}

fn show_mount(stage: &Stage, once: bool) -> Result<(), Failure> {
    let lines =
        listing::of_directory(&stage.mountpoint).map_err(failed("cannot list the mount"))?;
    let mount = quoted(&stage.mountpoint);
    let command: Vec<_> = stage.mount_arguments().iter().map(|word| quoted(word)).collect();
    let mut text = format!(
        "{} is mounted on {mount}. What was run:\n\n  cvmfs-fuse {}\n\n",
        archive::FQRN,
        command.join(" ")
    );
    describe(&mut text, &lines);
    let flags = format!(
        "--server {} --public-key {} --cache-dir {}",
        stage.server.base_url(archive::FQRN),
        quoted(&stage.key_file()),
        quoted(&stage.home.path().join("cache"))
    );
    let _ = write!(
        text,
        "\nTry in another terminal:\n\n  \
           cat {mount}/hello.txt\n  \
           {mount}/bin/run.sh\n  \
           ls -l {mount}/links {mount}/nested\n  \
           sha256sum {mount}/big-chunked.bin\n  \
           cvmfs-fuse stat {flags} {fqrn}:/big-chunked.bin\n",
        fqrn = archive::FQRN
    );
    if !once {
        text.push_str("\nCtrl-C unmounts it and removes everything.\n");
    }
    print(&text)
}

async fn show_without_mount(stage: &Stage, environment: &Environment) -> Result<(), Failure> {
    let fqrn = parse_fqrn(archive::FQRN.as_ref())?;
    let settings = RepositorySettings::resolve(fqrn, &stage.flags(), environment)?;
    let repository = settings.open_for_reading(1).await?;
    let entries = repository.current().list(&RepoPath::root()).await.map_err(|error| {
        Failure::new(
            ExitStatus::Catalog,
            format!("cannot list {}: {}", settings.fqrn, chain(&error)),
        )
    })?;
    let mut text = format!(
        "Mounting is not possible here, for the reason above. {} can still be read without it, \
         with cvmfs-fuse ls, cat and stat:\n\n",
        archive::FQRN
    );
    describe(&mut text, &listing::of_entries(&entries));
    print(&text)
}

fn describe(text: &mut String, lines: &[Line]) {
    let colours = io::stdout().is_terminal();
    for line in lines {
        let _ = writeln!(text, "  {}", line.shown(colours));
    }
}

/// Prints for people; nobody listening is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(failed("cannot write to stdout")(error))
        }
        _ => Ok(()),
    }
}

/// Returns a path as a word for the shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_words() {
        for (path, word) in [
            ("/tmp/x-1/y.z", "/tmp/x-1/y.z"),
            ("http://127.0.0.1:80/r", "http://127.0.0.1:80/r"),
            ("/tmp/my dir", "'/tmp/my dir'"),
            ("/it's", "'/it'\\''s'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(Path::new(path)), word);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_stage_can_be_read_without_a_mount() {
        let stage = Stage::set_up(None).await.unwrap();
        let home = stage.home.path().to_owned();
        let environment = Environment {
            is_root: false,
            home: None,
            cache_home: None,
            config_home: None,
            log: None,
            http_proxy: None,
            configuration: "/nonexistent".into(),
            reads_config_repository: true,
        };
        let settings = RepositorySettings::resolve(
            archive::FQRN.parse().unwrap(),
            &stage.flags(),
            &environment,
        )
        .unwrap();
        let repository = settings.open(false).await.unwrap();
        let entries = repository.current().list(&RepoPath::root()).await.unwrap();
        let names: Vec<_> = listing::of_entries(&entries).iter().map(|l| l.shown(false)).collect();
        assert!(names.contains(&"       12  hello.txt".to_owned()), "{names:?}");
        assert!(names.contains(&"           rel-link -> hello.txt".to_owned()), "{names:?}");
        assert!(names.contains(&"           nested/".to_owned()), "{names:?}");
        drop(repository);
        stage.tear_down();
        assert!(!home.exists());
    }
}
