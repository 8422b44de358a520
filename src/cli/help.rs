//! `--help`, made from the table. At most 80 columns, plain text.

use super::args::{Command, Opt, Value};
use super::table::{COMMANDS, ENVIRONMENT, GLOBAL};

const WIDTH: usize = 80;

/// `sessions reset`, or `send`.
pub fn full_name(command: &Command, verb: Option<&Command>) -> String {
    match verb {
        Some(verb) => format!("{} {}", command.name, verb.name),
        None => command.name.to_owned(),
    }
}

/// Help about the whole program.
pub fn overview() -> String {
    let mut out = String::from(
        "Carries messages between rooms and the agent CLIs of this machine.\n\n\
         Usage: bellhop [--home DIR] COMMAND [OPTIONS]\n\nCommands:\n",
    );
    for command in COMMANDS.iter().filter(|c| !c.hidden) {
        item(&mut out, &format!("  {}", command.name), 16, command.summary);
    }
    out.push_str("\nOptions:\n");
    options(&mut out, GLOBAL);
    out.push_str("\nEnvironment:\n");
    for (name, text) in ENVIRONMENT {
        item(&mut out, &format!("  {name}"), 26, text);
    }
    out.push_str("\n'bellhop COMMAND --help' tells more about one. Manual: bellhop(1), bellhop.json(5).\n");
    out
}

/// Help about one command or one verb of it.
pub fn command(command: &Command, verb: Option<&Command>) -> String {
    let target = verb.unwrap_or(command);
    let mut out = format!("{}.\n\n", target.summary);
    for (n, line) in synopses(command, verb).iter().enumerate() {
        out.push_str(if n == 0 { "Usage: bellhop " } else { "       bellhop " });
        wrap_after(&mut out, line, 15, 17);
    }
    for paragraph in target.details {
        out.push('\n');
        wrap(&mut out, paragraph);
    }
    let verbs = if verb.is_none() { command.verbs } else { &[] };
    if !verbs.is_empty() {
        out.push_str("\nVerbs:\n");
    }
    for verb in verbs {
        let default = if command.default_verb == Some(verb.name) { " (default)" } else { "" };
        item(&mut out, &format!("  {}", verb.name), 14, &format!("{}{default}", verb.summary));
    }
    let mut seen: Vec<Opt> = target.options.to_vec();
    for o in verbs.iter().flat_map(|v| v.options) {
        if !seen.iter().any(|s| s.long == o.long) {
            seen.push(*o);
        }
    }
    out.push_str("\nOptions:\n");
    seen.extend_from_slice(GLOBAL);
    options(&mut out, &seen);
    out
}

/// The usage lines of a command, one for each verb, without the program's name.
pub fn synopses(command: &Command, verb: Option<&Command>) -> Vec<String> {
    let line = |name: String, target: &Command| {
        let mut words = vec![name];
        words.extend(target.options.iter().map(|o| {
            let many = if o.many { "..." } else { "" };
            format!("[{}]{many}", spelled(o))
        }));
        if !target.operands.synopsis.is_empty() {
            words.push(target.operands.synopsis.to_owned());
        }
        words.join(" ")
    };
    match verb {
        Some(verb) => vec![line(full_name(command, Some(verb)), verb)],
        None if command.verbs.is_empty() => vec![line(command.name.to_owned(), command)],
        None => command.verbs.iter().map(|v| line(full_name(command, Some(v)), v)).collect(),
    }
}

fn spelled(o: &Opt) -> String {
    match (o.short, o.value) {
        (Some(c), Value::Flag) => format!("-{c}"),
        (Some(c), value) => format!("-{c} {}", value.placeholder()),
        (None, value) => format!("--{}{}", o.long, value.shown()),
    }
}

fn options(out: &mut String, list: &[Opt]) {
    for o in list {
        let short = o.short.map_or("    ".to_owned(), |c| format!("-{c}, "));
        let value = o.value.shown();
        let default = o.default.map_or(String::new(), |d| format!(" [default: {d}]"));
        item(out, &format!("  {short}--{}{value}", o.long), 30, &format!("{}{default}", o.help));
    }
}

fn item(out: &mut String, label: &str, column: usize, text: &str) {
    out.push_str(label);
    let width = label.chars().count();
    if width + 1 < column {
        out.push_str(&" ".repeat(column - width));
    } else {
        out.push('\n');
        out.push_str(&" ".repeat(column));
    }
    wrap_after(out, text, column, column);
}

fn wrap(out: &mut String, text: &str) {
    wrap_after(out, text, 0, 0);
}

/// Appends `text` at column `used`; further lines begin at column `indent`. Brackets keep their words together.
fn wrap_after(out: &mut String, text: &str, mut used: usize, indent: usize) {
    let mut first = true;
    for word in pieces(text) {
        let width = word.chars().count();
        if !first && used + 1 + width > WIDTH {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            used = indent;
        } else if !first {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += width;
        first = false;
    }
    out.push('\n');
}

/// Words, where `[--agent AGENT]` is one.
fn pieces(text: &str) -> Vec<&str> {
    let mut list = Vec::new();
    let (mut start, mut depth) = (0, 0_usize);
    for (at, c) in text.char_indices() {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            ' ' if depth == 0 => {
                list.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    list.push(&text[start..]);
    list.retain(|w| !w.is_empty());
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_wider_than_a_terminal() {
        let mut all = vec![overview()];
        for c in COMMANDS {
            all.push(command(c, None));
            all.extend(c.verbs.iter().map(|v| command(c, Some(v))));
        }
        for line in all.iter().flat_map(|t| t.lines()) {
            assert!(line.chars().count() <= WIDTH + 4, "{line}");
        }
    }

    #[test]
    fn an_option_stays_in_one_piece() {
        assert_eq!(pieces("send [--agent AGENT] TEXT|-"), ["send", "[--agent AGENT]", "TEXT|-"]);
    }
}
