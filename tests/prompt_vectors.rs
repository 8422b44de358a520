//! Vectors of what an agent is told and when.

mod support;

use bellhop::engine::gate::{self, Policy, Subject};
use bellhop::engine::loop_risk::{self, LoopWatch, Side};
use bellhop::engine::ports::{RecentMessage, RoomContext, SystemRule, Usage};
use bellhop::engine::{mention, merge, park, replying, settle};
use bellhop::link::botcord_control::settle::first;
use bellhop::message::{CloudRun, Inbound, document};
use bellhop::prompt::hints::Hints;
use bellhop::prompt::memory::{self, Memory, Update};
use bellhop::prompt::{activity, room, sender, skills, user_turn};
use bellhop::runtime::context_file;
use bellhop::sanitize;
use serde_json::{Map, Value, json};
use support::vector_file::check;

fn str_of<'v>(input: &'v Value, key: &str) -> &'v str {
    input[key].as_str().unwrap_or_else(|| panic!("{key} is no string in {input}"))
}

fn now_of(input: &Value) -> i64 {
    input["now"].as_i64().expect("now is a number")
}

/// Vectors leave out fields that do not matter to them.
fn message_of(given: &Value) -> Inbound {
    let mut full = json!({
        "id": "h_1", "channel": "ag_me", "accountId": "ag_me", "conversation": {"id": "rm_1", "kind": "group"},
        "sender": {"id": "ag_s", "kind": "agent"}, "receivedAt": 0
    });
    for (key, value) in given.as_object().expect("message is an object") {
        full[key] = value.clone();
    }
    document::parse(&full).expect("a message document")
}

fn is_botcord(input: &Value) -> bool {
    input["channel_type"] == "botcord" || input["channel_id"] == "botcord"
}

#[test]
fn vectors_turn_sanitize() {
    check("turn-sanitize", &[], |input| match str_of(input, "op") {
        "body" => sanitize::body(str_of(input, "text")).into(),
        "label" => sanitize::label(str_of(input, "text")).into(),
        op => panic!("unknown op {op}"),
    });
}

#[test]
fn vectors_multimodal() {
    check("multimodal", &[], |input| {
        let raw = input["raw"].as_object().expect("raw is an object");
        json!(document::is_media_only(raw))
    });
}

#[test]
fn vectors_mention_scan() {
    check("mention-scan", &[], |input| {
        let target = |key: &str| input["targets"][key].as_str();
        match str_of(input, "op") {
            "scan" => {
                json!(mention::scan(input["text"].as_str().unwrap_or(""), target("agentId"), target("displayName")))
            }
            "effective" => json!(mention::effective(&message_of(&input["message"]))),
            "apply" => {
                let mut message = message_of(&input["message"]);
                let result = mention::apply(&mut message, target("agentId"), target("displayName"));
                // The vectors show the flags in the document; carry ours back into it.
                let mut after = input["message"].clone();
                after["mentioned"] = json!(message.mentioned);
                let batch = after.pointer_mut("/raw/batch").and_then(Value::as_array_mut);
                for (element, entry) in batch.into_iter().flatten().zip(&message.entries) {
                    if entry.mentioned {
                        element["mentioned"] = json!(true);
                    }
                }
                json!({"result": result, "message": after})
            }
            op => panic!("unknown op {op}"),
        }
    });
}

#[test]
fn vectors_should_wake() {
    check("should-wake", &[], |input| {
        let policy = Policy::from_wire(&input["policy"]);
        match str_of(input, "op") {
            "wake" => {
                let message = &input["message"];
                let subject = Subject {
                    mentioned: message["mentioned"] == true,
                    text: message["text"].as_str().unwrap_or(""),
                    sender_id: message["senderId"].as_str(),
                };
                json!(gate::should_wake(&policy, subject, now_of(input)))
            }
            "force" => {
                let forced = policy.in_conversation(str_of(input, "conversationId"));
                serde_json::to_value(forced).expect("a policy serialises")
            }
            "gate" => {
                let mut message = message_of(&input["message"]);
                let wake = gate::wakes(&policy, &mut message, input["displayName"].as_str(), now_of(input));
                json!({"wake": wake, "mentioned": message.mentioned})
            }
            op => panic!("unknown op {op}"),
        }
    });
}

#[test]
fn vectors_sender_classify() {
    check("sender-classify", &[], |input| {
        let message = message_of(&input["message"]);
        match str_of(input, "op") {
            "classify" => {
                let (party, label) = sender::classify(&message);
                json!({"kind": party.as_str(), "label": label})
            }
            "room_type" => json!({
                "room_type": sender::room_type(&message).as_str(),
                "owner_scene": message.is_owner_chat(),
                "environment_block": sender::has_environment_block(&message),
                "room_context_eligible": sender::has_room_context(&message),
            }),
            "gate" => {
                let gated = is_botcord(input);
                let delivered = gate::text_is_delivered(gated, &message);
                json!({
                    "deliver_text": delivered,
                    "deliver_error": gate::error_is_delivered(gated, &message),
                    "delivery_status": if delivered { "delivered" } else { "gated_non_owner_chat" },
                    "park_eligible": park::is_eligible(gated, &message),
                    "typing": gate::typing_is_shown(gated, &message),
                    "stream_end": message.streamable(),
                })
            }
            op => panic!("unknown op {op}"),
        }
    });
}

#[test]
fn vectors_replying_status() {
    check("replying-status", &[], |input| {
        let message = message_of(&input["message"]);
        match str_of(input, "op") {
            "show" => json!(replying::is_shown(&message)),
            "target" => json!(replying::target(&message)),
            "reply_to" => json!(message.reply_target()),
            op => panic!("unknown op {op}"),
        }
    });
}

#[test]
fn vectors_loop_risk() {
    check("loop-risk", &[], |input| match str_of(input, "op") {
        "normalize" => loop_risk::normalise(str_of(input, "text")).into(),
        "evaluate" => {
            let mut watch = LoopWatch::default();
            for event in input["events"].as_array().expect("events") {
                let side = match str_of(event, "side") {
                    "in" => Side::In,
                    "out" => Side::Out,
                    side => panic!("unknown side {side}"),
                };
                let key = event["key"].as_str().unwrap_or("k");
                watch.record(key, side, str_of(event, "text"), event["at"].as_i64().expect("at"));
            }
            let reasons = watch.evaluate(input["key"].as_str().unwrap_or("k"), now_of(input));
            serde_json::to_value(reasons).expect("reasons serialise")
        }
        op => panic!("unknown op {op}"),
    });
}

#[test]
fn vectors_wait_marker() {
    check("wait-marker", &[], |input| match str_of(input, "op") {
        "consume" => {
            let dir = std::env::temp_dir().join(format!("bellhop-vectors-park-{}", std::process::id()));
            std::fs::create_dir_all(&dir).expect("a temporary directory");
            let path = park::marker_path(&dir, "queue");
            if let Some(content) = input["content"].as_str() {
                std::fs::write(&path, content).expect("a marker");
            }
            let marker = park::Marker::take(&path, now_of(input));
            let exists = path.exists();
            let _ = std::fs::remove_dir_all(&dir);
            json!({"marker": marker, "file_exists_after": exists})
        }
        "path" => park::marker_name(str_of(input, "queue_key")).into(),
        "cli_seconds" => match park::parse_seconds(str_of(input, "arg")) {
            Ok(seconds) => json!({"seconds": seconds}),
            Err(_) => json!({"error": true}),
        },
        op => panic!("unknown op {op}"),
    });
}

#[test]
fn vectors_coalesce() {
    check("coalesce", &[], |input| {
        let mut dropped = Vec::new();
        let mut waiting: Vec<Inbound> = Vec::new();
        for arrival in input["arrivals"].as_array().expect("arrivals") {
            let mut arrival = arrival.clone();
            if let Some(repeat) = arrival.get("text_repeat") {
                let count = repeat["count"].as_u64().expect("count") as usize;
                arrival["text"] = str_of(repeat, "unit").repeat(count).into();
            }
            waiting.push(message_of(&arrival));
            // What a queue does at its bound is the queue's; here it is only needed to get the right forty.
            if waiting.len() > 40 {
                waiting.remove(0);
                dropped.push("queue_overflow");
            }
        }
        let single = waiting.len() == 1;
        dropped.extend(std::iter::repeat_n("batch_merged", waiting.len() - 1));
        let message = merge::merge(waiting).expect("something waits").message;
        let text = Some(&message.text).filter(|t| t.len() < 1_000);
        if single {
            return json!({
                "anchor_id": message.id, "text": text, "mentioned": null, "batch_ids": null, "batch_mentioned": null,
                "turns": 2, "dropped": dropped
            });
        }
        let flags: Vec<bool> = message.entries.iter().map(|e| e.mentioned).collect();
        json!({
            "anchor_id": message.id, "text": text, "mentioned": message.mentioned, "batch_ids": message.ids(),
            "batch_mentioned": flags, "turns": 2, "dropped": dropped
        })
    });
}

/// Counts as runtimes give them: whole, and never below nothing.
fn usage(tokens: &Value) -> Usage {
    let count = |key: &str| tokens[key].as_f64().unwrap_or(0.0).max(0.0) as u64;
    Usage { hit: count("inputCacheHitTokens"), miss: count("inputCacheMissTokens"), output: count("outputTokens") }
}

#[test]
fn vectors_cloud_settle() {
    check("cloud-settle", &[], |input| match str_of(input, "op") {
        "settle" => {
            let event = &input["event"];
            if event["envelopeType"] != "cloud_run" {
                return Value::Null;
            }
            let run = CloudRun {
                run_id: event["runId"].as_str().map(str::to_owned),
                settle_usage: event["settleUsage"] != false,
                ..CloudRun::default()
            };
            let tokens = event.get("tokens").map(usage);
            let wall = event["wallTimeMs"].as_u64().expect("wallTimeMs");
            let Some(settlement) = settle::settlement(&run, wall, tokens, None) else { return Value::Null };
            let post = first("https://hub.test", "tok", &settlement);
            let headers: Map<String, Value> =
                post.headers.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
            json!({"url": post.url, "method": "POST", "headers": headers, "body": post.body})
        }
        "budget" => {
            let message = message_of(&json!({"raw": input["raw"]}));
            let budget = message.cloud_run.map(|run| run.budget).unwrap_or_default();
            let budget = serde_json::to_value(budget).expect("a budget serialises");
            if budget == json!({}) { Value::Null } else { budget }
        }
        op => panic!("unknown op {op}"),
    });
}

/// Puts placeholders where the vectors have them.
fn placeholders() -> Hints {
    Hints {
        group: || "{{GROUP_HINT}}".into(),
        direct: || "{{DIRECT_HINT}}".into(),
        explicit_send: |_| "{{EXPLICIT_SEND_HINT}}".into(),
        delivered: || "{{THIRD_PARTY_HINT}}".into(),
        schedule: || "{{SCHEDULE_LINE}}".into(),
        contact_request: |labels| format!("{{{{CONTACT_REQUEST_HINT:{labels}}}}}"),
    }
}

#[test]
fn vectors_turn_text() {
    // bellhop marks forged headers behind white space too, which the vector's original leaves alone.
    let name = "batch body is sanitized and not trimmed";
    let strict = "[BotCord Messages (2 new)] | to: ag_me | conversation_id: rm_team | room: Harbor Crew\n\
        [BotCord Room] | id: rm_team | name: Harbor Crew\n\
        <agent-message sender=\"ag_1\" sender_kind=\"agent\">\n\
        \u{20} [⚠ fake: BotCord Message] fake [⚠ stripped: agent-message tag]  \n\
        </agent-message>\n\
        <agent-message sender=\"unknown\" sender_kind=\"agent\">\n\n</agent-message>\n\n\
        {{GROUP_HINT}}\n\n{{EXPLICIT_SEND_HINT}}";
    check("turn-text", &[(name, json!(strict))], |input| {
        let message = message_of(&input["message"]);
        let delivered = sender::is_third_party(&message) || message.is_owner_chat();
        user_turn::compose(&message, delivered, &placeholders()).into()
    });
}

#[test]
fn vectors_context_blocks() {
    check("context-blocks", &[], |input| {
        let rules_of = |text: &Value| -> Vec<SystemRule> {
            let message = message_of(&json!({"raw": {"room_rule": text}}));
            room::rule(&message).into_iter().collect()
        };
        match str_of(input, "op") {
            "room_context" => {
                let given = &input["room"];
                let string = |v: &Value, key: &str| v[key].as_str().map(str::to_owned);
                let member = |m: &Value| {
                    let name = string(m, "display_name").unwrap_or_else(|| str_of(m, "agent_id").to_owned());
                    (name, string(m, "role"))
                };
                room::context(&RoomContext {
                    id: str_of(given, "room_id").to_owned(),
                    name: string(given, "name"),
                    description: string(given, "description"),
                    visibility: string(given, "visibility"),
                    join: string(given, "join_policy"),
                    members: input["members"].as_array().expect("members").iter().map(member).collect(),
                })
                .into()
            }
            "room_rule" => match room::rule(&message_of(&input["message"])) {
                Some(rule) => context_file::render_rules(&[rule]).expect("a rule").into(),
                None => Value::Null,
            },
            "recent_messages" => {
                // The wire has the newest first, the channel hands them over oldest first.
                let messages = input["messages"].as_array().expect("messages").iter().rev();
                let first = |m: &Value, keys: &[&str]| keys.iter().find_map(|k| m[*k].as_str()).map(str::to_owned);
                let messages: Vec<RecentMessage> = messages
                    .map(|m| RecentMessage {
                        at: first(m, &["ts"]),
                        from: first(m, &["from_name", "from"]),
                        from_id: first(m, &["from"]),
                        topic: first(m, &["topic_title", "topic_id"]),
                        text: first(m, &["text"]).unwrap_or_default(),
                    })
                    .collect();
                room::recent_messages(&messages).into()
            }
            "digest_entry" => {
                let entry: activity::Activity = serde_json::from_value(input["entry"].clone()).expect("an entry");
                room::digest_entry(&entry, now_of(input)).into()
            }
            "managed_section" => {
                let rules = rules_of(&input["rule"]);
                let merged =
                    context_file::merge(str_of(input, "existing"), context_file::render_rules(&rules).as_deref());
                merged.replace(context_file::MANAGED_LINE, "{{MANAGED_NOTE}}").into()
            }
            "skill_md" => {
                let (name, description) = skills::parse(str_of(input, "content"), str_of(input, "fallback"));
                json!({"name": name, "description": description})
            }
            op => panic!("unknown op {op}"),
        }
    });
}

#[test]
fn vectors_working_memory() {
    let text = |v: &Value| match v {
        Value::String(s) => Some(s.clone()),
        Value::Object(repeat) => {
            let count = repeat["count"].as_u64().expect("count") as usize;
            Some(repeat["unit"].as_str().expect("unit").repeat(count))
        }
        _ => None,
    };
    check("working-memory", &[], |input| match str_of(input, "op") {
        "version" => Memory::from_value(&input["memory"]).unwrap_or_default().version().into(),
        "normalize" => match Memory::from_value(&input["file"]) {
            None => Value::Null,
            Some(m) => {
                json!({"version": 2, "goal": m.goal, "sections": m.sections, "updatedAt": m.updated_at})
            }
        },
        "neutralize" => memory::neutralise(str_of(input, "text")).into(),
        "update" => {
            let mut memory = Memory::from_value(&input["before"]).unwrap_or_default();
            let given = &input["update"];
            let update = Update {
                goal: text(&given["goal"]),
                section: text(&given["section"]),
                content: text(&given["content"]),
            };
            match memory.apply(&update) {
                Err(_) => json!({"ok": false}),
                Ok(done) => json!({
                    "ok": true, "totalChars": done.total_chars, "sectionPresent": done.section_present,
                    "goal": memory.goal, "sections": memory.sections.keys().collect::<Vec<_>>()
                }),
            }
        }
        op => panic!("unknown op {op}"),
    });
}
