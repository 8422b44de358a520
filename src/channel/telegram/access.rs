//! Whose messages count, and where the agent may speak. Anybody can write to a bot, so nobody counts who is not listed.

/// The lists of a gateway: Telegram's ids as texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Chats. One between two has the id of the other party.
    pub chats: Vec<String>,
    /// Senders; empty: all those in the chats.
    pub senders: Vec<String>,
}

impl Access {
    /// Whether a message counts. Listed senders may also write in private, whatever the list of chats says.
    pub fn hears(&self, chat: i64, sender: i64) -> bool {
        self.speaks(chat) && (self.senders.is_empty() || has(&self.senders, sender))
    }

    /// Whether the agent may speak in a chat.
    pub fn speaks(&self, chat: i64) -> bool {
        has(&self.chats, chat) || is_private(chat) && has(&self.senders, chat)
    }

    /// Whether nobody is listed at all.
    pub fn is_closed(&self) -> bool {
        self.chats.is_empty() && self.senders.is_empty()
    }
}

/// Chats between two have positive ids, all others negative ones.
pub fn is_private(chat: i64) -> bool {
    chat > 0
}

fn has(list: &[String], id: i64) -> bool {
    list.iter().any(|listed| listed.trim().parse() == Ok(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_listed_is_nobody() {
        let access = |chats: &[&str], senders: &[&str]| Access {
            chats: chats.iter().map(ToString::to_string).collect(),
            senders: senders.iter().map(ToString::to_string).collect(),
        };
        for (lists, chat, sender, hears, speaks) in [
            (access(&[], &[]), 7, 7, false, false),
            (access(&[], &[]), -100, 7, false, false),
            (access(&["7"], &[]), 7, 7, true, true),
            (access(&["7"], &[]), 8, 8, false, false),
            (access(&["-100"], &[]), -100, 8, true, true),
            (access(&["-100"], &["7"]), -100, 8, false, true),
            (access(&["-100"], &["7"]), -100, 7, true, true),
            (access(&["-100"], &["7"]), 7, 7, true, true),
            (access(&[], &["7"]), -100, 7, false, false),
            (access(&[], &["7"]), 7, 7, true, true),
            (access(&[], &["-100"]), -100, -100, false, false),
            (access(&["x", ""], &[]), 0, 0, false, false),
        ] {
            assert_eq!((lists.hears(chat, sender), lists.speaks(chat)), (hears, speaks), "{lists:?} {chat} {sender}");
        }
    }
}
