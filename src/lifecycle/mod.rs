//! Start, readiness, drain and shutdown.
