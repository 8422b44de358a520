//! The daemon in a hub's sandbox: the real program, a fake CLI, the hub's control side and its inboxes.
#![allow(missing_docs)]

#[path = "../support/hub/mod.rs"]
mod hub;
#[path = "../support/hub_control/mod.rs"]
mod hub_control;
mod ingress;
mod place;
mod runs;
mod start;
#[path = "../support/mod.rs"]
mod support;
mod wakes;
