//! Asks for updates, and moves on when the journal has what they brought.
//!
//! One thread waits in a long poll. What it gets is read, the files of those that count are fetched, and all goes to the
//! engine at once; then the number of the next update is written down, and only then asked for, which makes the server
//! forget the ones before. After a crash in between they come again, and the journal knows their ids.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::access::Access;
use super::api::{Api, ApiError, POLL};
use super::media;
use super::send::Sender;
use super::state::{Kept, Stranger};
use super::update::{self, Bot, For, Letter};
use crate::engine::Acceptance;
use crate::engine::cancel::CancelToken;
use crate::engine::now_ms;
use crate::engine::ports::{Acceptor, ChannelNews, Exit};
use crate::message::Inbound;
use crate::net::dice::Dice;
use crate::text;

/// For the question who the bot is.
const ME_LIMIT: Duration = Duration::from_secs(20);
/// The first wait after a failure; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest one.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// How long the engine is left alone that takes no more; twice as long each time.
const FULL_WAIT: Duration = Duration::from_secs(5);
/// Between the parts of an album.
const ALBUM_WAIT: Duration = Duration::from_millis(700);
/// How often more of it is looked for; an album has ten parts at most.
const ALBUM_LOOKS: usize = 5;
/// Length of a stranger's name, in UTF-16 units.
const NAME: usize = 64;

/// What asking needs.
pub struct Poll<'a> {
    /// Id of the channel.
    pub channel: &'a str,
    /// The agent.
    pub account: &'a str,
    /// The Bot API.
    pub api: &'a Api,
    /// What a restart goes on from.
    pub kept: &'a Kept,
    /// Whose messages count.
    pub access: &'a Access,
    /// Where files go.
    pub workspace: &'a PathBuf,
    /// Who takes messages.
    pub engine: &'a dyn Acceptor,
    /// Who sends, for the time when it did last.
    pub sender: &'a Arc<Sender>,
    /// Set when it is to end.
    pub stop: &'a CancelToken,
    /// Takes news.
    pub tell: &'a dyn Fn(ChannelNews),
}

/// Why a wait is needed.
enum Trouble {
    /// The server.
    Api(ApiError),
    /// The engine takes no more for now.
    Full(String),
}

impl Poll<'_> {
    /// Asks until it is to end, or until no asking will help.
    pub fn run(&self) -> Exit {
        let (mut bot, mut failures) = (None, 0);
        let mut from = self.kept.look().resume(now_ms());
        loop {
            if self.stop.is_cancelled() {
                return Exit::Ended;
            }
            let trouble = match &bot {
                None => self.who().map(|found| bot = Some(found)),
                Some(bot) => self.round(bot, &mut from),
            };
            let Err(trouble) = trouble else {
                failures = 0;
                continue;
            };
            let wait = match trouble {
                Trouble::Api(ApiError::Aborted) => continue,
                Trouble::Api(ApiError::Token) => {
                    self.news(ChannelNews { authorized: Some(false), ..ChannelNews::default() });
                    return Exit::Permanent(ApiError::Token.to_string());
                }
                Trouble::Api(e) => {
                    failures += 1;
                    let wait = wait(failures, &e);
                    self.failed(&e, failures, wait);
                    wait
                }
                Trouble::Full(why) => {
                    failures += 1;
                    log::warn!("telegram.held channel={} error={why:?}", self.channel);
                    doubled(FULL_WAIT, failures)
                }
            };
            if self.stop.sleep(wait) {
                return Exit::Ended;
            }
        }
    }

    fn who(&self) -> Result<Bot, Trouble> {
        let me = self.api.me(ME_LIMIT, self.stop.as_fd()).map_err(Trouble::Api)?;
        let bot = Bot::read(&me).ok_or_else(|| Trouble::Api(ApiError::Down("the answer names no bot".into())))?;
        log::info!("telegram.connected channel={} bot=@{}", self.channel, bot.username);
        if self.access.is_closed() {
            let help = "bellhop gateway list shows who writes; bellhop gateway add ID --chat CHAT lets them";
            log::warn!("telegram.closed channel={} why=\"nobody is allowed\" help={help:?}", self.channel);
        }
        // The first long poll may last; the bot is known to be there already.
        self.news(ChannelNews { connected: Some(true), authorized: Some(true), ..ChannelNews::default() });
        Ok(bot)
    }

    fn failed(&self, error: &ApiError, failures: u32, wait: Duration) {
        let why = match error {
            ApiError::Conflict(why) if why.contains("webhook") => {
                format!("{error}; delete the webhook of the bot (deleteWebhook) to get them here")
            }
            ApiError::Conflict(_) => format!("{error}; only one program may ask for a bot's messages"),
            other => other.to_string(),
        };
        log::warn!("telegram.poll_failed channel={} again_ms={} error={why:?}", self.channel, wait.as_millis());
        // Too many requests are no loss of the connection.
        let connected = matches!(error, ApiError::Limited(_)).then_some(true).or(Some(false));
        let attempts = Some(u64::from(failures));
        self.news(ChannelNews { connected, reconnect_attempts: attempts, ..ChannelNews::default() });
        self.news(ChannelNews { last_error: Some(why), ..ChannelNews::default() });
    }

    fn news(&self, news: ChannelNews) {
        (self.tell)(ChannelNews { last_send_at: self.sender.last_at(), ..news });
    }

    /// One long poll and what it brought. `from`: the first update that is wanted, until the server has heard of it. It
    /// remembers; and as after a quiet week updates are counted anew, it must not be told for ever.
    fn round(&self, bot: &Bot, from: &mut Option<i64>) -> Result<(), Trouble> {
        let updates = self.ask(*from).map_err(Trouble::Api)?;
        let now = now_ms();
        let last_inbound_at = (!updates.is_empty()).then_some(now);
        self.news(ChannelNews {
            connected: Some(true),
            authorized: Some(true),
            reconnect_attempts: Some(0),
            last_poll_at: Some(now),
            last_inbound_at,
            ..ChannelNews::default()
        });
        *from = None;
        if updates.is_empty() {
            return Ok(());
        }
        self.take(&updates, bot, from)
    }

    /// The next updates. The parts of an album come one after the other: when the last update is one, the rest is waited
    /// for a moment. Asking from the same update again gives all of them once more.
    fn ask(&self, offset: Option<i64>) -> Result<Vec<Value>, ApiError> {
        let mut updates = self.api.updates(offset, POLL, self.stop.as_fd())?;
        for _ in 0..ALBUM_LOOKS {
            let is_album = updates.last().is_some_and(|u| !u["message"]["media_group_id"].is_null());
            if !is_album || self.stop.sleep(ALBUM_WAIT) {
                break;
            }
            let more = self.api.updates(offset, Duration::ZERO, self.stop.as_fd())?;
            if more.len() <= updates.len() {
                break;
            }
            updates = more;
        }
        Ok(updates)
    }

    /// Gives the engine what counts, and moves on as far as it was taken.
    fn take(&self, updates: &[Value], bot: &Bot, from: &mut Option<i64>) -> Result<(), Trouble> {
        let (mut next, mut strangers) = (None::<i64>, Vec::new());
        // Each letter with the first update that is behind it.
        let mut letters: Vec<(i64, Letter)> = Vec::new();
        for update in updates {
            let Some((number, read)) = update::read(update, bot) else {
                log::warn!("telegram.odd_update channel={}", self.channel);
                continue;
            };
            let behind = number.saturating_add(1);
            next = next.max(Some(behind));
            if let Some(to) = update["message"]["migrate_to_chat_id"].as_i64() {
                let from = &update["message"]["chat"]["id"];
                let help = "allow the new id: bellhop gateway add ID --chat CHAT";
                log::warn!("telegram.chat_moved channel={} from={from} to={to} help={help:?}", self.channel);
            }
            match read {
                Ok(letter) if self.access.hears(letter.chat, letter.sender) => letters.push((behind, letter)),
                Ok(letter) => strangers.push(stranger(&letter)),
                Err(why) => log::debug!("telegram.skipped channel={} update={number} why={why}", self.channel),
            }
        }
        let letters = update::join_albums(letters);
        let mut messages: Vec<Inbound> = Vec::new();
        let mut ends = Vec::new();
        for (behind, letter) in letters {
            let known = self.engine.knows(self.channel, &update::message_id(letter.chat, letter.message));
            // The files of what is known already were fetched, and may be in use.
            let attached = match known {
                Some(_) => Vec::new(),
                None => media::fetch(self.api, self.channel, self.workspace, &letter, self.stop.as_fd())
                    .map_err(Trouble::Api)?,
            };
            messages.push(update::inbound(
                letter,
                attached,
                For { channel: self.channel, account: self.account },
                now_ms(),
            ));
            ends.push(behind);
        }
        let answers = if messages.is_empty() { Vec::new() } else { self.engine.accept(messages) };
        let refused = answers.iter().zip(&ends).enumerate().find_map(|(n, (answer, _))| match answer {
            Acceptance::Refused(why) => Some((n, why.clone())),
            _ => None,
        });
        // What was taken behind a message that was not comes again, and is known then.
        let reached = match &refused {
            None => next,
            Some((n, _)) => n.checked_sub(1).and_then(|last| ends.get(last)).copied(),
        };
        *from = reached;
        self.kept.change(|state| {
            if let Some(reached) = reached {
                (state.offset, state.at) = (Some(reached), now_ms());
            }
            for stranger in strangers.into_iter().filter(|_| refused.is_none()) {
                let Stranger { chat, sender, .. } = stranger;
                // Once is enough: whoever wants to fill the log writes often.
                if state.ignore(stranger) {
                    log::info!("telegram.not_allowed channel={} chat={chat} sender={sender}", self.channel);
                }
            }
        });
        refused.map_or(Ok(()), |(_, why)| Err(Trouble::Full(why)))
    }
}

fn stranger(letter: &Letter) -> Stranger {
    let name = letter.name.as_deref().unwrap_or_default();
    // For the terminal of whoever looks; nothing in it steers one.
    let name: String = text::head(name, NAME).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Stranger { chat: letter.chat, sender: letter.sender, name, at: now_ms() }
}

/// How long to wait after so many failures in a row, or as long as the server says; a fifth more or less, so that bots
/// which failed together do not come back together.
fn wait(failures: u32, error: &ApiError) -> Duration {
    if let ApiError::Limited(after) = error {
        return *after;
    }
    doubled(FIRST_WAIT, failures).mul_f64(0.8 + 0.4 * Dice::default().roll())
}

fn doubled(first: Duration, failures: u32) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_bound_and_obey_the_server() {
        let down = ApiError::Down("x".into());
        for (failures, expected) in [(1, 1.0), (2, 2.0), (5, 16.0), (7, 60.0), (100, 60.0)] {
            let seconds = wait(failures, &down).as_secs_f64();
            assert!((expected * 0.79..=expected * 1.21).contains(&seconds), "{failures}: {seconds}");
        }
        assert_eq!(wait(3, &ApiError::Limited(Duration::from_secs(7))), Duration::from_secs(7));
    }
}
