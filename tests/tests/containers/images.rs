//! What `packaging/` has for engines, built and run as it is.

use std::fs;

use tests::engines::{Checks, Docker, alone};

use crate::LIMIT;

/// What people are told about the size of the image.
const MAX_IMAGE: u64 = 20 << 20;

/// Compose files that put the repository of the test in the place of the one that is named.
const OVERRIDE: &str = r#"
services:
  cvmfs:
    command: [automount, --foreground, --server, "SERVER/@fqrn@", --public-key, /key.pub]
    volumes: ["SCRATCH/cvmfs:/cvmfs:rshared", "KEY:/key.pub:ro"]
  analysis:
    command: [sh, -c, "until [ -e $$R/hello.txt ]; do sleep 0.1; done; cat $$R/hello.txt"]
    volumes: ["SCRATCH/cvmfs:/cvmfs:rslave"]
"#;

#[test]
fn docker() {
    alone("images::docker", LIMIT, |scratch| {
        let docker = Docker::start(scratch);
        let (sh, used) = (&docker.shell, docker.stage.used());
        Checks::run(|checks| {
            checks.check("the image of the client is built, and small", || {
                sh.ok("docker build -q -f $PROJECT/packaging/Containerfile -t cvmfs-fuse $PROJECT");
                let size = sh.ok("docker image inspect -f '{{.Size}}' cvmfs-fuse");
                assert!(size.parse::<u64>().unwrap() < MAX_IMAGE, "{size} bytes");
                let said = sh.ok("docker run --rm cvmfs-fuse --version");
                assert!(said.starts_with("cvmfs-fuse "), "{said}");
            });
            checks.check("there is nothing in it but the client", || {
                let listing = "docker create --name empty cvmfs-fuse >/dev/null && \
                               docker export empty | tar -t | grep -v '/$' | sort && \
                               docker rm empty >/dev/null";
                let files = sh.ok(listing);
                let of_the_engine = |line: &&str| {
                    ["dev/", "etc/", ".dockerenv"].iter().any(|mark| line.starts_with(mark))
                };
                let ours: Vec<_> = files.lines().filter(|line| !of_the_engine(line)).collect();
                assert_eq!(ours, ["usr/bin/cvmfs-fuse"]);
            });
            checks.check("it reads a repository without any privilege", || {
                let said = sh
                    .ok("docker run --rm -v $KEY:/key.pub:ro cvmfs-fuse cat $F:/hello.txt $FLAGS");
                assert_eq!(said, "hello cvmfs");
            });
            checks.check("the example of an image for analyses is built, and mounts for itself", || {
                // There is no registry. The name is that of our image, and nothing is installed.
                sh.ok(r##"
mkdir $W/base
cat >$W/base/Dockerfile <<'END'
FROM img
RUN rm /usr/bin/cvmfs-fuse && echo '#!/bin/sh' >/bin/apt-get && chmod 755 /bin/apt-get
END
docker build -q -t debian:12-slim $W/base
docker build -q -f $PROJECT/packaging/Containerfile.analysis -t analysis $PROJECT
"##);
                let said = sh.ok("docker run --rm --cap-add SYS_ADMIN --device /dev/fuse analysis $RUN -- sh -c \"$USE\"");
                assert_eq!(said, used);
            });
            checks.check("the services of compose.yaml", || {
                let text = OVERRIDE
                    .replace("SERVER", &docker.stage.server.url())
                    .replace("SCRATCH", &docker.scratch.display().to_string())
                    .replace("KEY", &docker.stage.genuine.public_key().display().to_string());
                fs::write(docker.scratch.join("override.yaml"), text).unwrap();
                let said = sh.ok(r#"
command -v docker-compose >/dev/null || { echo "apt-get install docker-compose" >&2; exit 1; }
mkdir -p $W/cvmfs
compose() { docker-compose -p test -f $PROJECT/packaging/compose.yaml -f $W/override.yaml "$@"; }
compose run --rm analysis
compose down -v >&2
"#);
                assert!(said.ends_with("hello cvmfs"), "{said}");
            });
        });
    });
}
