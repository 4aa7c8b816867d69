//! Servers and master keys of the well-known domains, so that a name is all a user must give.
//!
//! Source: facts/known-repositories.md. The keys are the files that sites put into
//! `/etc/cvmfs/keys`; a test compares their fingerprints with that page.

/// One master public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownKey {
    /// What its owners call it.
    pub name: &'static str,
    /// The key: RSA-2048, SubjectPublicKeyInfo in PEM form.
    pub pem: &'static str,
}

/// What is known about all repositories whose names end the same.
#[derive(Debug)]
pub struct KnownDomain {
    /// The part of the repository name after the first dot.
    pub domain: &'static str,
    /// Any of these keys may sign a whitelist.
    pub keys: &'static [KnownKey],
    /// Stratum-1 servers, for sites with a caching proxy.
    pub servers: &'static [&'static str],
    /// The same behind a content delivery network, for machines without a proxy; may be empty.
    pub cdn_servers: &'static [&'static str],
}

impl KnownDomain {
    /// Finds a domain by its exact name.
    pub fn find(domain: &str) -> Option<&'static Self> {
        DOMAINS.iter().find(|known| known.domain == domain)
    }

    /// Returns the server templates to ask.
    ///
    /// Without a proxy in between the Stratum-1 servers would carry every client of the world
    /// themselves, so their owners want such clients to use the delivery network.
    pub fn servers(&self, behind_proxy: bool) -> &'static [&'static str] {
        if behind_proxy || self.cdn_servers.is_empty() { self.servers } else { self.cdn_servers }
    }
}

/// All of them, in the order of the help text.
pub const DOMAINS: &[KnownDomain] = &[
    KnownDomain {
        domain: "cern.ch",
        keys: &[
            KnownKey { name: "cern-it1.cern.ch", pem: include_str!("keys/cern-it1.cern.ch.pub") },
            KnownKey { name: "cern-it4.cern.ch", pem: include_str!("keys/cern-it4.cern.ch.pub") },
            KnownKey { name: "cern-it5.cern.ch", pem: include_str!("keys/cern-it5.cern.ch.pub") },
        ],
        servers: &[
            "http://cvmfs-stratum-one.cern.ch/cvmfs/@fqrn@",
            "http://cernvmfs.gridpp.rl.ac.uk/cvmfs/@fqrn@",
            "http://cvmfs-s1bnl.opensciencegrid.org/cvmfs/@fqrn@",
            "http://cvmfs-s1fnal.opensciencegrid.org/cvmfs/@fqrn@",
        ],
        cdn_servers: &[
            "http://s1cern-cvmfs.openhtc.io/cvmfs/@fqrn@",
            "http://s1ral-cvmfs.openhtc.io/cvmfs/@fqrn@",
            "http://s1bnl-cvmfs.openhtc.io/cvmfs/@fqrn@",
            "http://s1fnal-cvmfs.openhtc.io/cvmfs/@fqrn@",
        ],
    },
    KnownDomain {
        domain: "egi.eu",
        keys: &[KnownKey { name: "egi.eu", pem: include_str!("keys/egi.eu.pub") }],
        servers: &[
            "http://cvmfs-egi.gridpp.rl.ac.uk:8000/cvmfs/@fqrn@",
            "http://klei.nikhef.nl:8000/cvmfs/@fqrn@",
            "http://cvmfsrepo.lcg.triumf.ca:8000/cvmfs/@fqrn@",
            "http://cvmfs-stratum-one.ihep.ac.cn:8000/cvmfs/@fqrn@",
        ],
        cdn_servers: &[
            "http://s1ral-cvmfs.openhtc.io/cvmfs/@fqrn@",
            "http://s1nikhef-cvmfs.openhtc.io/cvmfs/@fqrn@",
            "http://s1triumf-cvmfs.openhtc.io:8080/cvmfs/@fqrn@",
            "http://s1ihep-cvmfs.openhtc.io/cvmfs/@fqrn@",
        ],
    },
    KnownDomain {
        domain: "opensciencegrid.org",
        keys: &[KnownKey {
            name: "opensciencegrid.org",
            pem: include_str!("keys/opensciencegrid.org.pub"),
        }],
        servers: &[
            "http://cvmfs-egi.gridpp.rl.ac.uk:8000/cvmfs/@fqrn@",
            "http://klei.nikhef.nl:8000/cvmfs/@fqrn@",
            "http://cvmfs-s1bnl.opensciencegrid.org:8000/cvmfs/@fqrn@",
            "http://cvmfs-s1fnal.opensciencegrid.org:8000/cvmfs/@fqrn@",
            "http://cvmfs-stratum-one.ihep.ac.cn:8000/cvmfs/@fqrn@",
        ],
        cdn_servers: &[
            "http://s1ral-cvmfs.openhtc.io/cvmfs/@fqrn@",
            "http://s1nikhef-cvmfs.openhtc.io/cvmfs/@fqrn@",
            "http://s1bnl-cvmfs.openhtc.io/cvmfs/@fqrn@",
            "http://s1fnal-cvmfs.openhtc.io/cvmfs/@fqrn@",
            "http://s1ihep-cvmfs.openhtc.io/cvmfs/@fqrn@",
        ],
    },
    KnownDomain {
        domain: "eessi.io",
        keys: &[KnownKey { name: "eessi.io", pem: include_str!("keys/eessi.io.pub") }],
        servers: &[
            "http://aws-eu-central-s1.eessi.science/cvmfs/@fqrn@",
            "http://azure-us-east-s1.eessi.science/cvmfs/@fqrn@",
        ],
        cdn_servers: &[],
    },
];

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use sha2::Digest as _;

    use super::*;

    /// SHA-256 of the DER bytes, from facts/known-repositories.md.
    const FINGERPRINTS: &[(&str, &str, &str)] = &[
        (
            "cern.ch",
            "cern-it1.cern.ch",
            "56d801f7d6b756433a2dd8493001d4abcdba810bf59369464fd7ab9325add74b",
        ),
        (
            "cern.ch",
            "cern-it4.cern.ch",
            "79dd263cc8ca21d33b03a4537d1d192ec8ec601e29f07e092b9d6938158adac7",
        ),
        (
            "cern.ch",
            "cern-it5.cern.ch",
            "ea1b11163b2e9ac3e20c57dbc71ffb15466f0ce844da62257c50f4c2ecafec6e",
        ),
        ("egi.eu", "egi.eu", "d0cde0e3b1ff6454ca728af625d7103d457b023bf9d57d6ddc66078582a4d011"),
        (
            "opensciencegrid.org",
            "opensciencegrid.org",
            "115fd1622881b4fd604bfe51a699e58fe31c51d6cf178dd4b11177ed17b9b6be",
        ),
        (
            "eessi.io",
            "eessi.io",
            "7b3afdd160203a6fb1eec490c8d389b26f65358d7644b2c97c89873dac9e1cc7",
        ),
    ];

    fn fingerprint(pem: &str) -> String {
        let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = base64::engine::general_purpose::STANDARD.decode(base64).unwrap();
        sha2::Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn keys_have_the_published_fingerprints() {
        let ours: Vec<_> = DOMAINS
            .iter()
            .flat_map(|d| d.keys.iter().map(|k| (d.domain, k.name, fingerprint(k.pem))))
            .collect();
        let published: Vec<_> =
            FINGERPRINTS.iter().map(|&(d, k, f)| (d, k, f.to_owned())).collect();
        assert_eq!(ours, published);
    }

    #[test]
    fn servers_are_templates_of_the_domain() {
        for domain in DOMAINS {
            for server in domain.servers.iter().chain(domain.cdn_servers) {
                assert!(server.starts_with("http://") && server.ends_with("/cvmfs/@fqrn@"));
            }
            assert!(!domain.servers(true).is_empty() && !domain.servers(false).is_empty());
        }
        let cern = KnownDomain::find("cern.ch").unwrap();
        assert_eq!(cern.servers(true)[0], "http://cvmfs-stratum-one.cern.ch/cvmfs/@fqrn@");
        assert_eq!(cern.servers(false)[0], "http://s1cern-cvmfs.openhtc.io/cvmfs/@fqrn@");
        assert_eq!(KnownDomain::find("eessi.io").unwrap().servers(false).len(), 2);
        assert!(KnownDomain::find("CERN.ch").is_none() && KnownDomain::find("ch").is_none());
    }
}
