//! `traceparent`: where a caller's trace goes on (W3C Trace Context).

/// What a caller says of its span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) trace_id: u128,
    pub(super) id: u64,
    pub(super) sampled: bool,
}

/// `traceparent` of version 00, or the part of a later version that stays the same.
pub(super) fn parse(value: &[u8]) -> Option<Parent> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let mut parts = text.split('-');
    let (version, trace, id, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length| {
        (text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
            .then(|| u128::from_str_radix(text, 16).ok())
            .flatten()
    };
    if hex(version, 2)? == 0xff || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let (trace_id, id, flags) = (hex(trace, 32)?, u64::try_from(hex(id, 16)?).ok()?, hex(flags, 2)?);
    (trace_id != 0 && id != 0).then_some(Parent { trace_id, id, sampled: flags & 1 == 1 })
}
