//! Frames that wait to be carried out: those of one agent in order, those of different ones side by side.
//!
//! A lane has a thread as long as it has work. At most [`WAITING`] frames wait in all; whoever comes then is told that
//! the daemon is busy.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::frame::{Frame, Handled, Refused};
use crate::thread;

/// Frames that may wait or run in all.
pub const WAITING: usize = 256;
/// Frames that take long and leave their lane free.
const SLOW: &[&str] = &[
    "list_runtimes",
    "collect_diagnostics",
    "test_gateway",
    "gateway_send",
    "gateway_login_start",
    "gateway_login_status",
    "gateway_recent_senders",
    "cloud_gateway_runtime_inbound",
];

/// Carries out frames. Called on a lane's thread; may take as long as the hub waits for the answer.
pub trait Duties: Send + Sync {
    /// Does what a frame asks for.
    fn carry_out(&self, frame: &Frame) -> Handled;
}

/// Takes the answer to a frame, on the lane's thread.
pub type Done = Arc<dyn Fn(&Frame, Handled) + Send + Sync>;

/// All lanes.
pub struct Lanes {
    inner: Arc<Inner>,
}

struct Inner {
    duties: Arc<dyn Duties>,
    done: Done,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What waits behind the frame that runs, by lane; a lane that is here has a thread.
    lanes: HashMap<String, VecDeque<Frame>>,
    /// Frames that wait or run.
    count: usize,
    /// Makes the names of slow lanes different.
    slow: u64,
}

impl Lanes {
    /// No lanes yet.
    pub fn new(duties: Arc<dyn Duties>, done: Done) -> Self {
        Self { inner: Arc::new(Inner { duties, done, state: Mutex::default() }) }
    }

    /// Has a frame carried out in its turn. An answer is returned only when it cannot be.
    pub fn push(&self, frame: Frame) -> Option<Handled> {
        let mut state = self.inner.lock();
        if state.count >= WAITING {
            return Some(Err(Refused::new("busy", format!("{WAITING} frames wait already"))));
        }
        state.count += 1;
        let key = if SLOW.contains(&frame.kind.as_str()) {
            state.slow += 1;
            format!("\n{}", state.slow)
        } else {
            lane(&frame)
        };
        if let Some(waiting) = state.lanes.get_mut(&key) {
            waiting.push_back(frame);
            return None;
        }
        state.lanes.insert(key.clone(), VecDeque::from([frame]));
        drop(state);
        let inner = Arc::clone(&self.inner);
        let lane = key.clone();
        let started = thread::spawn("control:lane", move || inner.work(&lane));
        match started {
            Ok(_) => None,
            Err(e) => {
                let mut state = self.inner.lock();
                // Nobody has taken anything from a lane whose thread never was; others may have joined it.
                let frames = state.lanes.remove(&key).unwrap_or_default();
                state.count -= frames.len();
                drop(state);
                for frame in &frames {
                    (self.inner.done)(frame, Err(Refused::failed(format!("no thread for it: {e}"))));
                }
                None
            }
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lane's thread: until nothing waits.
    fn work(&self, key: &str) {
        loop {
            let frame = {
                let mut state = self.lock();
                let Some(frame) = state.lanes.get_mut(key).and_then(VecDeque::pop_front) else {
                    state.lanes.remove(key);
                    return;
                };
                frame
            };
            let handled = catch_unwind(AssertUnwindSafe(|| self.duties.carry_out(&frame)))
                .unwrap_or_else(|_| Err(Refused::failed("the daemon failed while it carried this out")));
            self.lock().count -= 1;
            (self.done)(&frame, handled);
        }
    }
}

/// The agent that a frame is about; blank for the daemon itself.
fn lane(frame: &Frame) -> String {
    let name =
        ["agentId", "agent_id", "accountId"].iter().find_map(|key| frame.params.get(*key).and_then(Value::as_str));
    let nested = || frame.params.get("credentials")?.get("agentId")?.as_str();
    name.or_else(nested).unwrap_or("").to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use serde_json::json;

    use super::*;

    fn frame(id: usize, kind: &str, params: Value) -> Frame {
        Frame { id: id.to_string(), kind: kind.into(), params, ts: None, sig: None }
    }

    /// Tells what it begins, and goes on when it is let.
    struct Slow {
        begun: Mutex<Sender<String>>,
        go: Mutex<HashMap<String, Receiver<()>>>,
    }

    impl Duties for Slow {
        fn carry_out(&self, frame: &Frame) -> Handled {
            self.begun.lock().unwrap().send(frame.id.clone()).unwrap();
            let go = self.go.lock().unwrap().remove(&frame.id);
            if let Some(go) = go {
                go.recv().unwrap();
            }
            assert_ne!(frame.kind, "boom", "contained");
            Ok(Some(json!(frame.id)))
        }
    }

    #[test]
    fn one_agents_frames_keep_their_order_and_others_pass_them() {
        let ((begun_tx, begun), (let_first, first)) = (channel(), channel());
        let go = HashMap::from([("0".to_owned(), first)]);
        let (done_tx, done) = channel();
        let done_tx = Mutex::new(done_tx);
        let lanes = Lanes::new(
            Arc::new(Slow { begun: Mutex::new(begun_tx), go: Mutex::new(go) }),
            Arc::new(move |frame: &Frame, handled| done_tx.lock().unwrap().send((frame.id.clone(), handled)).unwrap()),
        );
        assert_eq!(lanes.push(frame(0, "update_agent", json!({"agentId": "a"}))), None);
        assert_eq!(begun.recv().unwrap(), "0");
        assert_eq!(lanes.push(frame(1, "boom", json!({"agent_id": "a"}))), None);
        assert_eq!(lanes.push(frame(2, "update_agent", json!({"agentId": "b"}))), None);
        assert_eq!(begun.recv().unwrap(), "2", "another agent's");
        assert_eq!(done.recv().unwrap(), ("2".into(), Ok(Some(json!("2")))));
        assert_eq!(lanes.push(frame(3, "list_runtimes", json!({"agentId": "a"}))), None);
        assert_eq!(begun.recv().unwrap(), "3", "slow ones leave the lane free");
        assert_eq!(done.recv().unwrap().0, "3");
        let_first.send(()).unwrap();
        assert_eq!(done.recv().unwrap().0, "0");
        let (id, handled) = done.recv().unwrap();
        assert_eq!((id.as_str(), handled.unwrap_err().code), ("1", "handler_error"));
    }

    #[test]
    fn beyond_the_bound_the_daemon_is_busy() {
        let ((begun_tx, begun), (let_first, first)) = (channel(), channel());
        let go = HashMap::from([("0".to_owned(), first)]);
        let (done_tx, done) = channel();
        let done_tx = Mutex::new(done_tx);
        let lanes = Lanes::new(
            Arc::new(Slow { begun: Mutex::new(begun_tx), go: Mutex::new(go) }),
            Arc::new(move |frame: &Frame, _| done_tx.lock().unwrap().send(frame.id.clone()).unwrap()),
        );
        for n in 0..WAITING {
            assert_eq!(lanes.push(frame(n, "x", json!({}))), None);
        }
        assert_eq!(begun.recv().unwrap(), "0");
        let refused = lanes.push(frame(WAITING, "x", json!({}))).unwrap().unwrap_err();
        assert_eq!(refused.code, "busy");
        let_first.send(()).unwrap();
        let order: Vec<String> = (0..WAITING).map(|_| done.recv().unwrap()).collect();
        assert_eq!(order, (0..WAITING).map(|n| n.to_string()).collect::<Vec<_>>());
        assert_eq!(lanes.push(frame(WAITING, "x", json!({}))), None);
    }
}
