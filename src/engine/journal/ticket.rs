//! Who waits for a record to be durable, and how they are told.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::JournalError;

/// What is called once a record is durable, or cannot be.
pub type Then = Box<dyn FnOnce(Result<(), JournalError>) + Send>;

/// The promise that a record will be durable. Need not be kept: the record is written all the same.
#[derive(Clone, Debug)]
pub struct Ticket(Arc<Slot>);

#[derive(Debug, Default)]
struct Slot {
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Debug, Default)]
struct State {
    result: Option<Result<(), JournalError>>,
    /// Somebody sleeps until there is one.
    waiting: bool,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    fn settle(&self, result: Result<(), JournalError>) {
        let mut slot = self.0.lock();
        slot.result.get_or_insert(result);
        let waited_for = slot.waiting;
        // Whoever wakes must not find it locked, and to wake nobody is a call of the system, too.
        drop(slot);
        if waited_for {
            self.0.ready.notify_all();
        }
    }

    /// Sleeps until the record survives a loss of power (`Ok`) or could not be written. Must not be called
    /// on the journal's own thread (from [`super::Journal::append_then`]): it would wait for itself.
    pub fn wait(&self) -> Result<(), JournalError> {
        let mut slot = self.0.lock();
        slot.waiting |= slot.result.is_none();
        let slot = self.0.ready.wait_while(slot, |s| s.result.is_none()).unwrap_or_else(PoisonError::into_inner);
        slot.result.clone().unwrap_or(Err(JournalError::Closed))
    }

    /// The answer of [`Ticket::wait`], if it is there already.
    pub fn result(&self) -> Option<Result<(), JournalError>> {
        self.0.lock().result.clone()
    }
}

/// The journal's side of a promise. One that is dropped says that the journal is closed, so that nobody
/// waits for ever.
pub(super) struct Waiter(Option<Kind>);

enum Kind {
    Ticket(Ticket),
    Then(Then),
}

impl Waiter {
    pub(super) fn ticket(ticket: Ticket) -> Self {
        Self(Some(Kind::Ticket(ticket)))
    }

    pub(super) fn then(then: Then) -> Self {
        Self(Some(Kind::Then(then)))
    }

    pub(super) fn settle(mut self, result: Result<(), JournalError>) {
        self.tell(result);
    }

    fn tell(&mut self, result: Result<(), JournalError>) {
        match self.0.take() {
            Some(Kind::Ticket(ticket)) => ticket.settle(result),
            Some(Kind::Then(then)) => {
                // The journal serves everybody: one caller's mistake must not end it.
                let called = catch_unwind(AssertUnwindSafe(|| then(result)));
                called.unwrap_or_else(|_| log::error!("journal.panic in=callback"));
            }
            None => {}
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.tell(Err(JournalError::Closed));
    }
}
