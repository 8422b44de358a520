//! The hub of the tests, in this process.

#[path = "../support/hub/mod.rs"]
pub mod hub;
#[path = "../support/hub_control/mod.rs"]
pub mod hub_control;
