//! The control socket of a BotCord hub: the hub's frames, checked, answered once, and carried out.
//!
//! - [`frame`]: what a frame and an answer look like; [`wake`], [`identity`], [`ingress`]: what some of them mean.
//! - [`gate`]: the order in which a frame is checked; [`ring`]: whose signatures count; [`replay`]: which frames were
//!   answered already, and how.
//! - [`lanes`]: who carries frames out, and in which order.
//! - [`login`], [`enter`], [`user_auth`], [`session`]: how a login is obtained, kept on disk, and renewed.
//! - [`settle`]: what a sandbox tells the hub of runs.
//! - [`machine`], [`connection`]: when to connect, and the thread that does it; [`handle`]: how others hold it.

pub mod connection;
pub mod enter;
pub mod frame;
pub mod gate;
pub mod handle;
pub mod identity;
pub mod ingress;
pub mod lanes;
pub mod login;
pub mod machine;
pub mod replay;
pub mod ring;
pub mod session;
pub mod settle;
pub mod user_auth;
pub mod wake;
