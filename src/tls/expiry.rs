//! How long certificates still live, and a warning before they don't.
//!
//! Called by the source of an identity with each look at its files (control side).
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::tls::identity::Leaf;
use crate::tls::san;

/// A warning is repeated this often.
const REPEAT: Duration = Duration::DAY;

/// Seconds until `not_after`; negative when it is past.
pub fn seconds_left(not_after: OffsetDateTime, now: OffsetDateTime) -> i64 {
    (not_after - now).whole_seconds()
}

/// A moment for people, as RFC 3339 writes it.
pub fn date(moment: OffsetDateTime) -> String {
    moment.format(&Rfc3339).unwrap_or_else(|_| moment.to_string())
}

/// Remembers when it last warned, and about which certificate.
#[derive(Debug, Default)]
pub struct Watch {
    warned: Option<(String, OffsetDateTime)>,
}

impl Watch {
    /// The warning that is due at `now`: less than a third of the leaf's life is left (cert-manager renews at a third,
    /// so renewal is not working), and it was not given within the last day.
    pub fn due(&mut self, leaf: &Leaf, now: OffsetDateTime) -> Option<String> {
        let left = leaf.not_after - now;
        let life = leaf.not_after - leaf.not_before;
        if left >= life / 3 {
            return None;
        }
        if let Some((serial, at)) = &self.warned
            && *serial == leaf.serial
            && now - *at < REPEAT
        {
            return None;
        }
        self.warned = Some((leaf.serial.clone(), now));
        let names = san::in_words(&leaf.names);
        Some(match left.is_negative() {
            true => format!("The certificate for {names} expired at {}; peers refuse it", date(leaf.not_after)),
            false => format!(
                "The certificate for {names} expires at {}, less than a third of its life is left; is it being renewed?",
                date(leaf.not_after)
            ),
        })
    }
}
