//! What a dashboard is shown of a runtime's events, and which files a reply names, case by case.

#[path = "support/vector_file.rs"]
mod vector_file;

use bellhop::channel::botcord::stream_block::normalise;
use bellhop::engine::attachments;
use bellhop::message::BlockKind;
use serde::Deserialize;
use serde_json::{Value, json};
use vector_file::check;

#[test]
fn vectors_stream_block() {
    check("stream-block", &[], |input| {
        let block = &input["block"];
        let kind = BlockKind::deserialize(&block["kind"]).unwrap_or(BlockKind::Other);
        let shown = normalise(kind, &block["raw"]);
        // Neither of them sends the runtime's own event with words; the other daemon does with all the rest, bellhop never.
        let raw_included = shown.kind != "assistant";
        let block = json!({"kind": shown.kind, "seq": input["seq"], "payload": shown.payload});
        json!({"block": block, "raw_included": raw_included})
    });
}

#[test]
fn vectors_reply_paths() {
    check("reply-paths", &[], |input| match input["op"].as_str().unwrap() {
        "candidates" => attachments::candidates(input["text"].as_str().unwrap()).into(),
        "content_type" => {
            let extension = input["ext"].as_str().unwrap().trim_start_matches('.');
            attachments::content_type(extension).map_or(Value::Null, Value::from)
        }
        op => panic!("unknown op {op}"),
    });
}
