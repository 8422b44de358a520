//! What the daemon answers when it does not do what was asked.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of error an answer is; each has one HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// 400: the request does not say what it should.
    BadRequest,
    /// 401: the token is missing, or of no turn that runs.
    Unauthorized,
    /// 403: the caller is another user.
    Forbidden,
    /// 404: no such path, message, session, agent or runtime.
    NotFound,
    /// 405: the path exists, but not with this method.
    MethodNotAllowed,
    /// 408: the request took too long to arrive.
    RequestTimeout,
    /// 409: it cannot be done now (something is in the way).
    Conflict,
    /// 411: the body has to come with a `Content-Length`.
    LengthRequired,
    /// 413: the body is too big.
    TooLarge,
    /// 415: the body is not JSON.
    UnsupportedMediaType,
    /// 417: an `Expect` other than `100-continue`.
    ExpectationFailed,
    /// 429: too many messages wait; try later.
    TooBusy,
    /// 431: the head is too big.
    HeadTooLarge,
    /// 500: the daemon failed at it.
    Internal,
    /// 501: a transfer coding that is not supported.
    NotImplemented,
    /// 503: it takes no requests or messages now.
    Unavailable,
    /// 505: neither HTTP/1.0 nor HTTP/1.1.
    VersionNotSupported,
    /// A kind that this version does not know.
    #[serde(other)]
    Other,
}

impl ErrorKind {
    /// Its HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::Conflict => 409,
            Self::LengthRequired => 411,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::ExpectationFailed => 417,
            Self::TooBusy => 429,
            Self::HeadTooLarge => 431,
            Self::Internal | Self::Other => 500,
            Self::NotImplemented => 501,
            Self::Unavailable => 503,
            Self::VersionNotSupported => 505,
        }
    }
}

/// An error, as `error` of an [`ErrorAnswer`] and as what [`super::api::Control`] refuses with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind.
    pub kind: ErrorKind,
    /// For people: what was found and what was expected. Holds no secrets.
    pub message: String,
}

impl Failure {
    /// A failure.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Body of every answer whose status is 400 or more, except `GET /health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorAnswer {
    /// What went wrong.
    pub error: Failure,
}
