//! Sockets: listening, connecting, looking at first bytes, copying.
