//! The PAC functions that calculate with addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Reads four decimal numbers joined by dots.
///
/// Unlike the standard library this accepts leading zeros, since networks in scripts are sometimes
/// aligned as `010.000.000.000`; they are read as decimal, as browsers do.
pub(super) fn dotted(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0_u8; 4];
    let mut parts = text.trim().split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *octet = part.parse().ok()?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

/// `convert_addr`: an IPv4 address as a number.
///
/// The number has a sign because scripts compare it with results of the operators `&` and `|`,
/// which have one in JavaScript. What is no address is 0, as an undefined value is to these
/// operators.
pub(super) fn number(text: &str) -> i32 {
    dotted(text).map_or(0, |address| address.to_bits().cast_signed())
}

/// `isInNet`: whether an address is in the network given by an address and a mask.
pub(super) fn in_net(address: Ipv4Addr, network: &str, mask: &str) -> bool {
    match (dotted(network), dotted(mask)) {
        (Some(network), Some(mask)) => {
            address.to_bits() & mask.to_bits() == network.to_bits() & mask.to_bits()
        }
        _ => false,
    }
}

/// `isInNetEx`: whether an address is in any of the prefixes, which are separated by `;`.
pub(super) fn in_prefixes(address: IpAddr, prefixes: &str) -> bool {
    prefixes.split(';').any(|prefix| in_prefix(address, prefix.trim()) == Some(true))
}

/// Whether an address is in a prefix such as `10.0.0.0/8`; `None` if that is none.
fn in_prefix(address: IpAddr, prefix: &str) -> Option<bool> {
    let (network, length) = prefix.split_once('/')?;
    let length: u32 = length.trim().parse().ok()?;
    match (address, network.trim().parse().ok()?) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let drop = Ipv4Addr::BITS.checked_sub(length)?;
            // A shift by the full width is an overflow, and every address is in such a prefix.
            let differing = (address.to_bits() ^ network.to_bits()).checked_shr(drop).unwrap_or(0);
            Some(differing == 0)
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let drop = Ipv6Addr::BITS.checked_sub(length)?;
            let differing = (address.to_bits() ^ network.to_bits()).checked_shr(drop).unwrap_or(0);
            Some(differing == 0)
        }
        _ => Some(false),
    }
}

/// `sortIpAddressList`: IPv6 before IPv4, each ascending; `None` if any part is no address.
pub(super) fn sorted(list: &str) -> Option<String> {
    let mut addresses = list
        .split(';')
        .map(|part| part.trim().parse::<IpAddr>().ok())
        .collect::<Option<Vec<_>>>()?;
    addresses.sort_by_key(|address| (address.is_ipv4(), *address));
    Some(joined(&addresses))
}

/// Addresses as the Microsoft functions write them.
pub(super) fn joined(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(";")
}
