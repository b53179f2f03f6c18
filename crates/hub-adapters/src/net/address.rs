//! What kind of place an address is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Kind of an address, from the registries of special-purpose addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressKind {
    /// The public internet.
    Public,
    /// This machine.
    Loopback,
    /// A network of somebody's own, carrier-grade NAT included.
    Private,
    /// The wire it hangs on; clouds serve machine credentials there.
    LinkLocal,
    /// Many.
    Multicast,
    /// None; systems take it for this machine.
    Unspecified,
    /// Documentation, tests, tunnels whose end can't be told, future use.
    Reserved,
}

impl AddressKind {
    pub(super) const fn describe(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Loopback => "this machine",
            Self::Private => "in a private network",
            Self::LinkLocal => "link-local",
            Self::Multicast => "multicast",
            Self::Unspecified => "unspecified",
            Self::Reserved => "in a reserved range",
        }
    }

    /// Whether [`NetPolicy::allow_private`](super::NetPolicy) allows it.
    #[must_use]
    pub const fn is_private(self) -> bool {
        matches!(self, Self::Loopback | Self::Private)
    }

    pub(super) const fn remedy(self) -> &'static str {
        if self.is_private() { "; allow private addresses (allowPrivate, --allow-private) if it is meant" } else { "" }
    }
}

/// The kind of an address. An IPv6 address that embeds an IPv4 one is of the kind of that.
#[must_use]
pub fn kind_of(address: IpAddr) -> AddressKind {
    match address {
        IpAddr::V4(v4) => kind_of_v4(v4),
        IpAddr::V6(v6) => kind_of_v6(v6),
    }
}

fn kind_of_v4(address: Ipv4Addr) -> AddressKind {
    match address.octets() {
        [0, 0, 0, 0] => AddressKind::Unspecified,
        [127, ..] => AddressKind::Loopback,
        [10, ..] | [192, 168, ..] | [172, 16..=31, ..] | [100, 64..=127, ..] => AddressKind::Private,
        // The second is Azure's, for its machines alone wherever they are.
        [169, 254, ..] | [168, 63, 129, 16] => AddressKind::LinkLocal,
        [224..=239, ..] => AddressKind::Multicast,
        // "This network", protocol assignments, documentation (three), 6to4 relays, benchmarks, future use, broadcast.
        [0, ..]
        | [192, 0, 0 | 2, _]
        | [192, 88, 99, _]
        | [198, 18 | 19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [240..=255, ..] => AddressKind::Reserved,
        _ => AddressKind::Public,
    }
}

fn kind_of_v6(address: Ipv6Addr) -> AddressKind {
    let segments = address.segments();
    let low = v4(segments[6], segments[7]);
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0] => AddressKind::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => AddressKind::Loopback,
        // Mapped, translated, compatible, NAT64.
        [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] | [0, 0, 0, 0, 0, 0, ..] => kind_of_v4(low),
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => kind_of_v4(low),
        [0x2002, high, rest, ..] => kind_of_v4(v4(high, rest)),
        [0xfc00..=0xfdff, ..] => AddressKind::Private,
        [0xfe80..=0xfebf, ..] => AddressKind::LinkLocal,
        // Site-local, deprecated, and still routed by some.
        [0xfec0..=0xfeff, ..] => AddressKind::Private,
        [0xff00..=0xffff, ..] => AddressKind::Multicast,
        // Local NAT64, discard, Teredo and other protocol assignments, documentation (two), segment routing.
        [0x64, 0xff9b, 1, ..]
        | [0x100, 0, 0, ..]
        | [0x2001, 0..=0x1ff, ..]
        | [0x2001, 0xdb8, ..]
        | [0x3fff, 0..=0xfff, ..]
        | [0x5f00, ..] => AddressKind::Reserved,
        // ISATAP: the IPv4 address of the tunnel's end.
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => kind_of_v4(low),
        // Only this block is given out to the public internet.
        [0x2000..=0x3fff, ..] => AddressKind::Public,
        _ => AddressKind::Reserved,
    }
}

fn v4(high: u16, low: u16) -> Ipv4Addr {
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Ipv4Addr::new(a, b, c, d)
}
