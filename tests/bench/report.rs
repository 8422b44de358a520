//! The figures: printed as they come, and as JSON at the end.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::{Failure, proc_fs};

/// Everything measured so far.
pub struct Report {
    machine: Vec<(&'static str, String)>,
    quick: bool,
    results: Vec<Value>,
}

impl Report {
    /// Prints what the figures depend on.
    pub fn begin(quick: bool) -> Self {
        let machine = proc_fs::machine();
        println!("bellhop {}{}", env!("CARGO_PKG_VERSION"), if quick { ", quick" } else { "" });
        for (name, value) in &machine {
            println!("    {name:<26} {value}");
        }
        Self { machine, quick, results: Vec::new() }
    }

    /// One case of a measurement with its figures: name, value, unit.
    pub fn add(&mut self, measure: &str, case: &str, figures: &[(&str, f64, &str)]) {
        println!("\n{measure}: {case}");
        let mut object = Map::new();
        for (name, value, unit) in figures {
            let digits = if value.fract() == 0.0 || value.abs() >= 1000.0 { 0 } else { 2 };
            println!("    {name:<26} {value:>12.digits$} {unit}");
            object.insert((*name).to_owned(), json!({"value": value, "unit": unit}));
        }
        self.results.push(json!({"measure": measure, "case": case, "figures": object}));
    }

    /// Writes the JSON file.
    pub fn write(&self, file: &Path) -> Result<(), Failure> {
        let machine: Map<String, Value> =
            self.machine.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let document = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "quick": self.quick,
            "machine": machine,
            "results": self.results,
        });
        let text = serde_json::to_string_pretty(&document)? + "\n";
        std::fs::write(file, text).map_err(|e| format!("{}: {e}", file.display()).into())
    }
}
