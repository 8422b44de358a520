//! The network, below any protocol of a far side.

pub mod dial;
pub mod stream;
pub mod ws;
