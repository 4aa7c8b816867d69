//! Files of configuration, of repositories and of users.

use cvmfs_core::fqrn::Fqrn;

use crate::prefetch::profile::Profile;

/// Name of the repository for which all is read.
const FQRN: &str = "a.b.c";

/// Evaluates a file of a configuration repository.
pub fn configuration_repository(data: &[u8]) {
    crate::config::chain::fuzz_repository(data);
}

/// Evaluates a file of the machine, and reads it as our own (TOML).
pub fn configuration_file(data: &[u8]) {
    crate::config::chain::fuzz_file(data);
}

/// Reads lists of servers with their templates, and of proxies.
pub fn url_templates(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let fqrn: Fqrn = FQRN.parse().expect("a good name");
    if let Ok(servers) = crate::config::listed_servers("--server", &text, &fqrn) {
        assert!(servers.iter().all(|server| !server.ends_with('/') && !server.contains("@fqrn@")));
    }
}

/// Reads the imports of a compiled Python module.
pub fn pyc(data: &[u8]) {
    let _ = crate::prefetch::python::fuzz_imports(data);
}

/// Reads a bundle.
pub fn bundle(data: &[u8]) {
    crate::prefetch::bundle::fuzz(data);
}

/// Reads an access profile; what was read is written and read again as the same.
pub fn profile(data: &[u8]) {
    if let Ok(profile) = Profile::parse(data, FQRN) {
        let text = profile.to_text(FQRN);
        let again = Profile::parse(text.as_bytes(), FQRN).expect("it was just written");
        assert_eq!(again, profile);
    }
}
