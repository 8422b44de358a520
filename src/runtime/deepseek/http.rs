//! Requests to DeepSeek's server, and its event stream on a thread of its own.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::sse::{Frame, Splitter};
use crate::engine::cancel::CancelToken;
use crate::json;
use crate::text;
use crate::thread;

/// For a whole request, except the event stream.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// For one read of the event stream; servers say something to keep a connection alive far more often.
const STREAM_READ_LIMIT: Duration = Duration::from_mins(10);
/// Largest answer that is read, in bytes.
const BODY_LIMIT: u64 = 4 * 1_048_576;
/// How much of an error's body is shown, in UTF-16 units.
const ERROR_BODY: usize = 300;
/// Frames that may wait for the turn; the reader blocks then, and the server with it.
const FRAMES_WAITING: usize = 256;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `http://127.0.0.1:<port>`, without a slash at the end.
    pub base: String,
    /// Secret; never logged.
    pub token: Option<String>,
}

/// A client of one server.
#[derive(Clone)]
pub struct Client {
    endpoint: Endpoint,
    requests: ureq::Agent,
    stream: ureq::Agent,
}

/// A request that failed, for people.
#[derive(Debug, PartialEq, Eq)]
pub struct HttpError(pub String);

impl Client {
    /// A client. A proxy of the environment is never used: the server is on this machine.
    pub fn new(endpoint: Endpoint) -> Self {
        let config = || {
            let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).max_redirects(0);
            config.max_redirects_will_error(false)
        };
        let requests = config().timeout_global(Some(REQUEST_LIMIT)).build().new_agent();
        let stream = config()
            .timeout_connect(Some(REQUEST_LIMIT))
            .timeout_recv_response(Some(REQUEST_LIMIT))
            .timeout_per_read(Some(STREAM_READ_LIMIT))
            .build()
            .new_agent();
        Self { endpoint, requests, stream }
    }

    /// Whether the server says that it is ready.
    pub fn is_healthy(&self) -> bool {
        let request = self.requests.get(format!("{}/health", self.endpoint.base));
        self.authorised(request).call().is_ok_and(|answer| answer.status().is_success())
    }

    fn authorised<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.endpoint.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    /// `POST` with a JSON body. An answer that is not what it should be is the default of `T`.
    pub fn post<T: DeserializeOwned + Default>(&self, path: &str, body: &impl Serialize) -> Result<T, HttpError> {
        let request = self.requests.post(format!("{}{path}", self.endpoint.base));
        self.send(request, body)
    }

    /// `PATCH` with a JSON body.
    pub fn patch<T: DeserializeOwned + Default>(&self, path: &str, body: &impl Serialize) -> Result<T, HttpError> {
        let request = self.requests.patch(format!("{}{path}", self.endpoint.base));
        self.send(request, body)
    }

    fn send<T: DeserializeOwned + Default>(
        &self,
        request: ureq::RequestBuilder<ureq::typestate::WithBody>,
        body: &impl Serialize,
    ) -> Result<T, HttpError> {
        let body = json::to_vec(body).map_err(|e| HttpError(e.to_string()))?;
        Ok(json::from_str(&self.send_bytes(request, &body)?).unwrap_or_default())
    }

    fn send_bytes(
        &self,
        request: ureq::RequestBuilder<ureq::typestate::WithBody>,
        body: &[u8],
    ) -> Result<String, HttpError> {
        let request = self.authorised(request).header("content-type", "application/json");
        let answer = request.send(body).map_err(|e| HttpError(e.to_string()))?;
        read_ok(answer)
    }

    /// Opens the event stream of a thread. `wake` is woken for every frame and at the end.
    pub fn events(&self, path: &str, name: &str, wake: &CancelToken) -> Result<Events, HttpError> {
        let request = self.stream.get(format!("{}{path}", self.endpoint.base)).header("accept", "text/event-stream");
        let answer = self.authorised(request).call().map_err(|e| HttpError(e.to_string()))?;
        if !answer.status().is_success() {
            return Err(refused(answer));
        }
        let (sender, frames) = bounded(FRAMES_WAITING);
        let closed = Arc::new(AtomicBool::new(false));
        let (wake, is_closed) = (wake.clone(), closed.clone());
        let mut body = answer.into_body().into_reader();
        let read = move || {
            let mut splitter = Splitter::default();
            let mut buffer = [0; 16 * 1024];
            while !is_closed.load(Ordering::Relaxed) {
                let read = match body.read(&mut buffer) {
                    Ok(read) if read > 0 => buffer.get(..read).unwrap_or_default(),
                    _ => break,
                };
                if splitter.push(read).is_err() {
                    log::warn!("deepseek.frame_too_large");
                    break;
                }
                for frame in std::iter::from_fn(|| splitter.next_frame()) {
                    if sender.send(frame).is_err() {
                        return;
                    }
                    wake.wake();
                }
            }
            drop(sender);
            wake.wake();
        };
        thread::spawn(format!("sse:{name}"), read).map_err(|e| HttpError(format!("cannot start a thread: {e}")))?;
        Ok(Events { frames, closed })
    }
}

/// An open event stream. Dropping it ends the reader at the server's next word.
pub struct Events {
    /// The frames; disconnected once the stream has ended.
    pub frames: Receiver<Frame>,
    closed: Arc<AtomicBool>,
}

impl Drop for Events {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

fn read_ok(mut answer: ureq::http::Response<ureq::Body>) -> Result<String, HttpError> {
    if !answer.status().is_success() {
        return Err(refused(answer));
    }
    let body = answer.body_mut().with_config().limit(BODY_LIMIT).lossy_utf8(true);
    body.read_to_string().map_err(|e| HttpError(e.to_string()))
}

fn refused(mut answer: ureq::http::Response<ureq::Body>) -> HttpError {
    let body = answer.body_mut().with_config().limit(BODY_LIMIT).lossy_utf8(true).read_to_string().unwrap_or_default();
    HttpError(format!("HTTP {}: {}", answer.status().as_u16(), text::head(text::trim(&body), ERROR_BODY)))
}
