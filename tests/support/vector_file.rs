//! Runs every case of a vector file and reports all failures at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde_json::Value;

/// Calls `run` with the input of each case of `tests/vectors/<name>.json` and compares the results with `expect`.
///
/// `run` panics on an input it does not know. Cases named in `stricter` are compared with the value given there.
pub fn check(name: &str, stricter: &[(&str, Value)], run: impl Fn(&Value) -> Value) {
    compare(name, stricter, |_| true, run);
}

/// The same for the cases whose `op` is `wanted`, where a file is about several things that are tested apart.
#[allow(dead_code, reason = "most files are about one thing")]
pub fn check_only(name: &str, wanted: impl Fn(&str) -> bool, run: impl Fn(&Value) -> Value) {
    compare(name, &[], wanted, run);
}

fn compare(name: &str, stricter: &[(&str, Value)], wanted: impl Fn(&str) -> bool, run: impl Fn(&Value) -> Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(!cases.is_empty(), "{name}: no cases");
    for (special, _) in stricter {
        assert!(cases.iter().any(|c| c["name"] == *special), "{name}: no case is called {special:?}");
    }
    let mut failures = Vec::new();
    let cases: Vec<&Value> = cases.iter().filter(|c| wanted(c["input"]["op"].as_str().unwrap_or_default())).collect();
    for case in &cases {
        let title = case["name"].as_str().unwrap_or("?");
        let expect = stricter.iter().find(|(n, _)| *n == title).map_or(&case["expect"], |(_, e)| e);
        match catch_unwind(AssertUnwindSafe(|| run(&case["input"]))) {
            Ok(got) if got == *expect => {}
            Ok(got) => failures.push(format!("{title}\n    expected {expect}\n    got      {got}")),
            Err(_) => failures.push(format!("{title}: panicked")),
        }
    }
    assert!(failures.is_empty(), "{name}: {} of {} failed\n  {}", failures.len(), cases.len(), failures.join("\n  "));
}
