//! Minting, showing and checking certificates.
