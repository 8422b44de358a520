//! Completion scripts for three shells, made from the table.

use super::args::{Command, Opt, Value};
use super::table::{COMMANDS, GLOBAL};
use crate::config::RUNTIMES;

/// The script for `bash`, `zsh` or `fish`; `None` for any other shell.
pub fn script(shell: &str) -> Option<String> {
    match shell {
        "bash" => Some(bash()),
        "zsh" => Some(zsh()),
        "fish" => Some(fish()),
        _ => None,
    }
}

fn listed() -> impl Iterator<Item = &'static Command> {
    COMMANDS.iter().filter(|c| !c.hidden)
}

/// Every command and, where it has them, every verb: `(sessions, reset)`.
fn targets() -> Vec<(&'static Command, Option<&'static Command>)> {
    listed().flat_map(|c| std::iter::once((c, None)).chain(c.verbs.iter().map(move |v| (c, Some(v))))).collect()
}

/// The options that may follow: the verb's, or the command's with those of its default verb.
fn options_of(command: &'static Command, verb: Option<&'static Command>) -> Vec<&'static Opt> {
    let default = command.verbs.iter().find(|v| verb.is_none() && Some(v.name) == command.default_verb);
    let own = verb.or(default).unwrap_or(command).options;
    own.iter().chain(GLOBAL).collect()
}

fn words(list: impl IntoIterator<Item = impl Into<String>>) -> String {
    list.into_iter().map(Into::into).collect::<Vec<String>>().join(" ")
}

/// Values that are completed: a fixed list of words.
fn fixed(value: Value) -> Option<Vec<&'static str>> {
    match value {
        Value::Runtime => Some(RUNTIMES.to_vec()),
        Value::OneOf(words) => Some(words.to_vec()),
        _ => None,
    }
}

fn bash() -> String {
    let mut out = String::from(
        "# bash completion for bellhop\n\
         _bellhop() {\n    \
         local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command= verb= word i skip=\n    \
         COMPREPLY=()\n    \
         for ((i = 1; i < COMP_CWORD; i++)); do\n        \
         word=${COMP_WORDS[i]}\n        \
         if [[ -n $skip ]]; then skip=; continue; fi\n        \
         case $word in\n",
    );
    let mut takers: Vec<&str> = Vec::new();
    for (c, v) in targets() {
        takers.extend(options_of(c, v).iter().filter(|o| !o.value.is_alone()).map(|o| o.long));
    }
    crate::sort::sort(&mut takers);
    takers.dedup();
    out.push_str(&format!(
        "            {}) skip=1 ;;\n            -*|=) ;;\n            *) if [[ -z $command ]]; then command=$word; \
         elif [[ -z $verb ]]; then verb=$word; fi ;;\n        esac\n    done\n",
        takers.iter().map(|t| format!("--{t}")).collect::<Vec<_>>().join("|")
    ));
    out.push_str("    case $prev in\n");
    for (kind, action) in [(Value::File, "-f"), (Value::Dir, "-d")] {
        let names = options_with(kind);
        if !names.is_empty() {
            out.push_str(&format!(
                "        {}) COMPREPLY=($(compgen {action} -- \"$cur\")); compopt -o filenames; return ;;\n",
                names.join("|")
            ));
        }
    }
    let mut chosen = Vec::new();
    for (c, v) in targets() {
        chosen.extend(options_of(c, v).into_iter().map(|o| o.value).filter(|value| fixed(*value).is_some()));
    }
    crate::sort::sort_by_key(&mut chosen, |value| fixed(*value));
    chosen.dedup();
    for value in chosen {
        let names = options_with(value).join("|");
        let values = words(fixed(value).unwrap_or_default());
        out.push_str(&format!("        {names}) COMPREPLY=($(compgen -W '{values}' -- \"$cur\")); return ;;\n"));
    }
    // Nothing is known of other values, and an option is none of them.
    let others = takers.iter().map(|t| format!("--{t}")).collect::<Vec<_>>().join("|");
    out.push_str(&format!("        {others}) return ;;\n    esac\n"));
    out.push_str("    case \"$command $verb\" in\n");
    for (c, v) in targets() {
        let Some(v) = v else { continue };
        out.push_str(&format!("        '{} {}') word='{}' ;;\n", c.name, v.name, bash_options(c, Some(v))));
    }
    for c in listed() {
        let verbs = words(c.verbs.iter().map(|v| v.name));
        let values = words(fixed(c.operands.value).unwrap_or_default());
        out.push_str(&format!(
            "        '{} '*) word='{}' ;;\n",
            c.name,
            join(&[&verbs, &values, &bash_options(c, None)])
        ));
    }
    out.push_str(&format!(
        "        *) word='{}' ;;\n    esac\n    COMPREPLY=($(compgen -W \"$word\" -- \"$cur\"))\n}}\ncomplete -o default -F \
         _bellhop bellhop\n",
        join(&[&words(listed().map(|c| c.name)), &words(GLOBAL.iter().map(|o| format!("--{}", o.long)))])
    ));
    out
}

fn options_with(value: Value) -> Vec<String> {
    let mut names: Vec<String> = targets()
        .into_iter()
        .flat_map(|(c, v)| options_of(c, v))
        .filter(|o| o.value == value)
        .map(|o| format!("--{}", o.long))
        .collect();
    crate::sort::sort(&mut names);
    names.dedup();
    names
}

fn bash_options(command: &'static Command, verb: Option<&'static Command>) -> String {
    words(options_of(command, verb).iter().map(|o| format!("--{}", o.long)))
}

fn join(parts: &[&str]) -> String {
    parts.iter().filter(|p| !p.is_empty()).copied().collect::<Vec<_>>().join(" ")
}

fn zsh() -> String {
    let mut out = String::from("#compdef bellhop\n# zsh completion for bellhop\n\n");
    for (c, v) in targets() {
        out.push_str(&format!("{}() {{\n    _arguments -s \\\n", zsh_function(c, v)));
        for o in options_of(c, v) {
            for spec in zsh_option(o) {
                out.push_str(&format!("        {spec} \\\n"));
            }
        }
        if v.is_none() && !c.verbs.is_empty() {
            out.push_str(&format!("        '1:verb:(({}))' \\\n", zsh_described(c.verbs)));
            out.push_str("        '*::argument:->rest'\n    [[ $state == rest ]] || return\n    case $words[1] in\n");
            for verb in c.verbs {
                out.push_str(&format!("        {}) {} ;;\n", verb.name, zsh_function(c, Some(verb))));
            }
            out.push_str("    esac\n}\n\n");
            continue;
        }
        let target = v.unwrap_or(c);
        let action = fixed(target.operands.value).map_or(String::new(), |w| format!("({})", words(w)));
        match target.operands.max {
            0 => out.push_str("        && return\n}\n\n"),
            _ => out.push_str(&format!("        '*:{}:{action}'\n}}\n\n", zsh_quoted(target.operands.synopsis))),
        }
    }
    out.push_str("_bellhop() {\n    local state line\n    _arguments -C -s \\\n");
    for o in GLOBAL {
        for spec in zsh_option(o) {
            out.push_str(&format!("        {spec} \\\n"));
        }
    }
    let commands: Vec<Command> = listed().copied().collect();
    out.push_str(&format!("        '1:command:(({}))' \\\n        '*::argument:->rest'\n", zsh_described(&commands)));
    out.push_str("    [[ $state == rest ]] || return\n    case $words[1] in\n");
    for c in listed() {
        out.push_str(&format!("        {}) {} ;;\n", c.name, zsh_function(c, None)));
    }
    out.push_str("    esac\n}\n\n_bellhop \"$@\"\n");
    out
}

fn zsh_function(command: &Command, verb: Option<&Command>) -> String {
    match verb {
        Some(verb) => format!("_bellhop_{}_{}", command.name, verb.name),
        None => format!("_bellhop_{}", command.name),
    }
}

fn zsh_described(commands: &[Command]) -> String {
    commands.iter().map(|c| format!("{}\\:\"{}\"", c.name, zsh_quoted(c.summary))).collect::<Vec<_>>().join(" ")
}

/// For use inside single quotes and the brackets of a specification.
fn zsh_quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "'\\''").replace('[', "\\[").replace(']', "\\]").replace(':', "\\:")
}

fn zsh_option(o: &Opt) -> Vec<String> {
    let action = match o.value {
        Value::Flag | Value::Maybe(_) => String::new(),
        Value::File => ":file:_files".into(),
        Value::Dir => ":directory:_files -/".into(),
        value => {
            let list = fixed(value).map_or(String::new(), |w| format!("({})", words(w)));
            format!(":{}:{list}", value.placeholder().to_lowercase())
        }
    };
    let equals = if o.value.is_alone() { "" } else { "=" };
    let many = if o.many { "*" } else { "" };
    let mut specs = vec![format!("'{many}--{}{equals}[{}]{action}'", o.long, zsh_quoted(o.help))];
    if let Some(c) = o.short {
        specs.push(format!("'{many}-{c}[{}]{action}'", zsh_quoted(o.help)));
    }
    specs
}

fn fish() -> String {
    let mut out = String::from("# fish completion for bellhop\ncomplete -c bellhop -f\n");
    let names = words(listed().map(|c| c.name));
    for c in listed() {
        out.push_str(&format!(
            "complete -c bellhop -n 'not __fish_seen_subcommand_from {names}' -a {} -d {}\n",
            c.name,
            fish_quoted(c.summary)
        ));
    }
    for o in GLOBAL {
        out.push_str(&fish_option("", o));
    }
    for c in listed() {
        let verbs = words(c.verbs.iter().map(|v| v.name));
        let here = format!("__fish_seen_subcommand_from {}", c.name);
        for verb in c.verbs {
            out.push_str(&format!(
                "complete -c bellhop -n '{here}; and not __fish_seen_subcommand_from {verbs}' -a {} -d {}\n",
                verb.name,
                fish_quoted(verb.summary)
            ));
            for o in verb.options {
                out.push_str(&fish_option(&format!("{here}; and __fish_seen_subcommand_from {}", verb.name), o));
            }
        }
        for o in c.options {
            out.push_str(&fish_option(&here, o));
        }
        if let Some(values) = fixed(c.operands.value) {
            out.push_str(&format!("complete -c bellhop -n '{here}' -a '{}'\n", words(values)));
        }
    }
    out
}

fn fish_option(condition: &str, o: &Opt) -> String {
    let mut line = String::from("complete -c bellhop");
    if !condition.is_empty() {
        line.push_str(&format!(" -n '{condition}'"));
    }
    line.push_str(&format!(" -l {}", o.long));
    if let Some(c) = o.short {
        line.push_str(&format!(" -s {c}"));
    }
    match o.value {
        Value::Flag | Value::Maybe(_) => {}
        Value::File => line.push_str(" -r -F"),
        Value::Dir => line.push_str(" -x -a '(__fish_complete_directories)'"),
        value => match fixed(value) {
            Some(list) => line.push_str(&format!(" -x -a '{}'", words(list))),
            None => line.push_str(" -x"),
        },
    }
    format!("{line} -d {}\n", fish_quoted(o.help))
}

fn fish_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_knows_every_command_and_option() {
        for shell in ["bash", "zsh", "fish"] {
            let script = script(shell).unwrap();
            for (c, v) in targets() {
                assert!(script.contains(c.name), "{shell}: {}", c.name);
                assert!(v.is_none_or(|v| script.contains(v.name)), "{shell}: {}", c.name);
                for o in options_of(c, v) {
                    assert!(script.contains(o.long), "{shell}: {} --{}", c.name, o.long);
                }
            }
        }
        assert_eq!(script("tcsh"), None);
    }
}
