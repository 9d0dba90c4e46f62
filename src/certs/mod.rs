//! Minting, showing and checking certificates: the library behind `lockkeeper certs`, used by `local` and by tests.
//!
//! [`mint`] makes authorities and leaves, [`mount`] lays them out as kubelet mounts a Secret, [`inspect`] reads
//! certificates from a file, a directory or a server, [`check`] says whether a directory would work for a role,
//! [`report`] puts both into words. Nothing of it is called while a role serves.
pub mod encoding;
pub mod mint;
pub mod mount;
