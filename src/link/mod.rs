//! Outbound links: sockets that the daemon keeps to somebody who may tell it what to do.
//!
//! Knows `net`, `store`, `crypto` and the configuration; what a link changes in the daemon is behind a trait that the
//! daemon implements.

pub mod botcord_control;
