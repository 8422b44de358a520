//! The token of an agent: one at a time, shared by everything that asks the hub, renewed by one caller for all (the
//! hub's protocol, §7.4).
//!
//! A new token makes every older one useless, also those that other programs have got with the same file. So the file
//! is looked at, under its lock, before a new one is asked for.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::credentials::CredentialsFile;
use super::error::ApiError;
use super::refusal;
use crate::store::LockFailure;

/// A token is not used any more for so many seconds before its end.
const MARGIN: f64 = 60.0;
/// The longest wait for the file's lock, seconds of one refresh of somebody else included.
const LOCK_LIMIT: Duration = Duration::from_secs(15);
/// The longest pause after failures.
const PAUSE_MAX: Duration = Duration::from_mins(1);
/// Nonces that are tried when the hub has seen one before.
const NONCES: usize = 3;
/// How long a token is good when the hub does not say, in seconds.
pub const DAY: i64 = 86_400;

/// The time of day as the hub has it, as far as is known.
#[derive(Debug, Default)]
pub struct Clock {
    offset: AtomicI64,
}

impl Clock {
    /// Unix seconds.
    pub fn now(&self) -> i64 {
        crate::store::now_ms() / 1_000 + self.offset.load(Ordering::Relaxed)
    }

    /// Goes by a hub's clock from now on (Unix seconds). Returns by how much that is off from this machine's.
    pub fn adopt(&self, hub: i64) -> i64 {
        let offset = hub - crate::store::now_ms() / 1_000;
        self.offset.store(offset, Ordering::Relaxed);
        offset
    }
}

/// A token as the hub gives it.
#[derive(Clone, PartialEq)]
pub struct Fresh {
    /// The token. Secret.
    pub token: String,
    /// Until when it is good, by the hub's clock (Unix seconds).
    pub expires_at: i64,
    /// What that clock said with it, where it did.
    pub date: Option<i64>,
}

/// What getting a token needs of the world.
pub trait Source {
    /// Asks the hub for a token.
    fn fetch(&self) -> Result<Fresh, ApiError>;

    /// Whether nothing is to be waited for any more.
    fn is_stopped(&self) -> bool;
}

/// The token of an agent.
pub struct Tokens {
    state: Mutex<State>,
    landed: Condvar,
    file: Option<CredentialsFile>,
    clock: Arc<Clock>,
    /// Stands for the agent in the log.
    mark: String,
}

#[derive(Default)]
struct State {
    token: Option<String>,
    /// Unix seconds of [`Tokens::clock`].
    expires_at: f64,
    /// The last one that the hub has refused: what a file says does not make it good again.
    refused: Option<String>,
    /// Somebody is getting a new one.
    busy: bool,
    /// How many times somebody came back from that.
    landings: u64,
    /// With what, when it was not a token.
    failed: Option<ApiError>,
    failures: u32,
    pause_until: Option<Instant>,
    /// Tokens so far.
    generation: u64,
}

/// Says that the flight is over, however it ended.
struct Flight<'a>(&'a Tokens);

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if std::mem::take(&mut state.busy) {
            // Only a panic gets here.
            state.landings += 1;
            state.failed = Some(ApiError::NoToken("asking for one has failed badly".into()));
        }
        drop(state);
        self.0.landed.notify_all();
    }
}

impl Tokens {
    /// Begins with the token of the credentials. `file`: where tokens are kept for other programs and the next start.
    pub fn new(token: Option<(String, f64)>, file: Option<CredentialsFile>, clock: Arc<Clock>, mark: String) -> Self {
        let (token, expires_at) = token.map_or((None, 0.0), |(token, end)| (Some(token), end));
        let state = State { token, expires_at, ..State::default() };
        Self { state: Mutex::new(state), landed: Condvar::new(), file, clock, mark }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_good(&self, expires_at: f64) -> bool {
        (self.clock.now() as f64) < expires_at - MARGIN
    }

    /// A token. `failed`: one that the hub has refused; then another one. Waits while somebody else is getting one, and
    /// shares the result. After failures it is a while before the hub is asked again.
    pub fn get(&self, failed: Option<&str>, source: &dyn Source) -> Result<String, ApiError> {
        let mut state = self.lock();
        loop {
            let current = state.token.as_deref().filter(|t| Some(*t) != failed && self.is_good(state.expires_at));
            if let Some(token) = current {
                return Ok(token.to_owned());
            }
            if !state.busy {
                break;
            }
            let landings = state.landings;
            while state.busy && state.landings == landings {
                state = self.landed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            match (&state.failed, &state.token) {
                (Some(error), _) => return Err(error.clone()),
                // As fresh as can be, however soon it ends.
                (None, Some(token)) if Some(token.as_str()) != failed => return Ok(token.clone()),
                _ => {}
            }
        }
        if let (Some(until), Some(error)) = (state.pause_until, &state.failed)
            && Instant::now() < until
        {
            return Err(ApiError::NoToken(error.to_string()));
        }
        state.busy = true;
        let known = state.token.clone();
        if let Some(failed) = failed {
            state.refused = Some(failed.to_owned());
            // Nobody is to use it meanwhile.
            state.token.take_if(|token| token == failed);
        }
        let refused = state.refused.clone();
        drop(state);
        let _flight = Flight(self);
        let reason = if failed.is_some() { "rest_401" } else { "missing_or_expiring" };
        log::debug!("botcord.token_refresh who={} reason={reason}", self.mark);
        let result = self.renew(&[known, refused], source);
        self.land(result)
    }

    /// Takes a token that another program has put into the file, none of the `known` ones, else a new one.
    fn renew(&self, known: &[Option<String>], source: &dyn Source) -> Result<(String, f64, &'static str), ApiError> {
        let mut lock = None;
        if let Some(file) = &self.file {
            match file.lock(LOCK_LIMIT, &|| source.is_stopped()) {
                Ok(held) => lock = Some(held),
                Err(LockFailure::Held) if source.is_stopped() => return Err(ApiError::Stopped { sent: false }),
                Err(LockFailure::Held) => {
                    return Err(ApiError::NoToken("another program keeps the lock of the credentials".into()));
                }
                // Without a lock two programs may waste a token; that is no reason to have none.
                Err(LockFailure::Unusable(e)) => log::debug!("botcord.token_lock who={} error={e}", self.mark),
            }
            if let Some((token, end)) =
                file.token().filter(|(token, end)| !known.iter().flatten().any(|k| k == token) && self.is_good(*end))
            {
                return Ok((token, end, "reused"));
            }
        }
        let fresh = fetch(source)?;
        if let Some(file) = &self.file
            && let Err(e) = file.save_token(&fresh.token, fresh.expires_at)
        {
            // The one in memory is as good.
            log::debug!("botcord.token_save who={} error={e}", self.mark);
        }
        drop(lock);
        // By our clock, whatever the two clocks say.
        let end = fresh.date.map_or(fresh.expires_at, |date| fresh.expires_at - date + self.clock.now());
        Ok((fresh.token, end as f64, "succeeded"))
    }

    fn land(&self, result: Result<(String, f64, &'static str), ApiError>) -> Result<String, ApiError> {
        let mut state = self.lock();
        state.busy = false;
        state.landings += 1;
        match result {
            Ok((token, expires_at, how)) => {
                state.generation += 1;
                state.failures = 0;
                (state.failed, state.pause_until) = (None, None);
                (state.token, state.expires_at) = (Some(token.clone()), expires_at);
                log::debug!("botcord.token_{how} who={} generation={}", self.mark, state.generation);
                Ok(token)
            }
            Err(error) => {
                state.failures = state.failures.saturating_add(1);
                let mut pause = Duration::from_secs(1 << (state.failures - 1).min(6)).min(PAUSE_MAX);
                if error.refusal().is_some_and(|r| refusal::classify(r, true).is_some()) {
                    // The next answer decides, and must not come too early to count.
                    pause = pause.max(refusal::APART);
                }
                let stopped = matches!(error, ApiError::Stopped { .. });
                state.pause_until = (!stopped).then(|| Instant::now() + pause);
                log::debug!("botcord.token_failed who={} failures={} error={error}", self.mark, state.failures);
                state.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    /// The token of the moment, good or not.
    #[cfg(test)]
    fn current(&self) -> Option<String> {
        self.lock().token.clone()
    }
}

/// Asks for a token, with another nonce where the hub has seen the first.
fn fetch(source: &dyn Source) -> Result<Fresh, ApiError> {
    let mut tried = 1;
    loop {
        match source.fetch() {
            Err(e) if tried < NONCES && e.is("nonce_already_used") => tried += 1,
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::channel::botcord::credentials::{CredentialsFile, fields};
    use crate::channel::botcord::error::Refusal;
    use crate::store::RealDisk;
    use crate::store::tests::TempDir;

    /// A hub that gives `t1`, `t2`, … or the errors that were put in.
    #[derive(Default)]
    struct Hub {
        asked: AtomicUsize,
        errors: Mutex<Vec<ApiError>>,
        lifetime: i64,
        skew: i64,
    }

    impl Source for Hub {
        fn fetch(&self) -> Result<Fresh, ApiError> {
            let n = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
            if let Some(error) = self.errors.lock().unwrap().pop() {
                return Err(error);
            }
            let now = Clock::default().now() + self.skew;
            Ok(Fresh { token: format!("t{n}"), expires_at: now + self.lifetime, date: Some(now) })
        }

        fn is_stopped(&self) -> bool {
            false
        }
    }

    fn hub() -> Hub {
        Hub { lifetime: 86_400, ..Hub::default() }
    }

    fn refused(status: u16, code: &str) -> ApiError {
        ApiError::Refused(Box::new(Refusal::new(status, format!("{{\"code\":{code:?}}}").as_bytes())))
    }

    fn tokens(token: Option<(&str, f64)>) -> Tokens {
        Tokens::new(token.map(|(t, e)| (t.to_owned(), e)), None, Arc::default(), "mark".into())
    }

    fn in_seconds(seconds: i64) -> f64 {
        (Clock::default().now() + seconds) as f64
    }

    #[test]
    fn a_good_token_is_used_and_a_bad_one_replaced() {
        let hub = hub();
        let tokens = tokens(Some(("t0", in_seconds(120))));
        assert_eq!(tokens.get(None, &hub).unwrap(), "t0");
        assert_eq!(tokens.get(Some("t0"), &hub).unwrap(), "t1");
        // Somebody who still has the old one is told of the new one.
        assert_eq!(tokens.get(Some("t0"), &hub).unwrap(), "t1");
        assert_eq!(hub.asked.load(Ordering::SeqCst), 1);
        let tokens = self::tokens(Some(("t0", in_seconds(59))));
        assert_eq!(tokens.get(None, &hub).unwrap(), "t2");
    }

    #[test]
    fn many_ask_and_one_goes() {
        let (hub, tokens, start) = (hub(), tokens(None), Barrier::new(8));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    assert_eq!(tokens.get(None, &hub).unwrap(), "t1");
                });
            }
        });
        assert_eq!(hub.asked.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_failure_is_not_repeated_at_once() {
        let hub = hub();
        hub.errors.lock().unwrap().push(refused(500, "x"));
        let tokens = tokens(None);
        assert_eq!(tokens.get(None, &hub).unwrap_err().status(), Some(500));
        assert!(matches!(tokens.get(None, &hub), Err(ApiError::NoToken(_))));
        assert_eq!(hub.asked.load(Ordering::SeqCst), 1);
        tokens.lock().pause_until = Some(Instant::now());
        assert_eq!(tokens.get(None, &hub).unwrap(), "t2");
    }

    #[test]
    fn pauses_grow_and_a_terminal_answer_has_a_long_one() {
        let hub = hub();
        let tokens = tokens(None);
        let mut pauses = Vec::new();
        for code in ["x", "x", "x", "x", "x", "x", "x", "x", "agent_not_found"] {
            hub.errors.lock().unwrap().push(refused(404, code));
            tokens.lock().pause_until = None;
            tokens.get(None, &hub).unwrap_err();
            let left = tokens.lock().pause_until.unwrap() - Instant::now();
            pauses.push(left.as_secs_f64().ceil() as u64);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        let tokens = self::tokens(None);
        hub.errors.lock().unwrap().push(refused(404, "agent_not_found"));
        tokens.get(None, &hub).unwrap_err();
        assert!(tokens.lock().pause_until.unwrap() - Instant::now() > Duration::from_secs(29));
    }

    #[test]
    fn a_nonce_that_was_seen_before_is_replaced() {
        let hub = hub();
        hub.errors.lock().unwrap().extend([refused(409, "nonce_already_used"), refused(409, "nonce_already_used")]);
        assert_eq!(tokens(None).get(None, &hub).unwrap(), "t3");
    }

    #[test]
    fn the_hubs_clock_may_be_wrong() {
        let hub = Hub { skew: -1_000_000, ..hub() };
        let tokens = tokens(None);
        assert_eq!(tokens.get(None, &hub).unwrap(), "t1");
        assert_eq!(tokens.get(None, &hub).unwrap(), "t1");
        assert_eq!(hub.asked.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn another_programs_token_is_taken_from_the_file() {
        let dir = TempDir::new();
        let path = dir.0.join("ag_1.json");
        let text = |token: &str, end: i64| {
            format!(
                r#"{{"hub":"https://h","agentId":"ag_1","keyId":"k_1","token":"{token}","tokenExpiresAt":{},
                "privateKey":"BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU="}}"#,
                in_seconds(end)
            )
        };
        std::fs::write(&path, text("t0", 3_600)).unwrap();
        let credentials = fields::parse(&text("t0", 3_600)).unwrap();
        let file = CredentialsFile::new(&path, &credentials, Arc::new(RealDisk));
        let tokens =
            Tokens::new(Some(("t0".into(), in_seconds(3_600))), Some(file.clone()), Arc::default(), "m".into());
        let hub = hub();
        std::fs::write(&path, text("theirs", 3_600)).unwrap();
        assert_eq!(tokens.get(Some("t0"), &hub).unwrap(), "theirs");
        assert_eq!(hub.asked.load(Ordering::SeqCst), 0);
        // It is refused as well, and is still what the file has: a new one then, which the file gets.
        assert_eq!(tokens.get(Some("theirs"), &hub).unwrap(), "t1");
        assert_eq!(file.token().unwrap().0, "t1");
        // One that has ended is not taken.
        std::fs::write(&path, text("old", 30)).unwrap();
        assert_eq!(tokens.get(Some("t1"), &hub).unwrap(), "t2");
        assert_eq!(tokens.current().as_deref(), Some("t2"));
        // The file still has the one that was refused, and asking for another one has failed: it is not good again.
        hub.errors.lock().unwrap().push(refused(500, "x"));
        tokens.get(Some("t2"), &hub).unwrap_err();
        for failed in [None, Some("t2")] {
            tokens.lock().pause_until = None;
            hub.errors.lock().unwrap().push(refused(500, "x"));
            tokens.get(failed, &hub).unwrap_err();
        }
        assert_eq!(file.token().unwrap().0, "t2");
    }
}
