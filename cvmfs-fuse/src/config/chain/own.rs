//! Our own file, for sites without files of `cvmfs2`: the same parameters as TOML.
//!
//! A key is the name of a parameter without `CVMFS_`, in lower case. What stands on top holds for
//! all repositories, `[domain."cern.ch"]` for those of a domain, `[repository."cms.cern.ch"]` for
//! one, each counting more than those before. `[variables]`, on top or in these, is for links.

use std::path::{Path, PathBuf};

use cvmfs_core::fqrn::Fqrn;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::evaluate::{Origin, Remark, State};
use crate::config::parameters::table::{self, Parameter};
use crate::config::read_bounded;

/// Its name beside the files of `cvmfs2`.
pub(super) const NAME: &str = "cvmfs-fuse.toml";
/// Largest file: that of a site with a hundred repositories has some 20 KiB. Keys with thousands of dots take time
/// with the square of their length.
const MAX_FILE_SIZE: u64 = 1 << 18;
/// What all parameters begin with.
const PREFIX: &str = "CVMFS_";
/// Between groups of proxies, and between those of a group (spec/network.md section 3).
const PROXY_SEPARATORS: [char; 2] = [';', '|'];

/// One file, read.
#[derive(Debug)]
pub(super) struct Document {
    file: PathBuf,
    said: Vec<Said>,
    remarks: Vec<Remark>,
}

/// Whom something is said of.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Scope {
    All,
    Domain(String),
    Repository(String),
}

/// One variable.
#[derive(Debug)]
struct Said {
    scope: Scope,
    name: String,
    text: String,
    line: u32,
}

/// Why a file says nothing.
#[derive(Debug)]
pub(super) enum Silent {
    /// It is not there.
    Absent,
    /// It is not for us: the home of whoever we were before, or a file of root.
    Forbidden(Remark),
    /// Nobody knows what it would have said.
    Broken(Remark),
}

impl Document {
    /// Reads a file.
    pub(super) fn read(file: &Path) -> Result<Self, Silent> {
        let broken = |text| Remark { origin: Origin { file: file.to_owned(), line: 1 }, text };
        let bytes = match read_bounded(file, MAX_FILE_SIZE) {
            Ok(bytes) => bytes,
            Err(error) => {
                let remark = broken(format!("cannot be read: {error}"));
                return Err(match error.kind() {
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
                        Silent::Absent
                    }
                    std::io::ErrorKind::PermissionDenied => Silent::Forbidden(remark),
                    _ => Silent::Broken(remark),
                });
            }
        };
        Self::parse(file, bytes)
    }

    /// Takes the content of a file apart.
    pub(super) fn parse(file: &Path, bytes: Vec<u8>) -> Result<Self, Silent> {
        let broken = |line, text| Remark { origin: Origin { file: file.to_owned(), line }, text };
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            Silent::Broken(broken(line_at(error.as_bytes(), valid), "is not UTF-8".to_owned()))
        })?;
        let parsed = DeTable::parse(&text).map_err(|error| {
            let line = line_at(text.as_bytes(), error.span().map_or(0, |span| span.start));
            let text = format!("is not TOML: {}", error.message());
            Silent::Broken(broken(line, text))
        })?;
        let document = Self { file: file.to_owned(), said: Vec::new(), remarks: Vec::new() };
        let mut reader = Reader { text: &text, document };
        reader.top(parsed.get_ref());
        Ok(reader.document)
    }

    /// Sets what is said of a repository, or of all.
    pub(super) fn apply(&self, state: &mut State, fqrn: Option<&Fqrn>) {
        state.files.push(self.file.clone());
        state.remarks.extend(self.remarks.iter().cloned());
        for said in self.said_of(fqrn) {
            // Taken ahead of the others; what counts less there is no attempt to change it.
            if state.protected.contains(&said.name) {
                continue;
            }
            state.assign(&self.file, said.line, &said.name, said.text.clone());
        }
    }

    /// Sets one parameter only, ahead of the others.
    pub(super) fn apply_one(&self, name: &str, state: &mut State, fqrn: Option<&Fqrn>) {
        if let Some(said) = self.said_of(fqrn).rfind(|said| said.name == name) {
            state.assign(&self.file, said.line, name, said.text.clone());
        }
    }

    /// What holds for a repository; what counts more comes later.
    fn said_of<'a>(
        &'a self,
        fqrn: Option<&'a Fqrn>,
    ) -> impl DoubleEndedIterator<Item = &'a Said> + use<'a> {
        let of = move |wanted: fn(&Scope, &Fqrn) -> bool| {
            self.said.iter().filter(move |said| fqrn.is_some_and(|fqrn| wanted(&said.scope, fqrn)))
        };
        let domain =
            of(|scope, fqrn| matches!(scope, Scope::Domain(name) if name == fqrn.domain()));
        let own =
            of(|scope, fqrn| matches!(scope, Scope::Repository(name) if name == fqrn.as_str()));
        self.said.iter().filter(|said| said.scope == Scope::All).chain(domain).chain(own)
    }
}

struct Reader<'a> {
    text: &'a str,
    document: Document,
}

impl Reader<'_> {
    fn line<T>(&self, at: &Spanned<T>) -> u32 {
        line_at(self.text.as_bytes(), at.span().start)
    }

    fn remark(&mut self, line: u32, text: String) {
        let origin = Origin { file: self.document.file.clone(), line };
        self.document.remarks.push(Remark { origin, text });
    }

    fn top(&mut self, table: &DeTable<'_>) {
        for (key, value) in table {
            let scope: fn(String) -> Scope = match &**key.get_ref() {
                "domain" => Scope::Domain,
                "repository" => Scope::Repository,
                _ => {
                    self.entry(&Scope::All, key, value);
                    continue;
                }
            };
            let Some(named) = value.get_ref().as_table() else {
                let key = key.get_ref();
                let text = format!("{key} needs a name: [{key}.\"NAME\"]");
                self.remark(self.line(value), text);
                continue;
            };
            for (name, section) in named {
                let scope = scope(name.get_ref().to_string());
                match section.get_ref().as_table() {
                    Some(entries) => {
                        entries.iter().for_each(|(key, value)| self.entry(&scope, key, value));
                    }
                    None => {
                        let key = key.get_ref();
                        let text = format!("{key} has a table for each name: [{key}.\"NAME\"]");
                        self.remark(self.line(section), text);
                    }
                }
            }
        }
    }

    fn entry(
        &mut self,
        scope: &Scope,
        key: &Spanned<toml::de::DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
    ) {
        let (name, line) = (&**key.get_ref(), self.line(key));
        if name == "variables"
            && let Some(variables) = value.get_ref().as_table()
        {
            for (name, value) in variables {
                let line = self.line(name);
                match scalar(value.get_ref()) {
                    _ if name.get_ref().starts_with(PREFIX) => {
                        self.remark(
                            line,
                            format!("{} is a parameter, no variable", name.get_ref()),
                        );
                    }
                    Ok(text) => self.say(scope, name.get_ref().to_string(), text, line),
                    Err(what) => {
                        self.remark(line, format!("{} cannot be {what}", name.get_ref()));
                    }
                }
            }
            return;
        }
        let full = format!("{PREFIX}{}", name.to_ascii_uppercase());
        let known = table::find(&full).filter(|_| name == key_of(&full));
        let Some(known) = known.filter(|known| known.name != "CVMFS_FQRN") else {
            let text = match (value.get_ref(), table::nearest(&full)) {
                // [repository.cms.cern.ch] is a table in tables.
                (DeValue::Table(_), _) if *scope != Scope::All => {
                    "a name with dots is written in quotes: [repository.\"cms.cern.ch\"]".to_owned()
                }
                (DeValue::Table(_), _) => {
                    format!("[{name}] is unknown: there are domain, repository and variables")
                }
                (_, Some(near)) => format!("{name} is unknown; {} is meant?", key_of(near)),
                _ => {
                    format!("{name} is unknown; 'cvmfs-fuse config show --all' lists what there is")
                }
            };
            return self.remark(line, text);
        };
        match text_of(value.get_ref(), known) {
            Ok(text) => self.say(scope, full, text, line),
            Err(what) => self.remark(line, format!("{name} cannot be {what}")),
        }
    }

    fn say(&mut self, scope: &Scope, name: String, text: String, line: u32) {
        self.document.said.push(Said { scope: scope.clone(), name, text, line });
    }
}

/// Returns the key of a parameter.
pub(crate) fn key_of(name: &str) -> String {
    name.strip_prefix(PREFIX).unwrap_or(name).to_ascii_lowercase()
}

/// Returns what stands between the members of a list, and of a list in it, where a parameter is one.
fn separators(form: &str) -> Option<[char; 2]> {
    if form == "SPEC" {
        return Some(PROXY_SEPARATORS);
    }
    let more = form.strip_suffix("...]")?;
    let separator = more.rsplit_once('[')?.1.chars().next()?;
    Some([separator; 2])
}

/// Writes a value as the files of `cvmfs2` have it; the error says what it is instead.
fn text_of(value: &DeValue<'_>, parameter: &Parameter) -> Result<String, String> {
    let DeValue::Array(members) = value else { return scalar(value) };
    let Some([outer, inner]) = separators(parameter.form) else {
        return Err("a list".to_owned());
    };
    let join = |members: Vec<String>, separator: char| members.join(&separator.to_string());
    let members = members.iter().map(|member| match member.get_ref() {
        DeValue::Array(group) if outer != inner => {
            let group: Result<Vec<_>, _> =
                group.iter().map(|member| scalar(member.get_ref())).collect();
            Ok(join(group?, inner))
        }
        member => scalar(member),
    });
    Ok(join(members.collect::<Result<Vec<_>, String>>()?, outer))
}

fn scalar(value: &DeValue<'_>) -> Result<String, String> {
    Ok(match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_err(|_| "so large a number".to_owned())?
            .to_string(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(true) => "yes".to_owned(),
        DeValue::Boolean(false) => "no".to_owned(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => return Err("a list".to_owned()),
        DeValue::Table(_) => return Err("a table".to_owned()),
    })
}

/// The line of a place in a text, from 1.
fn line_at(text: &[u8], at: usize) -> u32 {
    let before = text.iter().take(at).filter(|&&byte| byte == b'\n').count();
    u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::super::Configuration;
    use super::super::check::examine;
    use super::super::tests::{load, tree};
    use super::*;
    use crate::config::RepositoryFlags;
    use crate::config::environment::Environment;

    /// Everything that can be said, beside a file of `cvmfs2`.
    const FILES: &[(&str, &str)] = &[
        ("default.local", "CVMFS_TIMEOUT=1\nCVMFS_MAX_RETRIES=7\nreadonly CVMFS_DNS_TIMEOUT=4\n"),
        (
            NAME,
            r#"# ours
timeout = 0x10
dns_timeout = 9
http_proxy = [["http://a:3128", "http://b:3128"], "DIRECT"]
quota_limit = 20_000
claim_ownership = true

[domain."cern.ch"]
server_url = ["http://one/cvmfs/@fqrn@", "http://two/cvmfs/@fqrn@"]
public_key = ["/k/1", "/k/2"]
timeout = 20

[repository."cms.cern.ch"]
timeout = 30
repository_date = 2026-11-28T10:00:00Z
variables.SITE = "T2_DE"

[variables]
ARCH = "el9"
"#,
        ),
    ];

    #[test]
    fn it_says_the_same_as_the_files_of_cvmfs2_and_counts_more() {
        let found = load(FILES, "cms.cern.ch");
        for (name, text, line) in [
            ("CVMFS_TIMEOUT", "30", 14),
            ("CVMFS_HTTP_PROXY", "http://a:3128|http://b:3128;DIRECT", 4),
            ("CVMFS_QUOTA_LIMIT", "20000", 5),
            ("CVMFS_CLAIM_OWNERSHIP", "yes", 6),
            ("CVMFS_SERVER_URL", "http://one/cvmfs/cms.cern.ch;http://two/cvmfs/cms.cern.ch", 9),
            ("CVMFS_PUBLIC_KEY", "/k/1:/k/2", 10),
            ("CVMFS_REPOSITORY_DATE", "2026-11-28T10:00:00Z", 15),
            ("SITE", "T2_DE", 16),
            ("ARCH", "el9", 19),
            ("CVMFS_MAX_RETRIES", "7", 2),
        ] {
            let value = found.get(name).unwrap_or_else(|| panic!("{name}"));
            let origin = value.origin.as_ref().unwrap();
            assert_eq!((value.text.as_str(), origin.line), (text, line), "{name}");
            let is_ours = origin.file.ends_with(NAME);
            assert_eq!(is_ours, name != "CVMFS_MAX_RETRIES", "{name}");
        }
        // What the machine's files have fixed stays.
        assert_eq!(found.text("CVMFS_DNS_TIMEOUT"), Some("4"));
        assert_eq!(found.remarks.len(), 1, "{:?}", found.remarks);
        for (fqrn, timeout) in [("atlas.cern.ch", "20"), ("sw.example.org", "16")] {
            assert_eq!(load(FILES, fqrn).text("CVMFS_TIMEOUT"), Some(timeout), "{fqrn}");
        }
    }

    #[test]
    fn mistakes_are_named_with_their_line_and_the_rest_holds() {
        let text = r#"timout = 3
fqrn = "a.b.c"
Timeout = 4
max_retries = [1, 2]
quota_limit = { a = 1 }
nothing_like_it_at_all = 1
domain = 7
[repository.cms.cern.ch]
timeout = 1
[servers]
[variables]
CVMFS_TIMEOUT = 9
GOOD = 1
LIST = [1]
"#;
        let found = load(&[(NAME, text)], "cms.cern.ch");
        let said: Vec<_> = examine(&found)
            .iter()
            .map(|finding| (finding.origin.as_ref().unwrap().line, finding.text.clone()))
            .collect();
        for (line, part) in [
            (1, "timeout is meant?"),
            (2, "fqrn is unknown"),
            (3, "timeout is meant?"),
            (4, "max_retries cannot be a list"),
            (5, "quota_limit cannot be a table"),
            (6, "config show --all"),
            (7, "[domain.\"NAME\"]"),
            (8, "in quotes"),
            (10, "[servers] is unknown"),
            (12, "is a parameter"),
            (14, "LIST cannot be a list"),
        ] {
            let is_there = said.iter().any(|(at, text)| *at == line && text.contains(part));
            assert!(is_there, "{line} {part}: {said:#?}");
        }
        assert_eq!(said.len(), 11, "{said:#?}");
        assert_eq!(found.text("GOOD"), Some("1"));
        assert_eq!(found.get("CVMFS_TIMEOUT"), None);
    }

    #[test]
    fn m1_deep_files_are_refused_in_a_small_stack() {
        let deep = |begin: &str, inner: &str| begin.to_owned() + &inner.repeat(4000);
        let texts = [
            deep("a = ", "["),
            deep("a = ", "{a="),
            deep("", "a.") + "a = 1",
            deep("[", "a.") + "a]",
            deep("[[", "a.") + "a]]",
            deep("", "a = 1\n"),
            deep("a = ", "[[],"),
            (0..4000).map(|n| format!("[[a{n}]]\n")).collect(),
        ];
        let run = move || {
            for text in texts {
                let begin: String = text.chars().take(10).collect();
                let parsed = Document::parse(Path::new("/etc/x.toml"), text.into_bytes());
                assert!(parsed.is_err() || begin.starts_with("[[a0"), "{begin}");
            }
        };
        let small = std::thread::Builder::new().stack_size(256 << 10).spawn(run).unwrap();
        small.join().unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_understood_is_not_passed_over() {
        for (text, line) in [("a = 1\nb = \n", 2), ("x = \"\n", 1), ("[a]\n\n[a]\n", 3)] {
            let (_scratch, environment) = tree(&[(NAME, text)]);
            let fqrn = "a.b.c".parse().unwrap();
            let flags = RepositoryFlags::default();
            let refused = Configuration::of(&flags, &environment, Some(&fqrn)).unwrap_err();
            let place = format!("{NAME}:{line}: is not TOML");
            assert!(refused.message.contains(&place), "{text:?}: {refused}");
            // As one of several that are named.
            let file = environment.configuration.join(NAME);
            let flags = RepositoryFlags { config: Some(file.into()), ..flags };
            assert!(Configuration::of(&flags, &environment, Some(&fqrn)).is_err(), "{text:?}");
        }
    }

    #[test]
    fn it_names_the_configuration_repository_in_time() {
        let text = "config_repository = \"other.example.org\"\nmount_dir = \"/nowhere\"\n\
                    domain.\"example.org\".config_repository = \"config.example.org\"\n";
        let found = load(&[(NAME, text)], "sw.example.org");
        assert_eq!(found.missing_repository.unwrap().name, "config.example.org");
        assert!(found.remarks.is_empty(), "{:?}", found.remarks);
    }

    #[test]
    fn a_user_has_one_of_their_own_with_a_cache() {
        let (scratch, mut environment) = tree(&[
            ("default.local", "CVMFS_CACHE_BASE=/machine\nCVMFS_QUOTA_LIMIT=5\n"),
            ("home/.config/cvmfs-fuse/config.toml", "cache_base = \"/mine\"\ntimeout = 8\n"),
        ]);
        environment.home = Some(scratch.path().join("home"));
        let cache = |environment: &Environment| {
            let fqrn = "a.b.c".parse().unwrap();
            let flags = RepositoryFlags::default();
            let found = Configuration::of(&flags, environment, Some(&fqrn)).unwrap();
            let flags = found.complete(&flags, environment).cache;
            (flags.cache_dir, flags.quota.is_some())
        };
        assert_eq!(cache(&environment), (Some("/machine/cvmfs-fuse".into()), true));
        environment.is_root = false;
        assert_eq!(cache(&environment), (Some("/mine/cvmfs-fuse".into()), false));
    }

    #[test]
    fn lists_are_joined_as_each_parameter_is_written() {
        for (name, expected) in [
            ("CVMFS_SERVER_URL", Some([';'; 2])),
            ("CVMFS_HTTP_PROXY", Some([';', '|'])),
            ("CVMFS_PUBLIC_KEY", Some([':'; 2])),
            ("CVMFS_REPOSITORIES", Some([','; 2])),
            ("CVMFS_XATTR_PRIVILEGED_GIDS", Some([','; 2])),
            ("CVMFS_INFLUX_EXTRA_TAGS", Some([','; 2])),
            ("CVMFS_DNS_SERVER", None),
            ("CVMFS_TIMEOUT", None),
        ] {
            assert_eq!(separators(table::find(name).unwrap().form), expected, "{name}");
        }
    }

    #[test]
    fn each_parameter_has_a_key_of_its_own() {
        let keys: std::collections::BTreeSet<_> =
            table::all().map(|known| key_of(known.name)).collect();
        assert_eq!(keys.len(), table::all().count());
        assert!(["domain", "repository", "variables"].iter().all(|word| !keys.contains(*word)));
    }
}
