//! Host names as routes and certificates are keyed by them.

use std::borrow::Cow;

/// The bytes of a host that is in lower case and has no port.
static PLAIN: [bool; 256] = {
    let (bytes, mut plain, mut at) = (b"abcdefghijklmnopqrstuvwxyz0123456789-.", [false; 256], 0);
    while at < bytes.len() {
        plain[bytes[at] as usize] = true;
        at += 1;
    }
    plain
};

/// An authority as a host to look up: without its port, in lower case, without the dot at the end of a fully qualified
/// name.
#[must_use]
pub fn normal(authority: &str) -> Cow<'_, str> {
    // Most are as they should be, which one pass tells.
    if authority.bytes().all(|b| PLAIN[usize::from(b)]) && !authority.ends_with('.') {
        return Cow::Borrowed(authority);
    }
    let host = without_port(authority);
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// The authority less `:port`; an IPv6 address keeps its brackets.
#[must_use]
pub fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => authority,
    }
}

/// What stands behind `*` in a wildcard: `.example.com` of `*.example.com`.
#[must_use]
pub fn wildcard_suffix(pattern: &str) -> Option<&str> {
    pattern.strip_prefix('*').filter(|suffix| suffix.starts_with('.'))
}

/// The suffixes of a host that a wildcard may stand before, the longest first: `.b.c` and `.c` of `a.b.c`.
pub fn suffixes(host: &str) -> impl Iterator<Item = &str> {
    host.match_indices('.').filter(|(at, _)| *at > 0).filter_map(move |(at, _)| host.get(at..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_authorities_when_made_normal_then_port_case_and_final_dot_are_gone() {
        for (authority, host) in [
            ("a.example.com", "a.example.com"),
            ("A.Example.com:8080", "a.example.com"),
            ("a.example.com.", "a.example.com"),
            ("a.example.com.:80", "a.example.com"),
            ("a:", "a"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
            ("a:b", "a:b"),
            ("", ""),
        ] {
            assert_eq!(normal(authority), host, "{authority}");
        }
    }

    #[test]
    fn given_a_host_when_its_suffixes_are_listed_then_the_longest_comes_first() {
        assert_eq!(suffixes("a.b.c").collect::<Vec<_>>(), [".b.c", ".c"]);
        assert_eq!(suffixes("localhost").count(), 0);
        assert_eq!(suffixes(".x").count(), 0);
        assert_eq!(wildcard_suffix("*.b.c"), Some(".b.c"));
        assert_eq!(wildcard_suffix("*b.c"), None);
        assert_eq!(wildcard_suffix("*"), None);
    }
}
