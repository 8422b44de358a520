//! Makes a block fit for a hub: without secrets, and small enough that nothing of it is lost on the way (the hub's
//! protocol, §14.1). Pure.

use serde_json::{Map, Value};

use crate::redact;
use crate::text;

/// Longest string, in UTF-16 units; what is cut ends in `…`.
const STRING: usize = 4_000;
/// Largest block, in bytes of JSON.
pub const BLOCK: usize = 8 << 10;
/// What a block has besides its payload, in bytes at most: `{"kind":"…","seq":…,"payload":…}`.
const FRAME: usize = 80;
/// What strings are cut to while a block is too large, and how many elements a list or members an object keeps then.
const SMALLER: [(usize, usize); 5] = [(2_000, 100), (1_000, 50), (500, 20), (280, 10), (100, 5)];
/// What is kept of a payload that is too large in any case.
const CORE: [&str; 7] = ["name", "id", "status", "tool_use_id", "phase", "subtype", "text"];

/// The block `{"kind", "seq", "payload"}` as it is sent.
pub fn fit(kind: &str, seq: u64, payload: Map<String, Value>) -> Value {
    let mut block = Map::new();
    block.insert("kind".into(), kind.into());
    block.insert("seq".into(), seq.into());
    let mut shown = redact::block(&Value::Object(payload));
    shrink(&mut shown, STRING, usize::MAX);
    // No kind and no number makes more of the rest than this.
    let most = BLOCK - FRAME;
    let mut fits = size(&shown) <= most;
    for (string, elements) in SMALLER {
        if fits {
            break;
        }
        shrink(&mut shown, string, elements);
        fits = size(&shown) <= most;
    }
    if !fits {
        let all = shown.as_object().cloned().unwrap_or_default();
        shown = all.into_iter().filter(|(key, value)| CORE.contains(&key.as_str()) && value.is_string()).collect();
    }
    block.insert("payload".into(), shown);
    block.into()
}

/// Cuts strings, lists and objects. Strings that were cut before keep one `…`.
fn shrink(value: &mut Value, string: usize, elements: usize) {
    match value {
        Value::String(s) if text::len_utf16(s) > string => {
            let kept = text::head(s, string - 1).trim_end_matches('…');
            *s = format!("{kept}…");
        }
        Value::Array(list) => {
            list.truncate(elements);
            for v in list {
                shrink(v, string, elements);
            }
        }
        Value::Object(members) => {
            let mut left = elements;
            members.retain(|_, v| {
                shrink(v, string, elements);
                let stays = left > 0;
                left = left.saturating_sub(1);
                stays
            });
        }
        _ => {}
    }
}

fn size(value: &Value) -> usize {
    // Writing a value to memory does not fail.
    serde_json::to_vec(value).map_or(usize::MAX / 2, |bytes| bytes.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fitted(payload: Value) -> Value {
        let block = fit("tool_call", 7, payload.as_object().unwrap().clone());
        assert!(size(&block) <= BLOCK, "{}", size(&block));
        block
    }

    #[test]
    fn what_fits_stays_and_secrets_go() {
        let block = fitted(json!({"name": "Bash", "params": {"command": "ls", "api_key": "sk-aaaaaaaaaaaa"}}));
        let payload = json!({"name": "Bash", "params": {"command": "ls", "api_key": "[REDACTED]"}});
        assert_eq!(block, json!({"kind": "tool_call", "seq": 7, "payload": payload}));
    }

    #[test]
    fn long_strings_are_cut_and_marked() {
        let block = fitted(json!({"result": "x".repeat(4_001)}));
        let result = block["payload"]["result"].as_str().unwrap();
        assert_eq!((result.chars().count(), result.ends_with('…')), (4_000, true));
        assert_eq!(fitted(json!({"result": "x".repeat(4_000)}))["payload"]["result"].as_str().unwrap().len(), 4_000);
    }

    #[test]
    fn everything_is_made_small_enough() {
        let wide = fitted(json!({"result": "漢".repeat(4_000)}));
        assert_eq!(wide["payload"]["result"].as_str().unwrap().chars().count(), 2_000);
        let many: Map<String, Value> = (0..80).map(|n| (format!("k{n}"), "y".repeat(5_000).into())).collect();
        assert!(fitted(json!({"name": "n", "params": many}))["payload"]["params"]["k0"].is_string());
        let keys: Map<String, Value> = (0..80).map(|n| (format!("{n}{}", "k".repeat(4_000)), 1.into())).collect();
        assert_eq!(fitted(json!({"name": "n", "id": "i", "params": keys}))["payload"], json!({"name": "n", "id": "i"}));
    }
}
