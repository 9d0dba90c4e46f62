//! Finds out which pods can take requests.
