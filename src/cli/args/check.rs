//! What getopts does not look at, and what it says in bellhop's words.

use super::{Command, Opt, UsageError, Value};
use crate::cli::help;
use crate::cli::nearest::unknown;
use crate::cli::table::{COMMANDS, GLOBAL};

pub(super) fn getopts_for(options: &[Opt]) -> getopts::Options {
    let mut set = getopts::Options::new();
    for o in options.iter().chain(GLOBAL) {
        let short = o.short.map(String::from).unwrap_or_default();
        let has_arg = match o.value {
            Value::Flag => getopts::HasArg::No,
            Value::Maybe(_) => getopts::HasArg::Maybe,
            _ => getopts::HasArg::Yes,
        };
        // A flag given twice means the same as once.
        let occur = if o.many || o.value == Value::Flag { getopts::Occur::Multi } else { getopts::Occur::Optional };
        set.opt(&short, o.long, o.help, o.value.placeholder(), has_arg, occur);
    }
    set
}

/// getopts takes whatever follows an option as its value. `--timeout --json` is a forgotten value, though.
pub(super) fn check_values(args: &[String], options: &[Opt], stop_at_operand: bool) -> Result<(), UsageError> {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            return Ok(());
        }
        let is_option = arg.len() > 1 && arg.starts_with('-');
        if !is_option && stop_at_operand {
            return Ok(());
        }
        let wants = options.iter().chain(GLOBAL).find(|o| {
            let short = o.short.is_some_and(|c| {
                !arg.starts_with("--") && arg.strip_prefix('-').and_then(|s| s.strip_suffix(c)).is_some()
            });
            !o.value.is_alone() && (short || arg.strip_prefix("--") == Some(o.long))
        });
        let (true, Some(option)) = (is_option, wants) else { continue };
        if let Some(value) = args.next()
            && value.len() > 1
            && value.starts_with('-')
        {
            return Err(UsageError(format!(
                "option --{0} needs a value, found {value}; a value that begins with - is written --{0}={value}",
                option.long
            )));
        }
    }
    Ok(())
}

pub(super) fn check_operands(command: &Command, verb: Option<&Command>, operands: &[String]) -> Result<(), UsageError> {
    let expected = verb.unwrap_or(command).operands;
    let name = help::full_name(command, verb);
    if operands.len() < expected.min {
        return Err(UsageError(format!("{name} needs {}", expected.synopsis)));
    }
    if let Some(extra) = operands.get(expected.max).filter(|_| !ignores(command)) {
        return Err(UsageError(format!("{name}: unexpected argument {extra:?}")));
    }
    if let Value::OneOf(words) = expected.value
        && let Some(wrong) = operands.iter().find(|o| !words.contains(&o.as_str()))
    {
        return Err(UsageError(format!("{name}: expected {}, found {wrong:?}", words.join(", "))));
    }
    Ok(())
}

/// Commands that scripts for the BotCord daemon may give a word too many: it took no notice.
pub(super) fn ignores(command: &Command) -> bool {
    matches!(command.name, "start" | "stop" | "status" | "logs")
}

pub(super) fn check_option(option: &Opt, matches: &getopts::Matches) -> Result<(), UsageError> {
    if option.value == Value::Flag {
        return Ok(());
    }
    for given in matches.opt_strs(option.long) {
        let expected = match option.value {
            Value::Number(_) if given.parse::<u64>().is_err() => "a whole number".to_owned(),
            Value::OneOf(words) if !words.contains(&given.as_str()) => words.join(", "),
            Value::Maybe(word) if word != given => format!("nothing or {word}"),
            Value::File | Value::Dir | Value::Agent | Value::Conversation | Value::Runtime if given.is_empty() => {
                format!("{}, which is not empty", option.value.placeholder())
            }
            _ => continue,
        };
        return Err(UsageError(format!("option --{}: expected {expected}, found {given:?}", option.long)));
    }
    Ok(())
}

pub(super) fn explain(fail: &getopts::Fail, command: Option<&Command>, verb: Option<&Command>) -> UsageError {
    use getopts::Fail;
    let dashed = |name: &str| if name.chars().count() == 1 { format!("-{name}") } else { format!("--{name}") };
    UsageError(match fail {
        Fail::UnrecognizedOption(name) => {
            let own = verb.or(command).map_or(&[][..], |c| c.options);
            let known = own.iter().chain(GLOBAL).map(|o| format!("--{}", o.long)).collect::<Vec<_>>();
            let mut text = unknown("option", &dashed(name), known.iter().map(String::as_str));
            // An option of some command, in front of every command.
            if command.is_none()
                && let Some(c) = COMMANDS.iter().find(|c| c.options.iter().any(|o| o.long == *name))
            {
                text = format!("option {} belongs to a command: bellhop {} {0}", dashed(name), c.name);
            }
            text
        }
        Fail::ArgumentMissing(name) => format!("option {} needs a value", dashed(name)),
        Fail::UnexpectedArgument(name) => format!("option {} takes no value", dashed(name)),
        Fail::OptionDuplicated(name) => format!("option {} is given more than once", dashed(name)),
        Fail::OptionMissing(name) => format!("option {} is missing", dashed(name)),
    })
}
