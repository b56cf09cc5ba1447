//! Which addresses the server never connects to because a caller's text named them.
//!
//! Entry point: [`refused`]. Asked for literals, and again for every address that a name resolves to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why this machine itself is refused.
pub(crate) const LOOPBACK_WHY: &str =
    "it is this machine; allow it with the server's option allow_loopback";
/// Why metadata services are refused.
pub(crate) const METADATA_WHY: &str =
    "it is a link-local or metadata address, which no such service has";

/// The address that stands in place of a host name, with or without brackets.
pub(crate) fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Whether a host of a URL is this machine, by its name or address alone.
pub(crate) fn is_loopback(host: &str) -> bool {
    match literal(host) {
        Some(ip) => plain(ip).is_loopback(),
        None => {
            let host = host.trim_end_matches('.').to_ascii_lowercase();
            host == "localhost" || host.ends_with(".localhost")
        }
    }
}

/// IPv4 in IPv6 clothes is IPv4.
fn plain(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

/// Why an address must not be connected to.
pub(crate) fn refused(ip: IpAddr, allow_loopback: bool) -> Option<&'static str> {
    // Metadata services outside the link-local ranges: EC2 over IPv6, Alibaba Cloud, Oracle Cloud.
    const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    const METADATA_V4: [Ipv4Addr; 2] =
        [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];
    let (metadata, odd) = match plain(ip) {
        IpAddr::V4(v4) => (
            v4.is_link_local() || METADATA_V4.contains(&v4),
            v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast(),
        ),
        IpAddr::V6(v6) => (
            v6.is_unicast_link_local() || v6 == METADATA_V6,
            v6.is_unspecified() || v6.is_multicast(),
        ),
    };
    if metadata {
        Some(METADATA_WHY)
    } else if odd {
        Some("it is not the address of one machine")
    } else if plain(ip).is_loopback() && !allow_loopback {
        Some(LOOPBACK_WHY)
    } else {
        None
    }
}
