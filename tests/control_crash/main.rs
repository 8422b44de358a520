//! A daemon that dies at any step of a frame of the control link, for each kind of frame that changes something: the next
//! start finds everything as it was before or as it was wanted, and the frame, sent again, is carried out.
//!
//! - [`place`]: the hub, the home, and the daemon that is killed. - [`series`]: one frame, killed at its first step, its
//!   second, … until it comes through. - [`agents`], [`others`]: the frames.
//!
//! Only builds with debug assertions can be told where to die.
#![cfg(debug_assertions)]
#![allow(missing_docs)]

#[path = "../support/hub/mod.rs"]
mod hub;
#[path = "../support/hub_control/mod.rs"]
mod hub_control;
#[path = "../support/mod.rs"]
mod support;

mod agents;
mod others;
mod place;
mod series;
