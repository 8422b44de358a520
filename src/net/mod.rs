//! The network, below any protocol of a far side.

pub mod dial;
pub mod dice;
pub mod http;
pub mod stream;
pub mod tls;
mod tls_provider;
pub mod url;
pub mod ws;
