//! Which refusal is explained how.

use super::*;

fn fine() -> Surroundings {
    Surroundings {
        device: Ok(()),
        sys_admin: false,
        seccomp: false,
        max_user_namespaces: Some(1000),
        users_refused: None,
        apparmor: None,
        selinux: false,
        engine: None,
    }
}

#[test]
fn reasons() {
    let docker = || Some("docker-default".to_owned());
    let ubuntu = Some("kernel.apparmor_restrict_unprivileged_userns=1");
    let refused = Missing::NamespacesOfUsers("kernel.apparmor_restrict_unprivileged_userns=1");
    for (around, step, errno, expected) in [
        (
            Surroundings { device: Err(Errno::ENOENT), seccomp: true, ..fine() },
            Step::Namespace,
            Errno::EPERM,
            Missing::Device,
        ),
        (
            Surroundings { device: Err(Errno::EPERM), ..fine() },
            Step::Mount,
            Errno::EPERM,
            Missing::DeviceAccess(Errno::EPERM),
        ),
        (
            Surroundings { seccomp: true, apparmor: docker(), ..fine() },
            Step::Namespace,
            Errno::EPERM,
            Missing::Seccomp,
        ),
        (
            Surroundings { max_user_namespaces: Some(0), seccomp: true, ..fine() },
            Step::Namespace,
            Errno::EPERM,
            Missing::Namespaces,
        ),
        (fine(), Step::Namespace, Errno::ENOSPC, Missing::Namespaces),
        (Surroundings { users_refused: ubuntu, ..fine() }, Step::Identity, Errno::EPERM, refused),
        (Surroundings { users_refused: ubuntu, ..fine() }, Step::Mount, Errno::EPERM, refused),
        (
            Surroundings { sys_admin: true, seccomp: true, apparmor: docker(), ..fine() },
            Step::Mount,
            Errno::EACCES,
            Missing::AppArmor,
        ),
        (
            Surroundings { sys_admin: true, selinux: true, ..fine() },
            Step::Mount,
            Errno::EACCES,
            Missing::SeLinux,
        ),
        (fine(), Step::Namespace, Errno::EPERM, Missing::Unknown(Errno::EPERM)),
    ] {
        assert_eq!(around.missing(step, errno), expected, "{around:?} {step:?}");
    }
}

#[test]
fn words_for_each_engine() {
    let all = fine().explain(Missing::Device);
    for part in [
        "the device /dev/fuse is missing",
        "modprobe fuse",
        "docker run: --device /dev/fuse",
        "podman run: --device /dev/fuse",
        "apptainer exec: --bind /dev/fuse",
        "Kubernetes: resources.limits",
    ] {
        assert!(all.contains(part), "no {part} in {all}");
    }
    let one = Surroundings { engine: Some(Engine::Docker), ..fine() };
    assert_eq!(
        one.explain(Missing::Seccomp),
        "the capability CAP_SYS_ADMIN is missing, and a seccomp filter refuses user \
         namespaces; docker run: --cap-add SYS_ADMIN (or --security-opt seccomp=unconfined)"
    );
    assert_eq!(
        one.explain(Missing::AppArmor),
        "AppArmor forbids to mount; docker run: --security-opt apparmor=unconfined"
    );
    assert!(one.explain(Missing::DeviceAccess(Errno::EACCES)).contains("chmod 666"));
}

#[test]
fn files_of_the_kernel() {
    let status = "Name:\tx\nCapEff:\t00000000a80425fb\nSeccomp:\t2\nSeccomp_filters:\t1\n";
    assert_eq!(field(status, "Seccomp"), Some("2"));
    assert_eq!(field(status, "NoNewPrivs"), None);
    assert!(!effective(status, CAP_SYS_ADMIN));
    assert!(effective("CapEff:\t000001ffffffffff\n", CAP_SYS_ADMIN));
    assert!(!effective("CapEff: nonsense", CAP_SYS_ADMIN) && !effective("", CAP_SYS_ADMIN));
    assert_eq!(confining_profile("docker-default (enforce)\n").as_deref(), Some("docker-default"));
    for none in ["unconfined\n", "x (complain)\n", "", "(enforce)"] {
        assert_eq!(confining_profile(none), None);
    }
}

#[test]
fn marks_of_engines() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(Engine::detect(root.path()), None);
    for (mark, engine) in [
        (".singularity.d", Engine::Apptainer),
        (".dockerenv", Engine::Docker),
        ("run/.containerenv", Engine::Podman),
        ("var/run/secrets/kubernetes.io", Engine::Kubernetes),
    ] {
        std::fs::create_dir_all(root.path().join(mark)).unwrap();
        assert_eq!(Engine::detect(root.path()), Some(engine));
    }
}
