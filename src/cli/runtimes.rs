//! `bellhop runtimes`: what is installed, and what can be chosen for it.

use serde::Serialize;
use serde_json::Value;

use super::args::Parsed;
use super::exit::Exit;
use super::failure::Failure;
use super::host::{LoginCheck, RuntimeRow, Wanted};
use super::output::{one_line, say, say_json, table};
use super::{Context, gateways};
use crate::runtime::catalogue::{Model, Parameter, Setting};

#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    name: &'a str,
    available: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    models: Option<&'a [Model]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<&'a [Parameter]>,
    #[serde(skip_serializing_if = "<[Value]>::is_empty")]
    profiles: &'a [Value],
    #[serde(skip_serializing_if = "<[Value]>::is_empty")]
    endpoints: &'a [Value],
}

/// Runs the command.
pub fn run(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let config = context.config()?;
    let models = args.flag("models");
    let rows = context.host.runtimes(&context.home, &config, Wanted { models, places: true, login: LoginCheck::None });
    if args.flag("json") {
        say_json(&rows.iter().map(|row| json(row, models)).collect::<Vec<_>>())?;
    } else {
        say(&text(&rows))?;
    }
    Ok(Exit::Ok)
}

fn json(row: &RuntimeRow, models: bool) -> Row<'_> {
    let wanted = models && row.ok;
    Row {
        id: &row.id,
        name: &row.name,
        available: row.ok,
        version: row.version.as_deref(),
        path: row.path.as_deref(),
        error: row.problem.as_deref(),
        models: wanted.then_some(row.catalogue.models.as_slice()),
        parameters: wanted.then_some(row.catalogue.parameters.as_slice()),
        profiles: &row.profiles,
        endpoints: &row.endpoints,
    }
}

fn text(rows: &[RuntimeRow]) -> String {
    let head = ["RUNTIME", "NAME", "STATUS", "VERSION", "PATH"].map(ToOwned::to_owned).to_vec();
    let cell = |value: &Option<String>| value.as_deref().map_or("—".to_owned(), |v| one_line(v, 80));
    let cells = rows.iter().map(|r| {
        let status = if r.ok { "ok" } else { "missing" };
        vec![one_line(&r.id, 40), one_line(&r.name, 40), status.into(), cell(&r.version), cell(&r.path)]
    });
    let table = table("", &std::iter::once(head).chain(cells).collect::<Vec<_>>());
    let mut lines = table.lines();
    let mut out = format!("{}\n", lines.next().unwrap_or_default());
    for (row, line) in rows.iter().zip(lines) {
        out.push_str(&format!("{line}\n"));
        let models = row.catalogue.models.iter().map(model);
        for line in models.chain(row.catalogue.parameters.iter().map(parameter)) {
            out.push_str(&format!("    {}\n", one_line(&line, 200)));
        }
        for profile in &row.profiles {
            out.push_str(&format!("    profile {}\n", one_line(profile["name"].as_str().unwrap_or_default(), 80)));
        }
        for line in row.endpoints.iter().flat_map(gateways::lines) {
            out.push_str(&format!("    {line}\n"));
        }
    }
    out
}

fn model(model: &Model) -> String {
    let name = model.display_name.as_ref().filter(|name| **name != model.id);
    let name = name.map(|name| format!(" ({name})")).unwrap_or_default();
    let default = if model.is_default == Some(true) { ", the default" } else { "" };
    format!("model {}{name}{default}", model.id)
}

fn parameter(parameter: &Parameter) -> String {
    let mut line = format!("parameter {}", parameter.id);
    if let Some(flag) = &parameter.flag {
        line.push_str(&format!(", {flag}"));
    }
    if !parameter.values.is_empty() {
        line.push_str(&format!(": {}", parameter.values.join(" ")));
    }
    match &parameter.default_value {
        Some(Setting::Text(value)) => line.push_str(&format!(" [default: {value}]")),
        Some(Setting::Integer(value)) => line.push_str(&format!(" [default: {value}]")),
        Some(Setting::Boolean(value)) => line.push_str(&format!(" [default: {value}]")),
        None => {}
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::catalogue::{Catalogue, Origin, ParameterType};

    fn row() -> RuntimeRow {
        let mut model = Model::new("m1", Origin::Builtin);
        model.display_name = Some("One".into());
        model.is_default = Some(true);
        let effort = Parameter::new("effort", "Effort", ParameterType::Enum, Origin::Cli)
            .flag("--effort")
            .values(["low", "high"])
            .default_value(Some(Setting::Text("low".into())));
        RuntimeRow {
            id: "codex".into(),
            name: "Codex CLI".into(),
            ok: true,
            catalogue: Catalogue { models: vec![model], parameters: vec![effort] },
            ..RuntimeRow::default()
        }
    }

    #[test]
    fn what_can_be_chosen_stands_below_its_runtime() {
        assert_eq!(
            text(&[row()]),
            "RUNTIME  NAME       STATUS  VERSION  PATH\n\
             codex    Codex CLI  ok      —        —\n    \
             model m1 (One), the default\n    \
             parameter effort, --effort: low high [default: low]\n"
        );
    }

    #[test]
    fn models_are_in_the_json_when_they_are_wanted() {
        let bare = serde_json::to_value(json(&row(), false)).unwrap();
        assert_eq!(bare, serde_json::json!({"id":"codex","name":"Codex CLI","available":true}));
        let full = serde_json::to_value(json(&row(), true)).unwrap();
        assert_eq!(
            (full["models"][0]["id"].as_str(), full["parameters"][0]["id"].as_str()),
            (Some("m1"), Some("effort"))
        );
    }
}
