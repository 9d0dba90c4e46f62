//! The formats of values: Go's integers, booleans and durations, ports, addresses.
//!
//! Called through [`super::env::Reader`] by each role's settings. Pure functions. Rules: Go's `strconv.ParseInt` with
//! base 0, `strconv.ParseBool` and `time.ParseDuration`, since values that Knative's components take must go on
//! working.
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Most worker threads.
const MAX_THREADS: u32 = 1024;

/// Why a value was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// What would have been right, to follow "expected".
    pub expected: &'static str,
    /// What Go says, for values that Knative's components parse too.
    pub go: Option<GoError>,
}

/// Go's words for a bad value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoError {
    /// The type: `int`, `bool`.
    pub kind: &'static str,
    /// The text of the error.
    pub details: String,
}

impl Invalid {
    /// A refusal in our words only.
    pub const fn new(expected: &'static str) -> Self {
        Self { expected, go: None }
    }
}

/// Any string, as it is.
///
/// # Errors
/// Never.
pub fn text(value: &str) -> Result<String, Invalid> {
    Ok(value.to_owned())
}

/// A Go `int`: decimal, `0x`, `0o`, `0b`, a leading `0` for octal, `_` between digits.
///
/// # Errors
/// The empty string, blanks, fractions, numbers outside 64 bits.
pub fn int(value: &str) -> Result<i64, Invalid> {
    parse_int(value).map_err(|reason| Invalid {
        expected: "a whole number",
        go: Some(GoError { kind: "int", details: format!("strconv.ParseInt: parsing {value:?}: {reason}") }),
    })
}

/// A Go `bool`: `1 t T TRUE true True 0 f F FALSE false False`.
///
/// # Errors
/// Anything else, the empty string too.
pub fn bool(value: &str) -> Result<bool, Invalid> {
    match value {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(Invalid {
            expected: "true or false",
            go: Some(GoError {
                kind: "bool",
                details: format!("strconv.ParseBool: parsing {value:?}: invalid syntax"),
            }),
        }),
    }
}

/// A Go duration, not negative: `300ms`, `1.5h`, `2h45m`, `0`.
///
/// # Errors
/// A number without a unit (except 0), an unknown unit, a sign, an overflow.
pub fn duration(value: &str) -> Result<Duration, Invalid> {
    parse_duration(value).ok_or(Invalid::new("a duration such as 300ms, 30s or 1h30m"))
}

/// A TCP port from 1 to 65535, in decimal.
///
/// # Errors
/// Anything else.
pub fn port(value: &str) -> Result<u16, Invalid> {
    decimal(value).filter(|port| *port != 0).ok_or(Invalid::new("a port from 1 to 65535"))
}

/// A TCP port from 0 (chosen by the kernel) to 65535, in decimal.
///
/// # Errors
/// Anything else.
pub fn port_or_zero(value: &str) -> Result<u16, Invalid> {
    decimal(value).ok_or(Invalid::new("a port from 0 (any free one) to 65535"))
}

/// A whole number of at least 1, in decimal.
///
/// # Errors
/// Anything else.
pub fn count(value: &str) -> Result<u32, Invalid> {
    decimal(value).filter(|count| *count != 0).ok_or(Invalid::new("a whole number of at least 1"))
}

/// A number of worker threads, from 1 to 1024, in decimal.
///
/// # Errors
/// Anything else: no machine has use for more, and each has a stack and a runtime of its own.
pub fn threads(value: &str) -> Result<u32, Invalid> {
    let threads = decimal(value).filter(|threads| (1..=MAX_THREADS).contains(threads));
    threads.ok_or(Invalid::new("a number of threads from 1 to 1024"))
}

/// A number of bytes, at least 1: decimal, or with `Ki`, `Mi` or `Gi`.
///
/// # Errors
/// Anything else.
pub fn bytes(value: &str) -> Result<u32, Invalid> {
    let (digits, unit) = match value {
        v if v.ends_with("Ki") => (&v[..v.len() - 2], 1 << 10),
        v if v.ends_with("Mi") => (&v[..v.len() - 2], 1 << 20),
        v if v.ends_with("Gi") => (&v[..v.len() - 2], 1 << 30),
        v => (v, 1),
    };
    decimal::<u32>(digits)
        .and_then(|number| number.checked_mul(unit))
        .filter(|bytes| *bytes != 0)
        .ok_or(Invalid::new("a number of bytes such as 65536 or 64Ki"))
}

/// An IP address, with or without brackets.
///
/// # Errors
/// Names and ports.
pub fn ip(value: &str) -> Result<IpAddr, Invalid> {
    let bare = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(value);
    bare.parse().map_err(|_| Invalid::new("an IP address"))
}

/// An IP address and a port: `10.0.0.1:8080`, `[::1]:8080`; an empty address (`:8080`) is every one.
///
/// # Errors
/// Names, a missing port.
pub fn host_port(value: &str) -> Result<SocketAddr, Invalid> {
    let expected = Invalid::new("an address and a port such as 10.0.0.1:8080 or [::1]:8080");
    if let Some(port) = value.strip_prefix(':') {
        let port = decimal(port).ok_or(expected)?;
        return Ok(SocketAddr::new(IpAddr::from([0_u16; 8]), port));
    }
    value.parse().map_err(|_| expected)
}

/// A comma-separated list; blanks around items and empty items are dropped.
///
/// # Errors
/// Never.
pub fn list(value: &str) -> Result<Vec<String>, Invalid> {
    Ok(value.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
}

/// A comma-separated list of names; blanks around them are dropped.
///
/// # Errors
/// An empty item, and so an empty list: who may do something is never left to a stray comma.
pub fn names(value: &str) -> Result<Vec<String>, Invalid> {
    let names: Vec<String> = value.split(',').map(|name| name.trim().to_owned()).collect();
    match names.iter().any(String::is_empty) {
        true => Err(Invalid::new("one or more names with commas between, none of them empty")),
        false => Ok(names),
    }
}

/// Digits only: neither `+1` nor blanks, which Rust's and Go's parsers treat differently.
fn decimal<T: std::str::FromStr>(value: &str) -> Option<T> {
    let digits_only = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    digits_only.then(|| value.parse().ok()).flatten()
}

/// `strconv.ParseInt(value, 0, 64)`.
fn parse_int(value: &str) -> Result<i64, &'static str> {
    const SYNTAX: &str = "invalid syntax";
    let (negative, digits) = match value.as_bytes().first() {
        Some(b'-') => (true, &value[1..]),
        Some(b'+') => (false, &value[1..]),
        _ => (false, value),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, body) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    // An underscore may follow a base prefix and stand between digits, nowhere else.
    let body = if radix == 10 { body } else { body.strip_prefix('_').unwrap_or(body) };
    if body.is_empty() || body.starts_with('_') || body.ends_with('_') || body.contains("__") {
        return Err(SYNTAX);
    }
    let mut number: i128 = 0;
    let mut overflow = false;
    for character in body.chars().filter(|character| *character != '_') {
        let digit = character.to_digit(radix).ok_or(SYNTAX)?;
        match number.checked_mul(i128::from(radix)).and_then(|n| n.checked_add(i128::from(digit))) {
            Some(next) => number = next,
            None => overflow = true,
        }
    }
    let signed = if negative { -number } else { number };
    i64::try_from(signed).ok().filter(|_| !overflow).ok_or("value out of range")
}

fn parse_duration(value: &str) -> Option<Duration> {
    if value == "0" {
        return Some(Duration::ZERO);
    }
    if value.is_empty() {
        return None;
    }
    let mut total: u128 = 0;
    let mut rest = value;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        total = total.checked_add(nanoseconds(number, unit)?)?;
        rest = next;
    }
    // Go's durations end at 2^63 - 1 nanoseconds, some 292 years.
    i64::try_from(total).ok()?;
    u64::try_from(total).ok().map(Duration::from_nanos)
}

fn nanoseconds(number: &str, unit: &str) -> Option<u128> {
    let scale: u128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.checked_mul(scale)?;
    let mut part = scale;
    for digit in fraction.bytes() {
        // Digits below one nanosecond are cut off, as in Go.
        part /= 10;
        total = total.checked_add(part.checked_mul(u128::from(digit - b'0'))?)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Contract 1.2: Go literal syntax counts.
    #[test]
    fn given_go_integer_literals_then_they_have_gos_values() {
        for (value, expected) in [
            ("0", 0),
            ("10", 10),
            ("-1", -1),
            ("+3", 3),
            ("0x10", 16),
            ("0X1f", 31),
            ("010", 8),
            ("0o17", 15),
            ("0b101", 5),
            ("1_0", 10),
            ("0x_f", 15),
            ("0_7", 7),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(int(value), Ok(expected), "{value}");
        }
    }

    #[test]
    fn given_what_go_refuses_as_an_integer_then_the_details_are_gos() {
        for (value, reason) in [
            ("", "invalid syntax"),
            (" 1", "invalid syntax"),
            ("1.5", "invalid syntax"),
            ("08", "invalid syntax"),
            ("0x", "invalid syntax"),
            ("_1", "invalid syntax"),
            ("1_", "invalid syntax"),
            ("1__0", "invalid syntax"),
            ("--1", "invalid syntax"),
            ("9223372036854775808", "value out of range"),
            ("99999999999999999999999999999999999999999999999", "value out of range"),
        ] {
            let details = int(value).unwrap_err().go.unwrap().details;
            assert_eq!(details, format!("strconv.ParseInt: parsing \"{value}\": {reason}"));
        }
    }

    #[test]
    fn given_booleans_then_only_gos_twelve_spellings_pass() {
        for value in ["1", "t", "T", "TRUE", "true", "True"] {
            assert_eq!(bool(value), Ok(true));
        }
        for value in ["0", "f", "F", "FALSE", "false", "False"] {
            assert_eq!(bool(value), Ok(false));
        }
        for value in ["", "yes", "tRue", " true", "2"] {
            assert!(bool(value).is_err(), "{value}");
        }
    }

    #[test]
    fn given_durations_then_they_are_read_as_go_reads_them() {
        for (value, expected) in [
            ("0", Some(Duration::ZERO)),
            ("30s", Some(Duration::from_secs(30))),
            ("300ms", Some(Duration::from_millis(300))),
            ("1h2m3.5s", Some(Duration::from_millis(3_723_500))),
            (".5s", Some(Duration::from_millis(500))),
            ("1.s", Some(Duration::from_secs(1))),
            ("1µs", Some(Duration::from_micros(1))),
            ("", None),
            ("30", None),
            ("s", None),
            (".s", None),
            ("-1s", None),
            ("1.2.3s", None),
            ("1d", None),
            ("9999999999999h", None),
        ] {
            assert_eq!(duration(value).ok(), expected, "{value}");
        }
    }

    #[test]
    fn given_names_then_an_empty_one_is_refused_and_in_a_list_it_is_dropped() {
        let two = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(names("a, b"), Ok(two.clone()));
        for value in ["", " ", ",", "a,", ",a", "a, ,b"] {
            assert!(names(value).is_err(), "{value:?}");
        }
        assert_eq!(list(" a,, b ,"), Ok(two));
        assert_eq!(list(","), Ok(Vec::new()));
    }

    #[test]
    fn given_threads_then_there_are_at_least_1_and_at_most_1024() {
        assert_eq!((threads("1"), threads("1024")), (Ok(1), Ok(1024)));
        for value in ["0", "1025", "4294967296", "-1", "x", ""] {
            assert!(threads(value).is_err(), "{value:?}");
        }
    }

    #[test]
    fn given_ports_counts_and_sizes_then_only_decimal_in_range_passes() {
        assert_eq!(port("8012"), Ok(8012));
        for value in ["", "0", "65536", "80a", "+80", " 80", "http"] {
            assert!(port(value).is_err(), "{value}");
        }
        assert_eq!(port_or_zero("0"), Ok(0));
        assert_eq!(count("250"), Ok(250));
        assert!(count("0").is_err());
        assert_eq!(bytes("64Ki"), Ok(65_536));
        assert_eq!(bytes("100"), Ok(100));
        for value in ["", "0", "Ki", "8Gi", "1.5Mi", "1k"] {
            assert!(bytes(value).is_err(), "{value}");
        }
    }

    #[test]
    fn given_addresses_then_brackets_and_empty_hosts_are_understood() {
        assert_eq!(ip("[::1]").unwrap(), ip("::1").unwrap());
        assert!(ip("localhost").is_err());
        assert_eq!(host_port("127.0.0.1:80").unwrap().port(), 80);
        assert!(host_port(":9090").unwrap().ip().is_unspecified());
        assert!(host_port("127.0.0.1").is_err());
        assert_eq!(list(" a, ,b ,").unwrap(), ["a", "b"]);
    }
}
