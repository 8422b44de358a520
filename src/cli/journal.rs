//! `bellhop journal`: what the journal holds, line by line.

use std::io::Write;

use super::Context;
use super::args::Parsed;
use super::exit::Exit;
use super::failure::Failure;
use super::host::Dumped;
use super::output::{complain, neutral, placed};

/// Runs the command. Bad lines are named on standard error and make the status 1.
pub fn run(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    context.home.check()?;
    let raw = args.flag("json");
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let (mut bad, mut failed) = (0_u64, None);
    let mut each = |line: Dumped| {
        let written = match line {
            Dumped::Line(line) if raw => writeln!(out, "{line}"),
            Dumped::Line(line) => writeln!(out, "{}", neutral(&line)),
            Dumped::Bad(what) => {
                bad += 1;
                // In its place among the others, where they go to the same terminal.
                let flushed = out.flush();
                complain(&format!("bad line: {what}"));
                flushed
            }
        };
        failed = written.err();
        failed.is_none()
    };
    let dumped = context.host.dump_journal(&context.home, raw, &mut each);
    if let Some(error) = failed {
        return Err(placed(error).into());
    }
    dumped.map_err(|e| Failure::new(format!("the journal cannot be read: {e}")))?;
    out.flush().map_err(placed)?;
    Ok(if bad == 0 { Exit::Ok } else { Exit::Failed })
}
