//! Units of systemd that start a gateway.

use super::{Found, Places, from_variables, read};

/// Where units are.
const DIRECTORIES: [&str; 3] = ["etc/systemd/system", "lib/systemd/system", "usr/lib/systemd/system"];
/// What they are called.
const NAMES: [&str; 2] = ["openclaw.service", "openclaw-gateway.service"];

/// The gateways that units start.
pub(super) fn gateways(places: &Places<'_>) -> Vec<Found> {
    let paths = DIRECTORIES.iter().flat_map(|dir| NAMES.map(|name| places.root.join(dir).join(name)));
    paths.filter_map(|path| gateway(places, &read(&path)?)).collect()
}

fn gateway(places: &Places<'_>, unit: &str) -> Option<Found> {
    let mut variables: Vec<(String, String)> = Vec::new();
    let mut port = None;
    for line in joined(unit).lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        match key.trim() {
            "Environment" => variables.extend(words(value).iter().filter_map(|word| variable(word))),
            "EnvironmentFile" => {
                let path = value.trim().trim_start_matches('-');
                let lines = read(&places.at(path)).unwrap_or_default();
                let lines = lines.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
                variables.extend(lines.filter_map(|line| {
                    let (name, value) = line.split_once('=')?;
                    Some((name.trim().to_owned(), words(value).concat()))
                }));
            }
            "ExecStart" => port = port_of(&words(value)).or(port),
            _ => {}
        }
    }
    // Of a name that is there twice the last value counts.
    let get = |name: &str| {
        let given = variables.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.clone());
        given.or_else(|| port.clone().filter(|_| name == "OPENCLAW_GATEWAY_PORT"))
    };
    from_variables(&get)
}

/// Lines that end in a backslash go on in the next one.
fn joined(unit: &str) -> String {
    unit.replace("\\\r\n", " ").replace("\\\n", " ")
}

fn variable(word: &str) -> Option<(String, String)> {
    word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
}

fn port_of(command: &[String]) -> Option<String> {
    let at = command.iter().position(|word| word == "--port" || word.starts_with("--port="))?;
    let word = &command[at];
    word.strip_prefix("--port=").map(str::to_owned).or_else(|| command.get(at + 1).cloned())
}

/// The words of a line; quotes keep blanks, a backslash keeps what follows it.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.trim().chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' if quote != Some('\'') => word.get_or_insert_default().extend(chars.next()),
            _ if quote == Some(c) => quote = None,
            '"' | '\'' if quote.is_none() => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            _ if c.is_whitespace() && quote.is_none() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_unit_names_its_gateway() {
        let dir = std::env::temp_dir().join(format!("bellhop-units-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("env"), "# x\nOPENCLAW_GATEWAY_TOKEN=\"s p\"\nOTHER=1\n").unwrap();
        let places = Places { home: &dir, root: &dir, env: &|_| None, settings: &Value::Null };
        let read = |unit: &str| gateway(&places, unit).map(|f| (f.url, f.token));
        let unit = "[Service]\nExecStart=/usr/bin/openclaw gateway \\\n  --port 7\nEnvironmentFile=-~/env\n";
        assert_eq!(read(unit), Some(("ws://127.0.0.1:7".into(), Some("s p".into()))));
        let unit = "ExecStart=x --port=7\nEnvironment=\"A=b c\" OPENCLAW_GATEWAY_PORT=8 'OPENCLAW_ACP_TOKEN=t\\'\n";
        assert_eq!(read(unit), Some(("ws://127.0.0.1:8".into(), Some("t\\".into()))));
        assert_eq!(read("ExecStart=x --port\n"), None);
        assert_eq!(read("EnvironmentFile=/gone\n"), None);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn words_are_those_of_systemd() {
        assert_eq!(words(r#" a "b c"d '' e\ f "\"" "#), ["a", "b cd", "", "e f", "\""]);
    }
}
