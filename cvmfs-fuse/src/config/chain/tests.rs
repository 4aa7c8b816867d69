#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::collections::BTreeMap;
use std::process::Command;

use proptest::prelude::*;

use super::check::examine;
use super::*;
use crate::config::parameters::table::{self, Need};

/// A tree of files, and the directory that holds it.
pub(super) fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Environment) {
    let scratch = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = scratch.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let environment = Environment {
        is_root: true,
        home: None,
        cache_home: None,
        config_home: None,
        log: None,
        http_proxy: None,
        configuration: scratch.path().to_owned(),
        reads_config_repository: true,
    };
    (scratch, environment)
}

pub(super) fn load(files: &[(&str, &str)], fqrn: &str) -> Configuration {
    let (_scratch, environment) = tree(files);
    Configuration::load(&environment, Some(&fqrn.parse().unwrap()))
}

#[test]
fn later_files_win_and_each_value_has_its_origin() {
    let files = [
        ("default.conf", "A=1\nB=1\nC=1\nD=1\nE=1\nF=1\nG=1\nH=1\n"),
        ("default.d/20-b.conf", "B=20\nC=20\nD=20\nE=20\nF=20\nG=20\nH=20\n"),
        ("default.d/10-a.conf", "B=10\n"),
        ("default.d/ignored.txt", "A=no\n"),
        ("default.local", "C=3\nD=3\nE=3\nF=3\nG=3\nH=3\n"),
        ("domain.d/cern.ch.conf", "D=4\nE=4\nF=4\nG=4\nH=4\n"),
        ("domain.d/cern.ch.local", "E=5\nF=5\nG=5\nH=5\n"),
        ("config.d/cms.cern.ch.conf", "# first\nF=6\nG=6\n"),
        ("config.d/cms.cern.ch.local", "G=7\nURL=http://s/cvmfs/@fqrn@/@org@\n"),
        ("config.d/atlas.cern.ch.conf", "A=other\n"),
    ];
    let found = load(&files, "cms.cern.ch");
    let pairs =
        [("A", "1"), ("B", "20"), ("C", "3"), ("D", "4"), ("E", "5"), ("F", "6"), ("G", "7")];
    for (name, expected) in pairs {
        assert_eq!(found.text(name), Some(expected), "{name}");
    }
    assert_eq!(found.text("URL"), Some("http://s/cvmfs/cms.cern.ch/cms"));
    let origin = found.get("F").unwrap().origin.clone().unwrap();
    assert!(origin.file.ends_with("config.d/cms.cern.ch.conf") && origin.line == 2, "{origin}");
    assert_eq!(found.remarks, []);
}

#[test]
fn a_configuration_repository_says_harmless_things_only() {
    let mounts = tempfile::tempdir().unwrap();
    let etc = mounts.path().join("config.test.org/etc/cvmfs");
    std::fs::create_dir_all(etc.join("config.d")).unwrap();
    std::fs::write(
        etc.join("default.conf"),
        "CVMFS_SERVER_URL=http://a\nCVMFS_USER=root\nunset CVMFS_QUOTA_LIMIT\nreadonly CVMFS_CACHE_BASE\nCMS_LOCAL_SITE=here\n. ../../../outside\n\
         . ./common.conf\nCVMFS_CONFIG_REPOSITORY=other\n",
    )
    .unwrap();
    std::fs::write(etc.join("common.conf"), "CVMFS_USE_CDN=yes\n").unwrap();
    std::fs::write(mounts.path().join("outside"), "CVMFS_TIMEOUT=1\n").unwrap();
    std::fs::write(etc.join("config.d/x.test.org.conf"), "CVMFS_SERVER_URL=http://b\n").unwrap();
    let own = format!(
        "CVMFS_MOUNT_DIR={}\nCVMFS_CONFIG_REPOSITORY=config.test.org\nCVMFS_QUOTA_LIMIT=5\n",
        mounts.path().display()
    );
    let files = [
        ("default.conf", own.as_str()),
        (
            "default.local",
            "CVMFS_TIMEOUT=7\nCVMFS_CONFIG_REPOSITORY=changed\nCVMFS_CACHE_BASE=/own\n",
        ),
    ];
    let found = load(&files, "x.test.org");
    assert_eq!(found.text("CVMFS_SERVER_URL"), Some("http://b"));
    assert_eq!(found.text("CMS_LOCAL_SITE"), Some("here"));
    assert_eq!(found.text("CVMFS_USE_CDN"), Some("yes"));
    assert_eq!(found.text("CVMFS_USER"), None);
    assert_eq!(found.text("CVMFS_QUOTA_LIMIT"), Some("5"));
    assert_eq!(found.text("CVMFS_CACHE_BASE"), Some("/own"));
    assert_eq!(found.text("CVMFS_TIMEOUT"), Some("7"));
    assert_eq!(found.text("CVMFS_CONFIG_REPOSITORY"), Some("config.test.org"));
    let remarks: Vec<_> = found.remarks.iter().map(ToString::to_string).collect();
    for part in ["CVMFS_USER is not for", "is outside of", "CVMFS_CONFIG_REPOSITORY cannot be"] {
        assert!(remarks.iter().any(|remark| remark.contains(part)), "{part}: {remarks:?}");
    }
    // The repository itself does without itself.
    assert_eq!(load(&files, "config.test.org").text("CMS_LOCAL_SITE"), None);
    let elsewhere =
        [("default.conf", "CVMFS_MOUNT_DIR=/nonexistent\nCVMFS_CONFIG_REPOSITORY=c.d.e\n")];
    let missing = load(&elsewhere, "x.test.org").missing_repository.unwrap();
    assert_eq!(missing.name, "c.d.e");
    assert!(missing.why.contains("server"), "{missing:?}");
}

#[test]
fn what_only_a_shell_can_do_is_passed_over_and_told() {
    let text = "A=`date`\nB=$(hostname)\nC=1\nif ls / | grep -q x; then\n  D=1\nelse\n  D=2\nfi\n\
                f() {\n  E=1\n}\nfor i in a b; do F=$i; done\nG=2\nexec rm -rf /\nH=3\n";
    let found = load(&[("default.conf", text)], "a.b.c");
    for (name, expected) in [
        ("A", None),
        ("B", None),
        ("C", Some("1")),
        ("D", Some("2")),
        ("E", None),
        ("F", None),
        ("G", Some("2")),
        ("H", Some("3")),
    ] {
        assert_eq!(found.text(name), expected, "{name}");
    }
    let lines: Vec<_> = found.remarks.iter().map(|remark| remark.origin.line).collect();
    assert_eq!(lines, [1, 2, 4, 9, 12, 14]);
}

#[test]
fn hostile_files_end() {
    let deep = "if true; then ".repeat(500);
    let braces = "A=".to_owned() + &"${A:-".repeat(500);
    let double = (0..40).fold("A=xxxxxxxx\n".to_owned(), |text, _| text + "A=$A$A\n");
    for text in [
        deep.as_str(),
        &braces,
        &double,
        ". ./default.conf\n. ./default.conf\n",
        "A='never closed\nB=2\n",
        "case x in",
        "if",
        ")",
        "A=1 |",
        "f(",
        "&&",
        "{",
        "[ a",
        "\\",
        "$",
        "${",
        "A=${B:-",
        "A=\"$(",
    ] {
        let found = load(&[("default.conf", text)], "a.b.c");
        assert!(found.text("A").is_none_or(|value| value.len() <= 1 << 16));
        assert!(!found.remarks.is_empty() || text == "$", "{text:?}");
    }
}

#[test]
fn mistakes_are_explained() {
    let text = "CVMFS_HTTP_PROXY=squid:3128\nCVMFS_QUOTA_LIMIT=many\nCVMFS_PUBLIC_KEY=/none.pub\n\
                CVMFS_TIMOUT=5\nCVMFS_TIMEOUT=soon\nCVMFS_SHARED_CACHE=yes\nSITE_OWN=1\n\
                CVMFS_CACHE_BASE=/x\n";
    let found = examine(&load(&[("default.local", text)], "a.b.c"));
    let shown: Vec<_> = found
        .iter()
        .map(|one| format!("{}: {}; {}", one.origin.as_ref().unwrap().line, one.text, one.advice))
        .collect();
    for (line, part) in [
        (1, "write http://squid:3128"),
        (2, "-1 for none"),
        (3, "/none.pub cannot be read"),
        (4, "CVMFS_TIMEOUT is meant?"),
        (5, "SECONDS"),
    ] {
        let is_it = |one: &String| one.starts_with(&format!("{line}: ")) && one.contains(part);
        assert!(shown.iter().any(is_it), "{part}: {shown:?}");
    }
    assert_eq!(shown.len(), 5, "{shown:?}");
}

/// The page is made from the code: run this with `CVMFS_FUSE_UPDATE_DOCS=1`.
#[test]
fn the_page_of_parameters_is_that_of_the_code() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/parameters.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (before, _) = text.split_once("### Network\n").unwrap();
    let expected = before.to_owned() + &table::page();
    if std::env::var_os("CVMFS_FUSE_UPDATE_DOCS").is_some() {
        std::fs::write(&page, &expected).unwrap();
    } else {
        assert_eq!(text, expected, "run it with CVMFS_FUSE_UPDATE_DOCS=1");
    }
    // What spec/config.md, section 3, says who needs it.
    let must = "REPOSITORIES STRICT_MOUNT DEFAULT_DOMAIN CONFIG_REPOSITORY CONFIG_REPO_DEFAULT_ENV \
                MOUNT_DIR USER RELOAD_SOCKETS CHECK_PERMISSIONS CLAIM_OWNERSHIP NFILES KEYS_DIR \
                PUBLIC_KEY SERVER_URL HTTP_PROXY TIMEOUT TIMEOUT_DIRECT MAX_RETRIES USE_GEOAPI \
                CACHE_BASE QUOTA_LIMIT SHARED_CACHE";
    let common = "CONFIG_REPO_REQUIRED CLIENT_PROFILE USE_CDN SUID TALK_SOCKET TALK_OWNER BLACKLIST \
                  ROOT_HASH REPOSITORY_TAG REPOSITORY_DATE AUTO_UPDATE MAX_TTL FALLBACK_PROXY \
                  PAC_URLS LOW_SPEED_LIMIT BACKOFF_INIT BACKOFF_MAX PROXY_RESET_AFTER \
                  HOST_RESET_AFTER PROXY_SHARD MAX_IPADDR_PER_PROXY IPFAMILY_PREFER DNS_TIMEOUT \
                  DNS_RETRIES DNS_ROAMING FOLLOW_REDIRECTS USE_SSL_SYSTEM_CA EXTERNAL_URL \
                  EXTERNAL_HTTP_PROXY CACHE_DIR ALIEN_CACHE WORKSPACE MEMCACHE_SIZE KCACHE_TIMEOUT \
                  NFS_SOURCE SYSLOG_LEVEL SYSLOG_FACILITY USYSLOG DEBUGLOG HIDE_MAGIC_XATTRS \
                  MAGIC_XATTRS_VISIBILITY";
    for (need, names) in [(Need::Must, must), (Need::Common, common)] {
        let mut expected: Vec<_> =
            names.split_whitespace().map(|name| format!("CVMFS_{name}")).collect();
        let mut found: Vec<_> = table::all()
            .filter(|known| known.need == need)
            .map(|known| known.name.to_owned())
            .collect();
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
    }
}

/// What `sh` makes of the files that we read.
fn by_shell(files: &[PathBuf], fqrn: &str, names: &[String]) -> BTreeMap<String, String> {
    let mut script = format!("CVMFS_FQRN={fqrn}\n");
    for file in files {
        script += &format!("cd '{}'\n. '{}'\n", file.parent().unwrap().display(), file.display());
    }
    for name in names {
        script += &format!("printf '%s=%s\\0' {name} \"${name}\"\n");
    }
    let output = Command::new("sh").args(["-c", &script]).env_clear().output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn assert_like_shell(files: &[(&str, &str)], fqrn: &str) {
    let (_scratch, environment) = tree(files);
    let found = Configuration::load(&environment, Some(&fqrn.parse().unwrap()));
    let names: Vec<_> = found.values.keys().cloned().collect();
    // What is sourced stands in the list, too, and is not read a second time.
    let chain: Vec<_> =
        found.files.iter().filter(|file| !file.ends_with("common.conf")).cloned().collect();
    let expected = by_shell(&chain, fqrn, &names);
    let fqrn: Fqrn = fqrn.parse().unwrap();
    for (name, value) in &found.values {
        assert_eq!(&value.text, &fqrn.expand(&expected[name]), "{name} in {files:?}");
    }
    assert_eq!(found.remarks, [], "{files:?}");
}

/// What sites have, written after the grammar that their files use.
#[test]
fn trees_of_sites_mean_what_a_shell_makes_of_them() {
    let default = "\
# Packaged defaults
CVMFS_CLIENT_PROFILE=
if [ \"$CVMFS_BASE_ENV\" = \"\" ]; then
  readonly CVMFS_USER=cvmfs
  readonly CVMFS_MOUNT_DIR=/cvmfs
  readonly CVMFS_RELOAD_SOCKETS=/var/run/cvmfs
  readonly CVMFS_BASE_ENV=1
fi
CVMFS_QUOTA_LIMIT=4000
CVMFS_TIMEOUT=5 # seconds
CVMFS_SHARED_CACHE=yes
CVMFS_KEYS_DIR=/etc/cvmfs/keys
CVMFS_LOW_SPEED_LIMIT=1024
";
    let cern = "\
if [ \"$CVMFS_CONFIG_REPO_DEFAULT_ENV\" = \"\" ]; then
  if [ \"$CVMFS_USE_CDN\" = \"yes\" ]; then
    CVMFS_SERVER_URL=\"http://s1cern-cvmfs.openhtc.io/cvmfs/@fqrn@;http://s1ral-cvmfs.openhtc.io/cvmfs/@fqrn@\"
  else
    CVMFS_SERVER_URL=\"http://cvmfs-stratum-one.cern.ch/cvmfs/@fqrn@;http://cernvmfs.gridpp.rl.ac.uk/cvmfs/@fqrn@\"
  fi
  CVMFS_KEYS_DIR=/etc/cvmfs/keys/cern.ch
  CVMFS_USE_GEOAPI=yes
fi
";
    let site = "\
CVMFS_HTTP_PROXY='http://ca-proxy.site.org:3128|http://ca-proxy1.site.org:3128;DIRECT'
export CMS_LOCAL_SITE=T2_XX_Site
CVMFS_QUOTA_LIMIT=${SITE_QUOTA:-25000}
[ -f /nonexistent/override ] && CVMFS_QUOTA_LIMIT=1
[ -z \"$CVMFS_FALLBACK_PROXY\" ] && CVMFS_FALLBACK_PROXY=\"http://backup:3128\"
: ${CVMFS_CACHE_BASE:=/scratch/cvmfs}
CVMFS_REPOSITORIES=cms.cern.ch,atlas.cern.ch,\\
sft.cern.ch
";
    assert_like_shell(
        &[("default.conf", default), ("domain.d/cern.ch.conf", cern), ("default.local", site)],
        "cms.cern.ch",
    );
    let cdn = [
        ("default.conf", default),
        (
            "default.d/50-cern-debian.conf",
            "CVMFS_CONFIG_REPOSITORY=\nCVMFS_DEFAULT_DOMAIN=cern.ch\n",
        ),
        ("default.local", "CVMFS_USE_CDN=yes\nCVMFS_CLIENT_PROFILE=single\n"),
        ("domain.d/cern.ch.conf", cern),
        ("config.d/atlas.cern.ch.local", "CVMFS_NFILES=131072; CVMFS_KCACHE_TIMEOUT=120\n"),
    ];
    assert_like_shell(&cdn, "atlas.cern.ch");
    let egi = "\
. ./common.conf
case \"$SITE_REGION\" in
  eu|EU) FIRST=klei.nikhef.nl:8000 ;;
  us*) FIRST=cvmfs-s1bnl.opensciencegrid.org:8000 ;;
  *) FIRST=cvmfs-egi.gridpp.rl.ac.uk:8000 ;;
esac
CVMFS_SERVER_URL=\"http://$FIRST/cvmfs/@org@.egi.eu\"
CVMFS_PUBLIC_KEY=\"${CVMFS_KEYS_DIR}/egi.eu.pub\"
if [ \"x$SITE_REGION\" != \"x\" ] || [ -n \"$FORCED\" ]; then IS_REGIONAL=yes; elif ! true; then
IS_REGIONAL=never; else IS_REGIONAL=no; fi
";
    for region in ["", "SITE_REGION=eu\n", "SITE_REGION=us-west\n", "SITE_REGION=asia\n"] {
        let common = format!("{region}CVMFS_KEYS_DIR=/etc/cvmfs/keys/egi.eu\n");
        let files = [
            ("default.conf", default),
            ("domain.d/egi.eu.conf", egi),
            ("domain.d/common.conf", common.as_str()),
        ];
        assert_like_shell(&files, "biomed.egi.eu");
    }
    let galaxy = "\
CVMFS_SERVER_URL=\"http://cvmfs1-mel0.gvl.org.au/cvmfs/@fqrn@;http://cvmfs1-ufr0.galaxyproject.eu/cvmfs/@fqrn@\"
CVMFS_PUBLIC_KEY=\"/etc/cvmfs/keys/galaxyproject.org/cvmfs-config.galaxyproject.org.pub:/x.pub\"
CVMFS_USE_GEOAPI=\"yes\"
eval CVMFS_TIMEOUT_DIRECT=\"20\"
A='single # no comment' B=\"double \\\"inner\\\" \\$A ${A}\" C=plain#too
UNSET=gone; unset UNSET
D=\"${MISSING-default words}\" E=${A:+given} F=\"${A+x}\"
";
    assert_like_shell(
        &[("default.conf", default), ("domain.d/galaxyproject.org.conf", galaxy)],
        "data.galaxyproject.org",
    );
}

/// The same for osg and eessi: servers after facts/known-repositories.md.
#[test]
fn trees_of_osg_and_eessi_mean_what_a_shell_makes_of_them() {
    let osg_default = "\
CVMFS_CONFIG_REPOSITORY=
CVMFS_DEFAULT_DOMAIN=opensciencegrid.org
if [ -z \"$CVMFS_CLIENT_PROFILE\" ] && [ -z \"$CVMFS_HTTP_PROXY\" ]; then
  CVMFS_CLIENT_PROFILE=\"single\"
fi
";
    let osg = "\
S1LIST=\"http://cvmfs-egi.gridpp.rl.ac.uk:8000\"
if [ \"x$CVMFS_USE_CDN\" = \"xyes\" ]; then
  S1LIST='http://s1ral-cvmfs.openhtc.io;http://s1bnl-cvmfs.openhtc.io:8080'
fi
: \"${OSG_FIRST:=http://cvmfs-s1fnal.opensciencegrid.org:8000}\"
CVMFS_SERVER_URL=\"${OSG_FIRST}/cvmfs/@fqrn@;${S1LIST}/cvmfs/@fqrn@\"
CVMFS_KEYS_DIR=\"/etc/cvmfs/keys/opensciencegrid.org\" CVMFS_USE_GEOAPI=yes
case \"$CVMFS_FQRN\" in
  *.osgstorage.org|stash*.opensciencegrid.org) CVMFS_EXTERNAL_URL=\"$OSG_EXTERNAL\" ;;
  oasis.*) OASIS_CERTIFICATES=\"${OSG_CERTIFICATES-/etc/grid-security/certificates}\" ;;
esac
";
    for (fqrn, local) in [
        ("oasis.opensciencegrid.org", ""),
        ("oasis.opensciencegrid.org", "CVMFS_USE_CDN=yes\nexport OSG_CERTIFICATES=\n"),
        ("stash.opensciencegrid.org", "OSG_EXTERNAL='http://a;http://b' # caches\n"),
        ("connect.opensciencegrid.org", "OSG_FIRST=http://near:8000\nCVMFS_HTTP_PROXY=x\n"),
    ] {
        let files = [
            ("default.d/60-osg.conf", osg_default),
            ("default.local", local),
            ("domain.d/opensciencegrid.org.conf", osg),
        ];
        assert_like_shell(&files, fqrn);
    }
    let eessi = "\
CVMFS_SERVER_URL=\"http://aws-eu-central-s1.eessi.science/cvmfs/@fqrn@;http://azure-us-east-s1.eessi.science/cvmfs/@fqrn@\"
CVMFS_KEYS_DIR=\"/etc/cvmfs/keys/eessi.io\"
CVMFS_USE_GEOAPI=yes
[ -n \"$EESSI_PRIVATE_S1\" ] && CVMFS_SERVER_URL=\"$EESSI_PRIVATE_S1/cvmfs/@fqrn@;$CVMFS_SERVER_URL\" || :
. ./common.conf
";
    let common = "\
readonly EESSI_CONFIGURED=1
if [ \"$CVMFS_HTTP_PROXY\" = \"\" ] || [ \"$CVMFS_CLIENT_PROFILE\" = single ]; then
  CVMFS_HTTP_PROXY=DIRECT
elif [ -f /nonexistent/proxies ]; then CVMFS_HTTP_PROXY=never
fi
";
    let local = "EESSI_HOST_INJECTIONS=/opt/eessi\nCVMFS_QUOTA_LIMIT=\"10000\"\n";
    for site in [
        "",
        "CVMFS_CLIENT_PROFILE=\"single\"\n",
        "CVMFS_HTTP_PROXY=\"http://squid:3128|http://squid2:3128\"\n",
        "EESSI_PRIVATE_S1=http://s1.site.org\nCVMFS_HTTP_PROXY='http://squid:3128;DIRECT'\n",
    ] {
        let files = [
            ("default.local", site),
            ("domain.d/eessi.io.conf", eessi),
            ("domain.d/common.conf", common),
            ("config.d/software.eessi.io.local", local),
        ];
        assert_like_shell(&files, "software.eessi.io");
    }
}

/// A word of a value: nothing that shells disagree about.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9:/.,;@_-]{1,6}".prop_map(|text| format!("'{text}'")),
        "[a-z0-9:/._-]{1,6}",
        "[a-z0-9 ;|#]{0,6}".prop_map(|text| format!("\"{text}\"")),
        "[A-D]".prop_map(|name| format!("\"${name}\"")),
        "[A-D]".prop_map(|name| format!("${{{name}}}")),
        ("[A-D]", "[-+=]", "[a-z]{0,3}", any::<bool>()).prop_map(|(name, kind, text, colon)| {
            let colon = if colon { ":" } else { "" };
            format!("\"${{{name}{colon}{kind}{text}}}\"")
        }),
        "[a-z]{1,2}".prop_map(|text| format!("\\${text}")),
    ]
}

fn condition() -> impl Strategy<Value = String> {
    prop_oneof![
        ("[A-D]", "(=|!=)", "[a-z]{0,2}")
            .prop_map(|(name, sign, text)| format!("[ \"x${name}\" {sign} \"x{text}\" ]")),
        ("(-n|-z)", "[A-D]").prop_map(|(sign, name)| format!("[ {sign} \"${name}\" ]")),
        "(-f|-d|-e)".prop_map(|sign| format!("[ {sign} / ]")),
        Just("! true".to_owned()),
        Just("false".to_owned()),
    ]
}

fn statement() -> impl Strategy<Value = String> {
    let assignment =
        ("(|export |readonly X|eval )", "[A-D]", proptest::collection::vec(word(), 0..3)).prop_map(
            |(prefix, name, words)| {
                // Splitting of unquoted values in arguments is not what this is about.
                let words: String =
                    words.into_iter().filter(|word| !word.starts_with("${")).collect();
                match prefix.as_str() {
                    "eval " => format!("eval {name}=e"),
                    "readonly X" => format!("{name}={words}"),
                    prefix => format!("{prefix}{name}={words}"),
                }
            },
        );
    assignment.prop_recursive(3, 24, 4, |inner| {
        let body = proptest::collection::vec(inner, 1..4).prop_map(|list| list.join("\n"));
        prop_oneof![
            (condition(), body.clone(), body.clone())
                .prop_map(|(test, yes, no)| format!("if {test}; then\n{yes}\nelse\n{no}\nfi")),
            (condition(), condition(), body.clone())
                .prop_map(|(a, b, then)| format!("if {a} && {b}\nthen {then}\nfi")),
            (condition(), "[A-D]=[a-z]{0,3}").prop_map(|(test, then)| format!("{test} && {then}")),
            (condition(), "[A-D]=[a-z]{0,3}").prop_map(|(test, then)| format!("{test} || {then}")),
            ("[A-D]", "[a-c]{0,2}", body.clone(), body).prop_map(|(name, pattern, one, other)| {
                format!("case \"${name}\" in\n{pattern}*) {one} ;;\n?|*) {other}\nesac")
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_file_means_what_a_shell_makes_of_it(
        first in proptest::collection::vec(statement(), 1..6),
        second in proptest::collection::vec(statement(), 0..4),
    ) {
        let (first, second) = (first.join("\n") + "\n", second.join("\n") + "\n");
        assert_like_shell(&[("default.conf", &first), ("config.d/a.b.c.local", &second)], "a.b.c");
    }

    #[test]
    fn no_file_panics(text in "[a-z=$(){}\\[\\]'\"`|&;<> \n\\\\#!:-]{0,200}") {
        load(&[("default.conf", &text)], "a.b.c");
    }
}
