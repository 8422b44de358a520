//! Nothing that was accepted is lost: a real daemon that is killed, stopped, and given bad disks and files.
//!
//! - [`kills`]: SIGKILL at random moments under load, and the books afterwards. - [`trees`]: what a turn has
//!   started is gone when the turn is. - [`shutdown`]: the orderly end. - [`faults`]: every single operation on
//!   the disk fails once. - [`damage`]: bad files at the start. - [`clock`]: a clock that jumps.
#![allow(missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod books;
mod clock;
mod daemon;
mod damage;
mod faults;
mod kills;
mod shutdown;
mod trees;
