//! What `bellhop start` does about the login at a hub, and about a home that has no configuration yet.
//!
//! A daemon needs no hub. A login is seen to where one is asked for by an option, or where there is one already.

use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;

use super::Context;
use super::args::Parsed;
use super::failure::Failure;
use super::output::{complain, neutral, say};
use crate::config::edit;
use crate::config::paths::expand_tilde;
use crate::link::botcord_control::enter::{Entered, Said, Wish};

/// The variable with the install ticket: unlike an argument, other users cannot read it.
pub const TICKET_VARIABLE: &str = "BOTCORD_INSTALL_TOKEN";

/// Longest ticket that is read from standard input, in bytes.
const TICKET_LIMIT: u64 = 1_024;

/// What the options ask for; `None` where they ask for nothing.
pub(super) fn wish(args: &Parsed) -> Result<Option<Wish>, Failure> {
    let ticket = match args.text("install-token") {
        Some(dash) if dash == "-" => Some(from_stdin()?),
        Some(ticket) => Some(ticket),
        None => std::env::var(TICKET_VARIABLE).ok(),
    };
    let ticket = ticket.map(|ticket| ticket.trim().to_owned()).filter(|ticket| !ticket.is_empty());
    let wish = Wish {
        hub: args.text("hub"),
        label: args.text("label"),
        ticket,
        relogin: args.flag("relogin"),
        interactive: io::stdin().is_terminal(),
    };
    let any = wish.hub.is_some() || wish.label.is_some() || wish.ticket.is_some() || wish.relogin;
    Ok(any.then_some(wish))
}

fn from_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    io::stdin().lock().take(TICKET_LIMIT).read_to_string(&mut text)?;
    if text.trim().is_empty() {
        return Err(Failure::usage("--install-token -: standard input holds no ticket"));
    }
    Ok(text)
}

/// Sees to the login before the daemon starts; true when there is a new one. Without a wish only a login that lies in
/// the home is looked at.
pub(super) fn see_to_it(wish: Option<Wish>, context: &Context<'_>) -> Result<bool, Failure> {
    let wish = match wish {
        Some(wish) => wish,
        None if context.home.daemon_dir().join("user-auth.json").exists() => {
            Wish { interactive: io::stdin().is_terminal(), ..Wish::default() }
        }
        None => return Ok(false),
    };
    let entered = context.host.log_in(&context.home, &wish, &mut tell).map_err(Failure::new)?;
    match entered {
        Entered::New(auth) => {
            say(&neutral(&format!("Logged in as {}", auth.user_id)))?;
            Ok(true)
        }
        Entered::Kept(_) => Ok(false),
    }
}

/// To standard error: the output of `start` is for scripts.
fn tell(said: Said<'_>) {
    match said {
        Said::Code { page, place, code } => {
            complain(&format!("to log this daemon in, open {page}"));
            complain(&format!("or enter this code at {place}: {code}"));
        }
        Said::Note(text) => complain(&text),
    }
}

/// Writes the first configuration of a daemon that works for a hub, and returns whether it did. `--agent` and `--cwd`
/// count only here.
pub(super) fn first_configuration(args: &Parsed, context: &Context<'_>) -> Result<bool, Failure> {
    let path = context.home.config();
    let agents = args.all("agent");
    let cwd = args.text("cwd");
    if path.exists() {
        for option in [("--agent", !agents.is_empty()), ("--cwd", cwd.is_some())].iter().filter(|o| o.1) {
            complain(&format!("{} is ignored: {} exists", option.0, path.display()));
        }
        return Ok(false);
    }
    let logged_in = context.home.daemon_dir().join("user-auth.json").exists();
    if !logged_in && agents.is_empty() && cwd.is_none() {
        return Ok(false);
    }
    let home_dir = || std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
    let cwd = match cwd {
        Some(cwd) => std::path::absolute(expand_tilde(&cwd))?,
        None => home_dir(),
    };
    edit::edit(&context.home, |document| {
        let named: Vec<String> = agents.iter().map(ToString::to_string).collect();
        crate::config::agents::first(document, &named, &cwd.display().to_string());
    })?;
    say(&format!("wrote {}", path.display()))?;
    Ok(true)
}
