//! Content that tells which revision it is from, so that a reader can check every byte without
//! knowing when it was published.

use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

/// Returns what `path` holds since revision `version`: a line with both, then noise. The length
/// depends on both, too.
pub fn content(path: &str, version: u64) -> Vec<u8> {
    let mut bytes = format!("{path} {version}\n").into_bytes();
    let seed = path.bytes().fold(version, |seed, byte| {
        seed.wrapping_mul(0x0100_0000_01b3).wrapping_add(u64::from(byte))
    });
    let mut random = StdRng::seed_from_u64(seed);
    let start = bytes.len();
    bytes.resize(start + random.random_range(500..40_000), 0);
    random.fill_bytes(&mut bytes[start..]);
    bytes
}

/// Returns the version of `bytes` if they are a whole [`content`] of `path`.
pub fn version_of(path: &str, bytes: &[u8]) -> Option<u64> {
    let line = bytes.split(|&byte| byte == b'\n').next()?;
    let (name, version) = std::str::from_utf8(line).ok()?.rsplit_once(' ')?;
    let version = version.parse().ok()?;
    (name == path && content(path, version) == bytes).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_content_has_a_version() {
        let mut bytes = content("/a", 7);
        assert_eq!(version_of("/a", &bytes), Some(7));
        assert_eq!(version_of("/b", &bytes), None);
        assert_eq!(version_of("/a", &bytes[..bytes.len() - 1]), None);
        *bytes.last_mut().unwrap() ^= 1;
        assert_eq!(version_of("/a", &bytes), None);
        assert_eq!(version_of("/a", b""), None);
    }
}
