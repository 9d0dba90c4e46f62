//! Numbers as Go prints them.

use std::io::Write;

/// `%v` of a float64: the shortest digits that give it back, in exponent form below 1e-4 and from 1e21.
pub(crate) fn float(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        return out.extend_from_slice(b"NaN");
    }
    if value.is_infinite() {
        return out.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
    }
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e21).contains(&size) {
        exponent(out, value, None);
    } else {
        let _ = write!(out, "{value}");
    }
}

/// `%e`: digits after the point if `precision` says how many, else the shortest; an exponent of at least two digits.
pub(crate) fn exponent(out: &mut Vec<u8>, value: f64, precision: Option<usize>) {
    let text = match precision {
        Some(precision) => format!("{value:.precision$e}"),
        None => format!("{value:e}"),
    };
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(rest) => ('-', rest),
        None => ('+', exponent),
    };
    let _ = write!(out, "{digits}e{sign}{exponent:0>2}");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    fn float(value: f64) -> String {
        let mut out = Vec::new();
        super::float(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    /// Latencies that the Go component was seen to print, and the borders of its rule.
    #[test]
    fn when_floats_are_printed_then_they_look_like_go_s() {
        for (value, expected) in [
            (0.000808099, "0.000808099"),
            (5.318e-06, "5.318e-06"),
            (0.0001, "0.0001"),
            (0.00009999, "9.999e-05"),
            (1.0, "1"),
            (0.0, "0"),
            (12.5, "12.5"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1.5e-300, "1.5e-300"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(float(value), expected);
        }
    }

    proptest! {
        #[test]
        fn when_any_float_is_printed_then_it_parses_back_to_itself(value in any::<f64>().prop_filter("a number", |v| v.is_finite())) {
            prop_assert_eq!(float(value).parse::<f64>().unwrap(), value);
        }
    }
}
