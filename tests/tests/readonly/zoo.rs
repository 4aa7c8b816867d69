//! small.test.repo, mounted: it has an entry of every kind.

use std::time::Duration;

use fixtures::genuine::Genuine;
use fixtures::server::TestServer;
use tests::{MountSpec, TestMount, client, deadline};

const LIMIT: Duration = Duration::from_secs(60);

/// The mounted zoo. Fields are dropped in this order: the mount before its server.
pub(crate) struct Zoo {
    pub(crate) mount: TestMount,
    pub(crate) server: TestServer,
    pub(crate) genuine: Genuine,
}

/// Mounts the zoo and runs `test` with it, within a hard limit.
pub(crate) fn in_zoo(test: impl FnOnce(&mut Zoo)) {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let mount = MountSpec::genuine(&client!(), &genuine, &server).start();
        test(&mut Zoo { mount, server, genuine });
    });
}
