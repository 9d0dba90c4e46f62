//! How many worker threads.
