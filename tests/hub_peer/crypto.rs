//! The hub's own canonical form, hashes and signatures against the known answers.

use serde_json::{Value, json};

use crate::hub::{deliver, jcs, send, sign};
use crate::vector_file;

/// What only a client does: its tests are elsewhere.
const CLIENTS: [&str; 4] = ["token_expiry", "hub_url", "session_key_client", "session_key_hub"];

#[test]
fn every_known_answer() {
    vector_file::check_only("botcord-crypto", |op| !CLIENTS.contains(&op), answer);
}

fn answer(input: &Value) -> Value {
    let text = |field: &str| input[field].as_str().unwrap_or_default();
    let key = |field: &str| -> Option<[u8; 32]> { sign::unbase64(text(field))?.try_into().ok() };
    let seed = || sign::Seed(key("private_key").expect("a key of 32 bytes"));
    match text("op") {
        "public_key" if key("private_key").is_none() => json!({"error": "private_key_length"}),
        "public_key" => {
            let public = seed().public();
            let formatted = format!("ed25519:{public}");
            json!({"public_key": public, "formatted": formatted, "agent_id": sign::agent_id(&public)})
        }
        "challenge" => json!({"sig": seed().sign(&sign::unbase64(text("challenge")).unwrap())}),
        "jcs" => {
            let value: Value = serde_json::from_str(text("json")).unwrap();
            json!({"canonical": jcs::canonical(&value), "payload_hash": sign::payload_hash(&value)})
        }
        "sign" => {
            let mut envelope = input.clone();
            let fields = envelope.as_object_mut().unwrap();
            for other in ["op", "private_key", "key_id"] {
                fields.remove(other);
            }
            seed().seal(&mut envelope, text("key_id"));
            json!({"signing_input": sign::signing_input(&envelope), "envelope": envelope})
        }
        "verify" => {
            let envelope = &input["envelope"];
            let signature = envelope["sig"]["value"].as_str().unwrap();
            let bytes = sign::signing_input(envelope);
            json!({
                "payload_hash": envelope["payload_hash"] == sign::payload_hash(&envelope["payload"]),
                "signature": sign::verify(text("public_key"), bytes.as_bytes(), signature),
            })
        }
        "owner_room_id" => {
            let session = input["session_key"].as_str();
            json!(deliver::owner_room_id(text("user_id"), text("agent_id"), session))
        }
        "timestamp" => json!(send::is_timely(input["ts"].as_i64().unwrap(), input["now"].as_i64().unwrap())),
        other => panic!("unknown op {other}"),
    }
}
