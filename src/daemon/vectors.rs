//! What the tests with vectors share.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::store::tests::TempDir;

/// Set in the process that runs the cases: where they may write.
const PLACE: &str = "BELLHOP_VECTORS_PLACE";

/// Runs a test in a process of its own, which knows nothing of this machine's environment: HOME is a directory `h` in
/// the place that `run` is given, and PATH is empty.
pub(super) fn apart(test: &str, run: fn(&Path)) {
    if let Some(place) = std::env::var_os(PLACE) {
        return run(Path::new(&place));
    }
    let dir = TempDir::new();
    let place = fs::canonicalize(&dir.0).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env_clear()
        .env("HOME", place.join("h"))
        .env("PATH", "")
        .env(PLACE, &place)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// The cases of a file.
pub(super) fn cases(file: &str) -> Vec<Value> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(file);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// `$HOME` replaced.
pub(super) fn in_home(value: &Value, home: &Path) -> Value {
    serde_json::from_str(&value.to_string().replace("$HOME", &home.display().to_string())).unwrap()
}

/// The elements of a list; none where there is no list.
pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The texts of a list.
pub(super) fn strings(value: &Value) -> Vec<String> {
    list(value).iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// The members of an object; none where there is no object.
pub(super) fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}
