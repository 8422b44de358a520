//! What the hub answers to.

/// An endpoint; faults are set at one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    Register,
    Verify,
    Refresh,
    ClaimLink,
    AddKey,
    Key,
    RevokeKey,
    Resolve,
    Send,
    Status,
    Inbox,
    Ack,
    Renew,
    Socket,
    StreamBlock,
    StreamEnd,
    Typing,
    NotifyOwner,
    React,
    Unreact,
    Upload,
    File,
    CreateRoom,
    MyRooms,
    Room,
    Messages,
    Topics,
    Policy,
    Receipt,
}

/// How much of a caller is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Nothing.
    Public,
    /// A token that was issued and has not run out.
    Issued,
    /// The newest token.
    Newest,
    /// The newest token of a claimed agent.
    Claimed,
}

/// Fixed paths stand before those with a `*`.
const TABLE: &[(&str, &str, Endpoint, Auth)] = {
    use Auth::{Claimed, Issued, Newest, Public};
    #[allow(clippy::enum_glob_use, reason = "the table names them all")]
    use Endpoint::*;
    &[
        ("POST", "registry/agents", Register, Public),
        ("POST", "registry/agents/*/verify", Verify, Public),
        ("POST", "registry/agents/*/token/refresh", Refresh, Public),
        ("GET", "registry/agents/*/claim-link", ClaimLink, Issued),
        ("POST", "registry/agents/*/keys", AddKey, Issued),
        ("GET", "registry/agents/*/keys/*", Key, Public),
        ("DELETE", "registry/agents/*/keys/*", RevokeKey, Issued),
        ("GET", "registry/resolve/*", Resolve, Public),
        ("POST", "hub/send", Send, Claimed),
        ("GET", "hub/status/*", Status, Claimed),
        ("GET", "hub/inbox", Inbox, Claimed),
        ("POST", "hub/inbox/ack", Ack, Claimed),
        ("POST", "hub/inbox/lease/renew", Renew, Claimed),
        ("GET", "hub/ws", Socket, Public),
        ("POST", "hub/stream-block", StreamBlock, Issued),
        ("POST", "hub/stream-end", StreamEnd, Issued),
        ("POST", "hub/typing", Typing, Newest),
        ("POST", "hub/notify-owner", NotifyOwner, Issued),
        ("POST", "hub/messages/*/status-reactions", React, Newest),
        ("DELETE", "hub/messages/*/status-reactions/replying", Unreact, Newest),
        ("POST", "hub/upload", Upload, Claimed),
        ("GET", "hub/files/*", File, Public),
        ("POST", "hub/rooms", CreateRoom, Claimed),
        ("GET", "hub/rooms/me", MyRooms, Claimed),
        ("GET", "hub/rooms/*", Room, Claimed),
        ("GET", "hub/rooms/*/messages", Messages, Claimed),
        ("GET", "hub/rooms/*/topics", Topics, Claimed),
        ("GET", "hub/attention-policy", Policy, Newest),
        ("POST", "hub/receipt", Receipt, Public),
    ]
};

/// What a method and a path mean.
pub enum Found {
    Endpoint(Endpoint, Auth),
    WrongMethod,
    Nothing,
}

pub fn find(method: &str, path: &str) -> Found {
    let mut other = false;
    for (verb, pattern, endpoint, auth) in TABLE {
        if fits(pattern, path.trim_start_matches('/')) {
            if *verb == method {
                return Found::Endpoint(*endpoint, *auth);
            }
            other = true;
        }
    }
    if other { Found::WrongMethod } else { Found::Nothing }
}

fn fits(pattern: &str, path: &str) -> bool {
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some(w), Some(g)) if w == g || w == "*" && !g.is_empty() => {}
            _ => return false,
        }
    }
}
