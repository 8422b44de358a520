//! The program: its command line, handed to [`bellhop::cli`].

use std::process::ExitCode;

use bellhop::cli;
use bellhop::daemon::Program;

fn main() -> ExitCode {
    cli::main(std::env::args_os(), &Program)
}
