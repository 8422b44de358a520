//! Registration, keys, tokens: every refusal in the order the protocol gives.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::Client;
use crate::hub::sign::{self, Seed};
use crate::hub::{Hub, Rule, Settings};

fn refresh(client: &Client, nonce: &[u8], seed: &Seed, key_id: &str) -> (u16, String, Value) {
    let path = format!("/registry/agents/{}/token/refresh", client.agent.id);
    let body = json!({"key_id": key_id, "nonce": sign::base64(nonce), "sig": seed.sign(nonce)});
    let answer = client.post_public(&path, &body);
    (answer.status, answer.refusal().1.to_owned(), answer.body)
}

#[test]
fn an_agent_registers_and_verifies() {
    let hub = Hub::start();
    let someone = Client::new(&hub, &hub.agent("Someone"));
    let seed = Seed([7; 32]);
    let pubkey = format!("ed25519:{}", seed.public());
    let register = |body: Value| someone.post_public("/registry/agents", &body);
    for (bad, code) in [
        ("x", "pubkey_must_start_with_ed25519"),
        ("ed25519:?", "pubkey_base64_invalid"),
        ("ed25519:AAAA", "pubkey_must_be_32_bytes"),
    ] {
        assert_eq!(register(json!({"display_name": "Ada", "pubkey": bad})).refusal(), (400, code));
    }
    assert_eq!(register(json!({"display_name": "", "pubkey": pubkey})).status, 422);
    assert_eq!(register(json!({"display_name": "x".repeat(129), "pubkey": pubkey})).status, 422);
    let made = register(json!({"display_name": "Ada", "pubkey": pubkey}));
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.body["agent_id"], "ag_ea292baabb94");

    let (key_id, challenge) = (made.body["key_id"].as_str().unwrap(), made.body["challenge"].as_str().unwrap());
    let bytes = sign::unbase64(challenge).unwrap();
    assert_eq!(bytes.len(), 32);
    let verify = |challenge: &str, sig: &str| {
        let body = json!({"key_id": key_id, "challenge": challenge, "sig": sig});
        someone.post_public("/registry/agents/ag_ea292baabb94/verify", &body)
    };
    let sig = seed.sign(&bytes);
    assert_eq!(verify("bm90aGluZw==", &sig).refusal(), (404, "challenge_not_found"));
    assert_eq!(verify(challenge, &seed.sign(b"other")).refusal(), (401, "signature_verification_failed"));
    let done = verify(challenge, &sig);
    assert!(done.status == 200 && done.body["agent_token"].is_string() && done.body["claim_url"].is_null(), "{done:?}");
    assert_eq!(verify(challenge, &sig).refusal(), (400, "challenge_already_used"));

    let made = register(json!({"display_name": "Ada", "pubkey": pubkey})).body;
    hub.clock().advance(Duration::from_secs(301));
    let body = json!({"key_id": made["key_id"], "challenge": made["challenge"], "sig": sig});
    let late = someone.post_public("/registry/agents/ag_ea292baabb94/verify", &body);
    assert_eq!(late.refusal(), (400, "challenge_expired"));
}

#[test]
fn a_refresh_is_refused_in_order() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let client = Client::new(&hub, &ada);
    let (nonce, other) = ([1; 32], Seed([9; 32]));
    assert_eq!(refresh(&client, &nonce, &ada.seed, "k_000000000000").1, "key_not_found");
    hub.set_key_state(&ada, "pending");
    assert_eq!(refresh(&client, &nonce, &ada.seed, &ada.key_id).1, "key_not_active");
    hub.set_key_state(&ada, "active");
    let (status, code, _) = refresh(&client, &nonce, &other, &ada.key_id);
    assert_eq!((status, code.as_str()), (401, "signature_verification_failed"));
    let (status, code, _) = refresh(&client, &nonce, &ada.seed, &ada.key_id);
    assert_eq!((status, code.as_str()), (409, "nonce_already_used"), "a nonce counts even with a wrong signature");
    assert_eq!(refresh(&client, &[2; 31], &ada.seed, &ada.key_id).0, 401, "a nonce has 32 bytes");
    let missing = json!({"key_id": ada.key_id, "nonce": "AA=="});
    let path = format!("/registry/agents/{}/token/refresh", ada.id);
    let answer = client.post_public(&path, &missing);
    assert_eq!((answer.status, &answer.body["detail"][0]["loc"]), (422, &json!(["body", "sig"])));

    assert_eq!(client.get("/hub/inbox?limit=50&ack=false").status, 200);
    let (status, _, body) = refresh(&client, &[3; 32], &ada.seed, &ada.key_id);
    assert_eq!(status, 200);
    assert_eq!(client.get("/hub/inbox?limit=50&ack=false").refusal(), (401, "invalid_token"), "the old one is void");
    assert_eq!(client.post("/hub/stream-end", &json!({"trace_id": "h_1"})).status, 204, "but not everywhere");
    let newer = Client { token: body["agent_token"].as_str().unwrap().to_owned(), ..client };
    assert_eq!(newer.get("/hub/inbox?limit=50&ack=false").status, 200);
    assert_eq!(Client::new(&hub, &ada).poll(), [Value::Null; 0], "verify does not disturb");
    assert_eq!(newer.poll(), [Value::Null; 0]);
    hub.expire_tokens(&ada);
    assert_eq!(newer.get("/hub/inbox?limit=50&ack=false").refusal(), (401, "token_expired"));

    hub.delete_agent(&ada);
    let gone = newer.post_public(&path, &json!({"key_id": ada.key_id, "nonce": "AA==", "sig": "AA=="}));
    assert_eq!(gone.refusal(), (404, "agent_not_found"));
    assert_eq!(gone.header("x-botcord-refresh-status"), Some("stale-agent"));
}

#[test]
fn an_unclaimed_agent_may_do_little() {
    let hub = Hub::with(Settings { claimed: false, ..Settings::default() });
    let ada = hub.agent("Ada");
    let client = Client::new(&hub, &ada);
    let refused = client.get("/hub/inbox?limit=50&ack=false");
    assert_eq!(refused.refusal(), (403, "agent_not_claimed"));
    assert!(refused.body["claim_url"].as_str().unwrap().contains("/agents/claim/clm_"));
    let link = client.get(&format!("/registry/agents/{}/claim-link", ada.id));
    assert_eq!((link.status, &link.body["claim_url"]), (200, &refused.body["claim_url"]));
    assert_eq!(client.say("rm_000000000000", "hi").status, 403);
    hub.change(|world| world.agents.get_mut(&ada.id).unwrap().claim_code.clear());
    assert_eq!(client.get("/hub/rooms/me").refusal(), (403, "agent_not_claimed_generic"));
    assert_eq!(client.post("/hub/stream-end", &json!({"trace_id": "h_1"})).status, 204);
    hub.change(|world| world.agents.get_mut(&ada.id).unwrap().claimed = true);
    assert_eq!(client.get("/hub/rooms/me").status, 200);
}

#[test]
fn keys_rotate() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let client = Client::new(&hub, &ada);
    let keys = format!("/registry/agents/{}/keys", ada.id);
    let key = |id: &str| format!("{keys}/{id}");
    let delete = |id: &str| client.ask(&format!("DELETE {}", key(id)), &Value::Null);
    assert_eq!(delete(&ada.key_id).refusal(), (400, "cannot_revoke_last_active_key"));
    let seed = Seed([5; 32]);
    let offered = client.post(&keys, &json!({"pubkey": format!("ed25519:{}", seed.public())}));
    assert_eq!(offered.status, 201);
    let id = offered.body["key_id"].as_str().unwrap();
    let headers = client.headers().split_off(1);
    let public = |id: &str| client.raw(&format!("GET {}", key(id)), &headers, b"").unwrap().body;
    assert_eq!(public(id)["state"], "pending");
    let challenge = offered.body["challenge"].as_str().unwrap();
    let sig = seed.sign(&sign::unbase64(challenge).unwrap());
    let body = json!({"key_id": id, "challenge": challenge, "sig": sig});
    assert_eq!(client.post_public(&format!("/registry/agents/{}/verify", ada.id), &body).status, 200);
    assert_eq!(public(id)["state"], "active");
    assert_eq!(delete(&ada.key_id).body, json!({"key_id": ada.key_id, "state": "revoked"}));
    assert_eq!(delete(&ada.key_id).refusal(), (400, "key_already_revoked"));
    assert_eq!(delete("k_000000000000").refusal(), (404, "key_not_found"));
    let resolved = client.raw(&format!("GET /registry/resolve/{}", ada.id), &headers, b"").unwrap();
    assert_eq!(resolved.body["display_name"], "Ada");
}

#[test]
fn tokens_are_watched() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let client = Client::new(&hub, &ada);
    let bare = client.headers().split_off(1);
    let without = client.raw("GET /hub/rooms/me", &bare, b"").unwrap();
    assert_eq!(without.refusal(), (401, "invalid_authorization_header"));
    hub.refreshed_elsewhere(&ada);
    assert_eq!(client.get("/hub/rooms/me").status, 401, "in flight when it was replaced");
    hub.change(|world| world.tokens.values_mut().for_each(|token| token.replaced_at = Some(0)));
    assert_eq!(client.get("/hub/rooms/me").status, 401);
    assert_eq!(hub.violations(), [""; 0], "once is how one learns of it");
    assert_eq!(client.get("/hub/rooms/me").status, 401);
    assert_eq!(hub.violations_of(Rule::OldToken).len(), 1);
}
