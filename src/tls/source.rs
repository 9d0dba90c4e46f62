//! What every source of an identity does with a pair, wherever it has it from: [`crate::tls::source_dir`] from files,
//! others from Secrets. Control side.
use time::OffsetDateTime;

use crate::tls::expiry;
use crate::tls::identity::{self, Identity, Reason, Rejection};

/// Puts a pair into use if it is better than the one in use: it parses, the key is the leaf's, and it is valid now
/// unless it replaces none that is, or the very same certificate. `origin` says where it comes from, for people.
///
/// # Errors
/// Why the pair is not taken; the store is as it was.
pub fn offer(
    store: &identity::Store,
    origin: &str,
    certificate: &[u8],
    key: &[u8],
    now: OffsetDateTime,
) -> Result<(), Rejection> {
    let identity = Identity::from_pem(certificate, key).map_err(|Rejection { reason, detail }| Rejection {
        reason,
        detail: format!("failed to parse certificate: {origin}: tls: {detail}"),
    })?;
    let in_use = store.current();
    let same = in_use.as_ref().is_some_and(|in_use| in_use.certified.cert == identity.certified.cert);
    let replaces_good = in_use.as_ref().is_some_and(|in_use| in_use.leaf.is_valid_at(now));
    if !same && replaces_good {
        in_time(origin, &identity.leaf, now)?;
    }
    store.publish(identity);
    Ok(())
}

fn in_time(origin: &str, leaf: &identity::Leaf, now: OffsetDateTime) -> Result<(), Rejection> {
    let refuse = |reason, why: &str, at| {
        let detail = format!("the new certificate in {origin} is refused: {why} {}", expiry::date(at));
        Err(Rejection { reason, detail })
    };
    if leaf.not_after < now {
        return refuse(Reason::Expired, "it expired at", leaf.not_after);
    }
    if now < leaf.not_before {
        return refuse(Reason::NotYetValid, "it is not valid before", leaf.not_before);
    }
    Ok(())
}

/// What becomes of the identity when a pair is rejected, to follow the reason in the log.
pub fn consequence(store: &identity::Store) -> &'static str {
    match store.current() {
        Some(_) => "the previous certificate stays in use",
        None => "there is no certificate to serve until it is repaired",
    }
}
