//! Blocks of addresses, as `10.0.0.0/8` or as a single address.
use std::net::IpAddr;
use std::str::FromStr;

/// A block of addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    bits: u32,
}

impl Cidr {
    /// Whether `ip` is in it. IPv4 addresses mapped into IPv6 count as IPv4.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => same(own.to_bits().into(), ip.to_bits().into(), 32 - self.bits),
            (IpAddr::V6(own), IpAddr::V6(ip)) => same(own.to_bits(), ip.to_bits(), 128 - self.bits),
            _ => false,
        }
    }
}

/// Whether two addresses are the same but for their last `free` bits.
fn same(one: u128, other: u128, free: u32) -> bool {
    (one ^ other).checked_shr(free).unwrap_or(0) == 0
}

impl FromStr for Cidr {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |bits| bits.parse().map_err(|_| ()))?;
        if bits > most { Err(()) } else { Ok(Self { address, bits }) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn given_blocks_when_addresses_are_looked_up_then_the_first_bits_count() {
        let is_in = |block: &str, ip: &str| block.parse::<Cidr>().unwrap().contains(ip.parse().unwrap());
        assert!(is_in("10.0.0.0/8", "10.255.1.2") && !is_in("10.0.0.0/8", "11.0.0.1"));
        assert!(is_in("192.0.2.1", "192.0.2.1") && !is_in("192.0.2.1", "192.0.2.2"));
        assert!(is_in("192.0.2.0/25", "::ffff:192.0.2.127") && !is_in("192.0.2.0/25", "192.0.2.128"));
        assert!(is_in("0.0.0.0/0", "203.0.113.9") && !is_in("0.0.0.0/0", "::1"));
        assert!(is_in("::/0", "2001:db8::1") && is_in("2001:db8::/32", "2001:db8:1::") && !is_in("::1", "::2"));
        for bad in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/", "localhost"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
