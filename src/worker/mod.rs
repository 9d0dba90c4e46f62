//! The data side: threads with one runtime each.
