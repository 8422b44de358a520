//! Logging in: what `start` does before the daemon runs. Asks the hub, tells the person, writes the login down.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::login::{self, Action, DeviceCode, Poll};
use super::session::{self, Answer, post};
use super::user_auth::{self, Tokens, UserAuth};
use crate::engine::cancel::CancelToken;
use crate::net::http::Http;
use crate::net::url;
use crate::store::Disk;

/// Longest wait for a person, whatever the hub says, in seconds.
const LONGEST_WAIT_S: f64 = 3_600.0;
/// Longest pause between two questions, in seconds.
const LONGEST_PAUSE_S: f64 = 60.0;

/// What is wished for. Debug output has no ticket: there is none.
#[derive(Default)]
pub struct Wish {
    /// The hub of a new login.
    pub hub: Option<String>,
    /// What the daemon is to be called.
    pub label: Option<String>,
    /// A ticket of the hub's page. Secret.
    pub ticket: Option<String>,
    /// A new login, although there is one.
    pub relogin: bool,
    /// A person sits at the terminal.
    pub interactive: bool,
}

/// What a person is told meanwhile.
pub enum Said<'a> {
    /// Go to this page and enter this code; both come from the hub.
    Code {
        /// The page, with the code.
        page: &'a str,
        /// The page without it.
        place: &'a str,
        /// The code.
        code: &'a str,
    },
    /// A line.
    Note(String),
}

/// How it ended.
#[derive(Debug)]
pub enum Entered {
    /// With this login, which is new.
    New(UserAuth),
    /// There was one, and it is used.
    Kept(UserAuth),
}

/// The login as it lies on disk.
pub struct Look {
    /// It; the error says why it cannot be used.
    pub auth: Result<Option<UserAuth>, String>,
    /// A person has to log in again.
    pub expired: bool,
}

/// Looks at the login.
pub fn look(daemon_dir: &Path) -> Look {
    let auth = user_auth::load(&user_auth::path(daemon_dir), &session::now_iso()).map_err(|e| e.to_string());
    Look { auth, expired: user_auth::flag_path(daemon_dir).exists() }
}

/// Sees to it that there is a login. The error is for people.
pub fn log_in(
    daemon_dir: &Path,
    disk: &dyn Disk,
    wish: &Wish,
    tell: &mut dyn FnMut(Said<'_>),
) -> Result<Entered, String> {
    let never = CancelToken::new().map_err(|e| e.to_string())?;
    let existing = match user_auth::load(&user_auth::path(daemon_dir), &session::now_iso()) {
        Ok(existing) => existing,
        Err(e) => {
            tell(Said::Note(format!("the login cannot be used: {e}")));
            None
        }
    };
    let action = login::action(existing.is_some(), wish.relogin, wish.ticket.is_some());
    if action == Action::ReuseExisting
        && let Some(auth) = existing
    {
        return keep(daemon_dir, auth, wish, tell);
    }
    let named = wish.hub.as_deref().or(existing.as_ref().map(|auth| auth.hub_url.as_str()));
    let hub = url::server(named.unwrap_or(login::DEFAULT_HUB)).map_err(|e| format!("the address of the hub {e}"))?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let given = wish.label.as_deref().and_then(login::label);
    let entrance = Entrance {
        http: Http::new(),
        hub,
        label: given.unwrap_or_else(|| login::default_label(&host)),
        abort: never.as_fd(),
    };
    let tokens = match (&wish.ticket, action) {
        (Some(ticket), Action::InstallToken) => {
            match entrance.redeem(ticket, existing.as_ref().map(|auth| auth.daemon_instance_id.as_str()), wish.relogin)
            {
                Ok(tokens) => tokens,
                Err(why) => match existing {
                    Some(auth) if !wish.relogin && !user_auth::flag_path(daemon_dir).exists() => {
                        tell(Said::Note(format!("{why}; the login that there is is used instead")));
                        return Ok(Entered::Kept(auth));
                    }
                    _ => return Err(why),
                },
            }
        }
        _ if !wish.interactive => {
            return Err("logging in needs a person at a terminal: run bellhop start in one, once, or put a \
                        user-auth.json of this daemon into the home, or give an install ticket"
                .into());
        }
        _ => entrance.ask_person(tell)?,
    };
    let auth = session::adopt(disk, daemon_dir, &entrance.hub, tokens, Some(entrance.label));
    auth.map(Entered::New).map_err(|e| format!("the login cannot be kept: {e}"))
}

/// Uses the login that there is. It is given another try, even if a hub has refused it before.
fn keep(daemon_dir: &Path, auth: UserAuth, wish: &Wish, tell: &mut dyn FnMut(Said<'_>)) -> Result<Entered, String> {
    let flag = user_auth::flag_path(daemon_dir);
    user_auth::clear_flag(daemon_dir).map_err(|e| format!("{}: {e}", flag.display()))?;
    let label = wish.label.as_deref().and_then(login::label);
    let hub = wish.hub.as_deref().and_then(|hub| url::server(hub).ok());
    for (option, differs) in [
        ("--label", label.is_some() && label != auth.label),
        ("--hub", hub.is_some_and(|hub| url::origin(&hub) != url::origin(&auth.hub_url))),
    ] {
        if differs {
            let known = format!("logged in as {} at {} already", auth.user_id, auth.hub_url);
            tell(Said::Note(format!("{known}: {option} is ignored; for a new login: --relogin")));
        }
    }
    Ok(Entered::Kept(auth))
}

/// The hub that is asked, and for whom.
struct Entrance<'a> {
    http: Http,
    hub: String,
    label: String,
    abort: BorrowedFd<'a>,
}

impl Entrance<'_> {
    fn post(&self, path: &str, body: &serde_json::Value) -> Result<Answer, String> {
        post(&self.http, &format!("{}{path}", self.hub), body, self.abort).map_err(|e| e.to_string())
    }

    /// Turns a ticket into tokens.
    fn redeem(&self, ticket: &str, instance: Option<&str>, relogin: bool) -> Result<Tokens, String> {
        let ask =
            |instance| self.post(login::INSTALL_TOKEN, &login::install_token_body(ticket, Some(&self.label), instance));
        let failed = |why: String| format!("the install ticket is of no use: {why}");
        let mut answer = ask(instance).map_err(failed)?;
        if answer.status == 404 && instance.is_some() && relogin {
            // The hub has forgotten this daemon, or it was another person's: it becomes a new one.
            answer = ask(None).map_err(failed)?;
        }
        if !(200..300).contains(&answer.status) {
            return Err(failed(answer.refusal()));
        }
        Tokens::read(&answer.body).map_err(|what| failed(format!("the hub's answer has no {what}")))
    }

    /// Shows a person a code and waits until it is entered.
    fn ask_person(&self, tell: &mut dyn FnMut(Said<'_>)) -> Result<Tokens, String> {
        let failed = |why: String| format!("{} gives no login code: {why}", self.hub);
        let answer = self.post(login::DEVICE_CODE, &login::device_code_body(Some(&self.label))).map_err(failed)?;
        if !(200..300).contains(&answer.status) {
            return Err(failed(answer.refusal()));
        }
        let code = DeviceCode::read(&answer.body).map_err(|what| failed(format!("its answer has no {what}")))?;
        tell(Said::Code { page: &code.page(), place: &code.verification_uri, code: &code.user_code });
        let end = Instant::now() + Duration::from_secs_f64(code.expires_in.clamp(0.0, LONGEST_WAIT_S));
        let mut interval = code.interval;
        let body = login::device_token_body(&code.device_code, Some(&self.label));
        loop {
            let pause = Duration::from_secs_f64(interval.clamp(0.01, LONGEST_PAUSE_S));
            std::thread::sleep(pause.min(end.saturating_duration_since(Instant::now())));
            if Instant::now() >= end {
                return Err("the code has expired, and nobody has entered it; nothing was started".into());
            }
            let answer = match self.post(login::DEVICE_TOKEN, &body) {
                Ok(answer) => answer,
                Err(why) => {
                    tell(Said::Note(format!("the hub cannot be asked: {why}; trying again")));
                    continue;
                }
            };
            match login::poll(answer.status, &answer.body) {
                Poll::Pending => {}
                Poll::SlowDown(least) => interval = interval.max(least),
                Poll::Issued(tokens) => return Ok(tokens),
                Poll::Stop(why) => return Err(format!("{why} ({})", answer.refusal())),
                Poll::Odd => tell(Said::Note(format!("the hub answers {}; trying again", answer.refusal()))),
            }
        }
    }
}
