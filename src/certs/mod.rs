//! Minting, showing and checking certificates: the library behind `lockkeeper certs`, used by `local` and by tests.
//!
//! [`mint`] makes authorities and leaves, [`mount`] lays them out as kubelet mounts a Secret, [`fixtures`] makes the
//! repository's test certificates, [`inspect`] reads certificates from a file, a directory or a server and `words` puts
//! them into words, and [`check`] says whether a directory would work for a role. Nothing of it is called while a role
//! serves.
pub mod check;
pub mod encoding;
pub mod fixtures;
pub mod inspect;
pub mod mint;
pub mod mount;
mod words;

#[cfg(test)]
mod tests;
