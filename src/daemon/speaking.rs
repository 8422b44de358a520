//! What the agents of running turns ask for through the control socket, done with the engine, the channel of their turn and
//! their memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::config::Home;
use crate::engine::ports::{Found, Look, RoomInfo, RoomTools, ToolError, Uploaded};
use crate::engine::speak::{Said, SpeakError, Speaker, Words};
use crate::engine::{Engine, attachments};
use crate::prompt::memory::{MemoryStore, Update};
use crate::sanitize;
use crate::serve::room::{Ask, Done, Notice, Remember, Remembered, RoomControl, Say, Upload};
use crate::serve::wire::{ErrorKind, Failure};

/// Requests of agents that are worked on at a time; each may wait for a far side, and the socket is for people, too.
const AT_ONCE: usize = 12;
/// How long a message waits for its delivery before it is answered, unless the request says otherwise.
const WAIT: Duration = Duration::from_secs(20);

/// See the module.
pub(super) struct Speaking {
    engine: Engine,
    memory: MemoryStore,
    at_work: AtomicUsize,
}

/// A place among the requests that are worked on.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Speaking {
    pub(super) fn new(engine: Engine, home: &Home) -> Self {
        let memory = MemoryStore::new(home.root(), home.daemon_dir());
        Self { engine, memory, at_work: AtomicUsize::new(0) }
    }

    /// The agent whose token this is, and a place for its request.
    fn admit(&self, token: &str, room: Option<&str>) -> Result<(Speaker, Place<'_>), Failure> {
        let speaker = self.engine.speaker(token, room).map_err(|e| refusal(&e))?;
        let one_more = |busy: usize| (busy < AT_ONCE).then_some(busy + 1);
        if self.at_work.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_err() {
            let message = format!("{AT_ONCE} requests of agents are worked on already; try again");
            return Err(Failure::new(ErrorKind::TooBusy, message));
        }
        Ok((speaker, Place(&self.at_work)))
    }
}

impl RoomControl for Speaking {
    fn say(&self, token: &str, say: Say) -> Result<Said, Failure> {
        let (speaker, _place) = self.admit(token, say.room.as_deref())?;
        let files = say.files.iter().map(|file| attachments::pick(file, speaker.cwd()));
        let files = files.collect::<Result<_, _>>().map_err(bad)?;
        let wait = say.wait_ms.map_or(WAIT, Duration::from_millis);
        let words = Words {
            room: say.room,
            topic: say.topic,
            text: say.text,
            files,
            mentions: say.mentions,
            reply_to: say.reply_to,
            is_reply: say.reply,
        };
        speaker.say(words, wait).map_err(|e| refusal(&e))
    }

    fn look(&self, token: &str, ask: Ask) -> Result<Found, Failure> {
        let (speaker, _place) = self.admit(token, ask.room.as_deref())?;
        let look = ask.look(&speaker.message().conversation.id);
        with_tools(&speaker, |tools, agent| tools.look(agent, &look))
            .unwrap_or_else(|| own_knowledge(&speaker, &look))
            .map(harmless)
            .map_err(failure)
    }

    fn upload(&self, token: &str, upload: Upload) -> Result<Uploaded, Failure> {
        let (speaker, _place) = self.admit(token, None)?;
        let file = attachments::pick(&upload.file, speaker.cwd()).map_err(bad)?;
        let done = with_tools(&speaker, |tools, agent| tools.upload(agent, &file));
        let uploaded = done.unwrap_or(Err(ToolError::NotOffered)).map_err(failure)?;
        log::info!("room.uploaded turn={} file={:?} bytes={}", speaker.turn_id(), uploaded.filename, uploaded.bytes);
        Ok(uploaded)
    }

    fn notify_owner(&self, token: &str, notice: Notice) -> Result<Done, Failure> {
        let (speaker, _place) = self.admit(token, None)?;
        let done = with_tools(&speaker, |tools, agent| tools.notify_owner(agent, &notice.text));
        done.unwrap_or(Err(ToolError::NotOffered)).map_err(failure)?;
        log::info!("room.owner_notified turn={}", speaker.turn_id());
        Ok(Done { ok: true })
    }

    fn remember(&self, token: &str, remember: Remember) -> Result<Remembered, Failure> {
        let (speaker, _place) = self.admit(token, None)?;
        let agent = speaker.message().account_id.as_str();
        let failed = |e: crate::prompt::memory::MemoryError| bad(e.to_string());
        let now = crate::time::rfc3339(crate::time::now_ms());
        let Remember { clear, goal, section, content } = remember;
        if clear {
            self.memory.clear(agent, &now).map_err(failed)?;
        } else if goal.is_some() || content.is_some() {
            self.memory.update(agent, &Update { goal, section, content }, &now).map_err(failed)?;
        }
        let memory = self.memory.read(agent).unwrap_or_default();
        let total_chars = memory.total();
        let crate::prompt::memory::Memory { goal, sections, updated_at, .. } = memory;
        Ok(Remembered { agent: agent.to_owned(), goal, sections, updated_at, total_chars })
    }
}

/// Asks the channel of the turn; `None` where it offers nothing.
fn with_tools<T>(speaker: &Speaker, ask: impl FnOnce(&dyn RoomTools, &str) -> T) -> Option<T> {
    let channel = speaker.channel()?;
    channel.room_tools().map(|tools| ask(tools, &speaker.message().account_id))
}

/// What this machine knows by itself, for a channel that cannot be asked.
fn own_knowledge(speaker: &Speaker, look: &Look) -> Result<Found, ToolError> {
    let here = &speaker.message().conversation;
    match look {
        Look::History { room, topic, before: None, limit } => {
            let topic = topic.as_deref().or(here.thread_id.as_deref().filter(|_| *room == here.id));
            Ok(Found { messages: speaker.history(room, topic, *limit as usize), ..Found::default() })
        }
        Look::Room { room } if *room == here.id => {
            let info = RoomInfo { id: here.id.clone(), name: here.title.clone(), ..RoomInfo::default() };
            Ok(Found { rooms: vec![info], ..Found::default() })
        }
        _ => Err(ToolError::NotOffered),
    }
}

/// Names and texts of other people, so that none of them looks like a word of the daemon.
fn harmless(mut found: Found) -> Found {
    let label = |name: &mut Option<String>| {
        if let Some(name) = name {
            *name = sanitize::label(name);
        }
    };
    let body = |text: &mut Option<String>| {
        if let Some(text) = text {
            *text = sanitize::body(text);
        }
    };
    for message in &mut found.messages {
        label(&mut message.name);
        label(&mut message.topic);
        message.text = sanitize::body(&message.text);
    }
    for room in &mut found.rooms {
        label(&mut room.name);
        body(&mut room.description);
        body(&mut room.rule);
        for member in &mut room.members {
            label(&mut member.name);
            label(&mut member.role);
        }
    }
    for topic in &mut found.topics {
        label(&mut topic.title);
        label(&mut topic.status);
        body(&mut topic.goal);
    }
    found
}

fn refusal(error: &SpeakError) -> Failure {
    let kind = match error {
        SpeakError::NoTurn => ErrorKind::Unauthorized,
        SpeakError::Ambiguous(_) => ErrorKind::Conflict,
        SpeakError::Words(_) => ErrorKind::BadRequest,
        SpeakError::Enough(_) => ErrorKind::TooBusy,
        SpeakError::Unstored(_) => ErrorKind::Unavailable,
    };
    Failure::new(kind, error.to_string())
}

fn failure(error: ToolError) -> Failure {
    let kind = match error {
        ToolError::NotOffered => ErrorKind::NotImplemented,
        ToolError::Refused(_) => ErrorKind::Conflict,
        ToolError::Failed(_) => ErrorKind::Unavailable,
    };
    Failure::new(kind, crate::redact::text(&error.to_string()))
}

fn bad(message: String) -> Failure {
    Failure::new(ErrorKind::BadRequest, message)
}
