//! A daemon that a person has logged in to a hub: how that comes about, what becomes of it, and what is told of it.

#[path = "../support/hub/mod.rs"]
mod hub;
#[path = "../support/hub_control/mod.rs"]
mod hub_control;
#[path = "../support/mod.rs"]
mod support;

mod accounts;
mod closes;
mod enter;
mod frames;
mod home;
mod running;
mod takeover;
mod terminal;
