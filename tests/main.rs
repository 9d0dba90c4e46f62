//! One test binary for all of lockkeeper: one link, one harness. It starts the real executable on free ports.
