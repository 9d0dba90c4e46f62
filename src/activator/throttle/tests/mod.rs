//! Tests of the whole throttle.
