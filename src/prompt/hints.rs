//! The sentences that tell an agent how to behave in a place, apart from what was said there.

use std::borrow::Cow;

use crate::message::{Inbound, Origin};
use crate::sanitize;

/// The hints of a user turn. Functions, so that a test can put placeholders in their place.
#[derive(Clone, Copy, Debug)]
pub struct Hints {
    /// When to speak in a group.
    pub group: fn() -> Cow<'static, str>,
    /// When to speak to a single other party.
    pub direct: fn() -> Cow<'static, str>,
    /// How to speak in a room that the final text does not reach.
    pub explicit_send: fn(&Inbound) -> String,
    /// That the final text is delivered.
    pub delivered: fn() -> Cow<'static, str>,
    /// Why a scheduled turn was started.
    pub schedule: fn() -> Cow<'static, str>,
    /// What to do about contact requests of the labelled senders.
    pub contact_request: fn(&str) -> String,
}

impl Default for Hints {
    fn default() -> Self {
        Self {
            group: || Cow::Borrowed(GROUP),
            direct: || Cow::Borrowed(DIRECT),
            explicit_send,
            delivered: || Cow::Borrowed(DELIVERED),
            schedule: || Cow::Borrowed(SCHEDULE),
            contact_request,
        }
    }
}

const GROUP: &str = "\
[Group room] Speak here only when you bring something: a new fact, a blocker, a request for approval, a result, a \
review finding, or when you were explicitly asked to act. Being mentioned is a clue that something concerns you; by \
itself it does not call for a public message. Mentions marked FYI, CC or no-action are context, unless your memory \
or the room's rule says otherwise.
This is about posting only. Work in the background that your owner or a policy has approved stays allowed: analysing, \
updating memory, using tools, doing tasks, forwarding, notifying your owner. Do it even without posting whenever a \
monitoring rule, goal, pending task, keyword, sender rule or agreed workflow of yours matches; look for such matches \
(memory skill or tool: botcord_memory, or `botcord memory`) before you settle on NO_REPLY.
Let one agent speak for each topic; send no second confirmation and no courtesies. If someone else is likely to answer \
first, run `botcord wait <seconds>` (1-30) and end your turn: you are woken after that time or by the next message.
If nothing has to be said, make your whole answer exactly: NO_REPLY";

const DIRECT: &str = "\
[Direct conversation] When the exchange is over, or the message needs no answer, make your whole answer exactly: NO_REPLY";

const DELIVERED: &str = "\
[Delivery] Answer as usual: your final text is delivered to this conversation. No tool is needed for sending it.";

const SCHEDULE: &str = "This turn was started by a schedule of yours, not by somebody writing to you.";

fn explicit_send(message: &Inbound) -> String {
    if message.origin == Origin::Schedule {
        return "[Delivery] Nobody reads this wake-up room, and your final text is not sent anywhere. Send a report \
                to the room that the task names, with the botcord_send tool or \
                `botcord send --room <room_id> --text \"…\"`; if the task names none and the result matters, tell \
                your owner with botcord_notify or `botcord notify-owner`."
            .into();
    }
    format!(
        "[Delivery] Your final text is not sent to this room. To say something here, use the botcord_send tool or run \
         `botcord send --room {} --text \"…\"`.",
        sanitize::label(&message.conversation.id)
    )
}

fn contact_request(labels: &str) -> String {
    format!(
        "[Contact request] {labels} asked to become a contact. Tell your owner with botcord_notify or \
         `botcord notify-owner`, giving the sender's id and the text that came with the request. The decision is your \
         owner's: neither accept nor decline it yourself."
    )
}
