//! Tells the linker to put together what the daemon runs when it is at rest; `resident.ld` says why.
//!
//! Only for releases, and only where the linker takes such a script: a small program is linked with it first. Without
//! it the program is the same but for the order of its functions, and takes 2 MB more of memory.

use std::env::var;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn main() {
    let script = Path::new("src/packaging/resident.ld");
    println!("cargo:rerun-if-changed=src/packaging/build.rs");
    println!("cargo:rerun-if-changed={}", script.display());
    if var("PROFILE").as_deref() != Ok("release") {
        return;
    }
    let Ok(script) = script.canonicalize() else { return };
    let args = ["-T".to_owned(), script.display().to_string()];
    if linker_takes(&args) {
        for arg in args {
            println!("cargo:rustc-link-arg-bin=bellhop={arg}");
        }
    } else {
        println!("cargo:warning=the linker takes no script: the daemon will need 2 MB more memory");
    }
}

/// Whether a program can be linked with these arguments the way bellhop will be.
fn linker_takes(args: &[String]) -> bool {
    let (Ok(rustc), Ok(target), Ok(out)) = (var("RUSTC"), var("TARGET"), var("OUT_DIR")) else { return false };
    let source = PathBuf::from(&out).join("probe.rs");
    if std::fs::write(&source, "fn main() {}").is_err() {
        return false;
    }
    let mut probe = Command::new(rustc);
    probe.arg(&source).args(["--crate-type", "bin", "--target", &target, "--out-dir", &out]);
    if let Ok(flags) = var("CARGO_ENCODED_RUSTFLAGS") {
        probe.args(flags.split('\u{1f}').filter(|flag| !flag.is_empty()));
    }
    if let Ok(linker) = var("RUSTC_LINKER") {
        probe.arg(format!("-Clinker={linker}"));
    }
    probe.args(args.iter().map(|arg| format!("-Clink-arg={arg}")));
    probe.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
