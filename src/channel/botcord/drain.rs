//! What becomes of the messages of one inbox answer (the hub's protocol, §10). Pure.

use serde_json::Value;

use super::normalise::{self, Kin, Me, Skip};

/// Longest text of a group in UTF-16 units: what is more becomes a group of its own, which the engine merges with the
/// bounds that hold for waiting messages.
const GROUP_UNITS: usize = 16_000;

/// What is known about a hub message id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It was never here.
    No,
    /// It was accepted and is not finished: its lease goes on.
    Pending,
    /// It is finished.
    Finished,
}

/// A message that is acknowledged without a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its id; `None` when it has none, so that it cannot even be acknowledged.
    pub id: Option<String>,
    /// Why.
    pub why: Skip,
    /// Who sent it, for the log.
    pub from: String,
}

/// What is to be done about an answer.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Ids to be acknowledged at once, in the order of the answer: repeats and what is skipped.
    pub ack_now: Vec<String>,
    /// Messages that become one message each, in the order of the answer and by room and topic.
    pub groups: Vec<Vec<Value>>,
    /// Ids that are pending: their leases are to be renewed.
    pub pending: Vec<String>,
    /// What was skipped.
    pub skipped: Vec<Skipped>,
    /// How many were finished before.
    pub repeats: usize,
}

impl Plan {
    /// Whether the answer held anything that was not here before.
    pub fn has_news(&self) -> bool {
        !self.groups.is_empty() || self.skipped.iter().any(|s| s.id.is_some())
    }
}

/// Sorts the messages of an answer. An id that is there twice is handled once.
pub fn plan(messages: Vec<Value>, known: &dyn Fn(&str) -> Known, me: Me<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut kins: Vec<Kin> = Vec::new();
    let mut here: Vec<String> = Vec::new();
    for raw in messages {
        let Some(id) = normalise::hub_id(&raw).map(str::to_owned) else {
            plan.skipped.push(Skipped { id: None, why: Skip::Malformed, from: from(&raw) });
            continue;
        };
        if here.contains(&id) {
            continue;
        }
        here.push(id.clone());
        match (known(&id), normalise::usable(&raw, me)) {
            (Known::Pending, _) => plan.pending.push(id),
            (Known::Finished, _) => {
                plan.repeats += 1;
                plan.ack_now.push(id);
            }
            (Known::No, Err(why)) => {
                plan.ack_now.push(id.clone());
                plan.skipped.push(Skipped { id: Some(id), why, from: from(&raw) });
            }
            (Known::No, Ok(kin)) => join(&mut plan.groups, &mut kins, raw, kin),
        }
    }
    plan
}

/// Puts a message into the last group of its room and topic, if that one takes it.
fn join(groups: &mut Vec<Vec<Value>>, kins: &mut Vec<Kin>, raw: Value, kin: Kin) {
    let last = kins.iter_mut().zip(groups.iter_mut()).rfind(|(k, _)| k.room == kin.room && k.thread == kin.thread);
    match last {
        Some((theirs, group))
            if !kin.alone && !theirs.alone && theirs.owner == kin.owner && theirs.units + kin.units <= GROUP_UNITS =>
        {
            theirs.units += kin.units;
            group.push(raw);
        }
        _ => {
            groups.push(vec![raw]);
            kins.push(kin);
        }
    }
}

fn from(raw: &Value) -> String {
    let from = raw.get("envelope").and_then(|e| e.get("from")).and_then(Value::as_str).unwrap_or("-");
    crate::text::clip(from, 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ME: Me<'_> = Me { channel: "ag_me", agent: "ag_me" };

    fn message(id: &str, more: Value) -> Value {
        let mut raw =
            json!({"hub_msg_id": id, "room_id": "rm_1", "text": "x", "envelope": {"type": "message", "from": "ag_x"}});
        raw.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        raw
    }

    fn ids(plan: &Plan) -> Vec<Vec<&str>> {
        plan.groups.iter().map(|g| g.iter().filter_map(normalise::hub_id).collect()).collect()
    }

    #[test]
    fn the_owners_words_and_runs_stay_by_themselves() {
        let owner = json!({"source_type": "dashboard_user_chat"});
        let run = json!({"envelope": {"type": "cloud_run", "from": "ag_me"}, "source_type": "cloud_agent_run"});
        let answer = vec![
            message("h1", json!({})),
            message("h2", owner.clone()),
            message("h3", owner),
            message("h4", run.clone()),
            message("h5", run),
            message("h6", json!({})),
            message("h7", json!({})),
        ];
        let plan = plan(answer, &|_| Known::No, ME);
        assert_eq!(ids(&plan), [vec!["h1"], vec!["h2", "h3"], vec!["h4"], vec!["h5"], vec!["h6", "h7"]]);
    }

    #[test]
    fn long_texts_do_not_make_one_message() {
        let long = json!({"text": "x".repeat(9_000)});
        let answer = vec![message("h1", long.clone()), message("h2", long), message("h3", json!({}))];
        assert_eq!(ids(&plan(answer, &|_| Known::No, ME)), [vec!["h1"], vec!["h2", "h3"]]);
    }

    #[test]
    fn what_is_malformed_stops_nothing() {
        let answer = vec![
            json!(17),
            json!({"hub_msg_id": 5}),
            json!({"hub_msg_id": "h1", "envelope": "x"}),
            message("h2", json!({"text": ["x"]})),
            message("h3", json!({"room_id": 5})),
            message("h4", json!({"mentioned": "yes", "room_member_names": 5, "topic_id": {}, "reply_preview": "x"})),
            message("h4", json!({})),
            message("h5", json!({"envelope": {"type": "message", "from": "ag_me"}})),
            message("h6", json!({"envelope": {"type": "contact_request", "from": "ag_y"}, "room_id": null})),
        ];
        let plan = plan(answer, &|_| Known::No, ME);
        assert_eq!(ids(&plan), [vec!["h4"]]);
        assert_eq!(plan.ack_now, ["h1", "h2", "h3", "h5", "h6"]);
        let why: Vec<_> = plan.skipped.iter().map(|s| s.why.as_str()).collect();
        assert_eq!(why, ["malformed", "malformed", "malformed", "text", "no_room", "own_echo", "contact_request"]);
        for group in plan.groups {
            let message = normalise::group(group, ME, 0).unwrap();
            assert!(!message.mentioned && message.quote.is_none());
        }
    }
}
