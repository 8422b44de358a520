//! What integration tests share.
#![allow(dead_code, missing_docs, clippy::struct_field_names)]

pub mod child;
pub mod engine;
pub mod fake_agent;
pub mod fake_cli;
pub mod fake_deepseek;
pub mod run_request;
pub mod temp_dir;
pub mod vector_file;
