//! `profile`: what is known about the programs that run from a repository.

pub(super) mod record;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cvmfs_cache::safe_path::{OutputMode, write_output};
use cvmfs_core::cache::{CacheError, ObjectCache};
use cvmfs_core::fqrn::Fqrn;
use indicatif::BinaryBytes;
use jiff::Timestamp;
use serde::Serialize;

use super::args::{
    ProfileCommand, ProfileExportArgs, ProfileImportArgs, ProfilePlace, ProfileShowArgs,
};
use super::cache::print;
use super::exit::{ExitStatus, Failure};
use crate::config::{CacheSettings, Environment, parse_fqrn};
use crate::prefetch::profile::learner::{load, record_name};
use crate::prefetch::profile::text::{MAX_LEN, name_of};
use crate::prefetch::profile::{Profile, Segment};

/// Runs one of the subcommands but `record`, which ends as another program ended.
pub(super) fn run(
    command: &ProfileCommand,
    environment: &Environment,
) -> Result<std::process::ExitCode, Failure> {
    let status = match command {
        ProfileCommand::Show(args) => show(args, environment),
        ProfileCommand::Export(args) => export(args, environment),
        ProfileCommand::Import(args) => import(args, environment),
        ProfileCommand::Record(args) => return record::run(args, environment),
    };
    status.map(Into::into)
}

/// The record of a repository, where it is kept.
struct Kept {
    fqrn: Fqrn,
    cache: Arc<dyn ObjectCache>,
    directory: PathBuf,
}

impl Kept {
    fn open(place: &ProfilePlace, make: bool, environment: &Environment) -> Result<Self, Failure> {
        let fqrn = parse_fqrn(&place.fqrn)?;
        let settings = CacheSettings::resolve(&place.cache, environment)?;
        let directory = settings.alien.clone().unwrap_or_else(|| settings.directory.clone());
        if !make && !directory.is_dir() {
            let message = format!("there is no cache in {}", directory.display());
            return Err(Failure::new(ExitStatus::CacheDirectory, message)
                .advise("give --cache-dir; a mount makes it"));
        }
        Ok(Self { fqrn, cache: settings.open()?, directory })
    }

    fn load(&self) -> Profile {
        load(&*self.cache, self.fqrn.as_str())
    }

    fn loaded(&self) -> Result<Profile, Failure> {
        let profile = self.load();
        if profile.is_empty() {
            let message =
                format!("nothing is known about {} in {}", self.fqrn, self.directory.display());
            return Err(Failure::new(ExitStatus::Unknown, message).advise(
                "a mount with this cache stores what it learnt when it ends, and every 30 s",
            ));
        }
        Ok(profile)
    }
}

fn show(args: &ProfileShowArgs, environment: &Environment) -> Result<ExitStatus, Failure> {
    let kept = Kept::open(&args.place, false, environment)?;
    let profile = kept.loaded()?;
    if args.json {
        return print(&(as_json(kept.fqrn.as_str(), &profile)? + "\n"));
    }
    print(&as_table(&profile))
}

fn as_table(profile: &Profile) -> String {
    let mut text = format!(
        "{:<19} {:>8} {:>10} {:>5} {:<40} FOLLOWED BY\n",
        "LAST USED", "OBJECTS", "SIZE", "TIMES", "TRIGGER"
    );
    let start = |id: &_| name_of(id).chars().take(12).collect::<String>();
    for (trigger, segment) in profile.segments() {
        let used = i64::try_from(segment.used).ok();
        let used = used.and_then(|used| Timestamp::from_millisecond(used).ok());
        let used = used
            .map_or_else(|| "?".to_owned(), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string());
        let times = segment.objects.first().map_or(0, |known| known.count);
        let next: Vec<_> =
            segment.next.iter().map(|(next, count)| format!("{} x{count}", start(next))).collect();
        text.push_str(&format!(
            "{used:<19} {:>8} {:>10} {times:>5} {:<40} {}\n",
            segment.objects.len(),
            BinaryBytes(segment.bytes()).to_string(),
            name_of(trigger),
            next.join(", ")
        ));
    }
    text
}

fn as_json(fqrn: &str, profile: &Profile) -> Result<String, Failure> {
    #[derive(Serialize)]
    struct Object {
        id: String,
        size: u64,
        count: u8,
    }
    #[derive(Serialize)]
    struct Next {
        trigger: String,
        count: u8,
    }
    #[derive(Serialize)]
    struct Shown {
        trigger: String,
        used: u64,
        bytes: u64,
        objects: Vec<Object>,
        next: Vec<Next>,
    }
    #[derive(Serialize)]
    struct All<'a> {
        fqrn: &'a str,
        segments: Vec<Shown>,
    }
    let shown = |(trigger, segment): (&_, &Segment)| Shown {
        trigger: name_of(trigger),
        used: segment.used,
        bytes: segment.bytes(),
        objects: segment
            .objects
            .iter()
            .map(|known| Object {
                id: name_of(&known.item.id),
                size: known.item.size,
                count: known.count,
            })
            .collect(),
        next: segment
            .next
            .iter()
            .map(|(next, count)| Next { trigger: name_of(next), count: *count })
            .collect(),
    };
    let all = All { fqrn, segments: profile.segments().into_iter().map(shown).collect() };
    crate::escape::json(&all)
        .map_err(|error| Failure::caused(ExitStatus::Unknown, "cannot print", &error))
}

fn export(args: &ProfileExportArgs, environment: &Environment) -> Result<ExitStatus, Failure> {
    let kept = Kept::open(&args.place, false, environment)?;
    let text = kept.loaded()?.to_text(kept.fqrn.as_str());
    match &args.output {
        None => print(&text),
        Some(path) => write(path, &text).map(|()| ExitStatus::Ok),
    }
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    write_output(path, text.as_bytes(), OutputMode::ByUmask).map_err(|error| {
        Failure::caused(ExitStatus::Unknown, &format!("cannot write {}", path.display()), &error)
    })
}

fn import(args: &ProfileImportArgs, environment: &Environment) -> Result<ExitStatus, Failure> {
    let fqrn = parse_fqrn(&args.place.fqrn)?;
    let what = args.file.display();
    let mut bytes = Vec::new();
    File::open(&args.file)
        .and_then(|file| file.take(MAX_LEN as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| {
        Failure::caused(ExitStatus::Unknown, &format!("cannot read {what}"), &error)
    })?;
    let new = Profile::parse(&bytes, fqrn.as_str()).map_err(|error| {
        Failure::caused(ExitStatus::Unknown, &format!("{what} is not imported"), &error)
    })?;
    let kept = Kept::open(&args.place, true, environment)?;
    let failed = |error: CacheError| {
        Failure::caused(ExitStatus::CacheDirectory, "cannot store the profile", &error)
    };
    let mut joined = None;
    kept.cache
        .update_record(&record_name(fqrn.as_str()), &mut |record| {
            // One that is damaged is as good as none.
            let known = record.and_then(|bytes| Profile::parse(&bytes, fqrn.as_str()).ok());
            let mut profile = known.unwrap_or_default();
            profile.join(new.clone());
            let text = profile.to_text(fqrn.as_str());
            joined = Some((profile.segments().len(), profile.objects()));
            Some(text.into_bytes())
        })
        .map_err(failed)?;
    let Some((segments, objects)) = joined else {
        let message = format!("{} keeps no profiles", kept.directory.display());
        return Err(Failure::new(ExitStatus::CacheDirectory, message));
    };
    print(&format!(
        "{fqrn}: {objects} objects in {segments} segments are known now; mounts that begin from now \
         on use them\n"
    ))
}

#[cfg(test)]
mod tests {
    use cvmfs_core::hash::{ContentHash, HashAlgorithm};
    use cvmfs_core::object::{ObjectId, ObjectKind};

    use super::*;
    use crate::prefetch::profile::{Item, Lesson};

    #[test]
    fn what_is_shown() {
        let item = |number: u8| {
            let hash = ContentHash::of(HashAlgorithm::Sha1, &[number]);
            Item { id: ObjectId::zlib(hash, ObjectKind::Data), size: 1024 }
        };
        let mut profile = Profile::default();
        let uses = (0..70).map(item).collect();
        profile.learn(&Lesson { at: 1000, uses, ..Lesson::default() });
        let table = as_table(&profile);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 3, "{table}");
        let first = lines[1..].iter().find(|line| line.contains("64 ")).unwrap();
        assert!(first.starts_with("1970-01-01 00:00:01       64  64.00 KiB     1 "), "{table}");
        let next = item(64).id.to_string();
        assert!(first.ends_with(&format!(" {} x1", &next[..12])), "{table}");
        let json: serde_json::Value =
            serde_json::from_str(&as_json("a.b.c", &profile).unwrap()).unwrap();
        assert_eq!(json["fqrn"], "a.b.c");
        assert_eq!(json["segments"][0]["objects"].as_array().unwrap().len() % 58, 6);
    }
}
