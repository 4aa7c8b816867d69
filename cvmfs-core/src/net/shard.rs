//! Consistent hashing of objects over the proxies of a group (spec/network.md section 4.2).
//!
//! The ring must equal upstream's, so that mixed fleets share what their proxies cache.

use sha1::{Digest as _, Sha1};

use super::proxy::Proxy;

/// Points of each proxy on the ring.
const POINTS: usize = 16;
/// Constants of the generator (a 64-bit linear congruence).
const MULTIPLIER: u64 = 6_364_136_223_846_793_005;
const INCREMENT: u64 = 1_442_695_040_888_963_407;

/// Returns the proxy of the first point at or after `key`.
pub(super) fn choose<'a>(proxies: &[&'a Proxy], key: u32) -> Option<&'a Proxy> {
    let ring = proxies.iter().flat_map(|proxy| points(proxy).map(|point| (point, *proxy)));
    let mut ring: Vec<_> = ring.collect();
    // Stable, so that equal points keep the order of the configuration.
    ring.sort_by_key(|(point, _)| *point);
    ring.iter().find(|(point, _)| *point >= key).or(ring.first()).map(|(_, proxy)| *proxy)
}

fn points(proxy: &Proxy) -> impl Iterator<Item = u32> + use<> {
    let digest = Sha1::digest(proxy.display().as_bytes());
    let mut state = u64::from(u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]));
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT);
        scaled(state)
    })
    .take(POINTS)
}

/// The generator's state scaled to 32 bits, in double precision as upstream computes it.
#[expect(clippy::cast_precision_loss, reason = "the rounding is part of the definition")]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates at the ends"
)]
fn scaled(state: u64) -> u32 {
    (state as f64 * f64::from(u32::MAX) / 18_446_744_073_709_551_616.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_proxy_moves_only_its_own_objects() {
        let url = |n: u8| Proxy::Url(format!("http://10.0.0.{n}:3128"));
        let all = [url(1), url(2), url(3)];
        let three: Vec<_> = all.iter().collect();
        let two = [&all[0], &all[2]];
        let mut share = [0; 3];
        for key in (0..=u32::MAX).step_by(1 << 20) {
            let chosen = choose(&three, key).unwrap();
            share[all.iter().position(|proxy| proxy == chosen).unwrap()] += 1;
            if *chosen != all[1] {
                assert_eq!(choose(&two, key), Some(chosen));
            }
        }
        assert!(share.iter().all(|&n| n > 400), "{share:?} of 4096");
        assert_eq!(choose(&[], 7), None);
    }
}
