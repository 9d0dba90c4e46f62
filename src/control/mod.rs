//! The control side: one runtime on its own thread.
