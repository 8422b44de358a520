//! What a command line may hold, and how it is taken apart.
//!
//! The types of the table in [`super::table`] and the parser over it: a thin layer on `getopts`, which
//! knows options but no commands. Every mistake is a [`UsageError`] that names the argument at fault and,
//! where there is one, the nearest thing that exists.

mod check;

use std::ffi::OsString;
use std::fmt;

use self::check::{check_operands, check_option, check_values, explain, getopts_for};
use super::help;
use super::nearest::unknown;
use super::table::{COMMANDS, GLOBAL};

/// What an option or an operand takes; decides its placeholder, its check and its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing: the option is given or not.
    Flag,
    /// Any text.
    Text(&'static str),
    /// A whole number, not negative.
    Number(&'static str),
    /// Path of a file.
    File,
    /// Path of a directory.
    Dir,
    /// Id of an agent.
    Agent,
    /// Id of a conversation.
    Conversation,
    /// Id of a runtime.
    Runtime,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Nothing, or this word behind an equals sign.
    Maybe(&'static str),
}

impl Value {
    /// What stands for the value in help texts; empty for a flag.
    pub fn placeholder(self) -> &'static str {
        match self {
            Self::Flag | Self::Maybe(_) => "",
            Self::Text(name) | Self::Number(name) => name,
            Self::File => "FILE",
            Self::Dir => "DIR",
            Self::Agent => "AGENT",
            Self::Conversation => "CONVERSATION",
            Self::Runtime => "RUNTIME",
            Self::OneOf(_) => "WORD",
        }
    }

    /// Whether no value has to follow.
    pub fn is_alone(self) -> bool {
        matches!(self, Self::Flag | Self::Maybe(_))
    }

    /// What help texts show behind the option's name.
    pub fn shown(self) -> String {
        match self {
            Self::Flag => String::new(),
            Self::Maybe(word) => format!("[={word}]"),
            value => format!(" {}", value.placeholder()),
        }
    }
}

/// An option.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// Name without the dashes.
    pub long: &'static str,
    /// One-letter form.
    pub short: Option<char>,
    /// What it takes.
    pub value: Value,
    /// Whether it may be repeated.
    pub many: bool,
    /// What holds without it, where help should say so. Commands take numbers from here.
    pub default: Option<&'static str>,
    /// One line, without a full stop.
    pub help: &'static str,
}

/// What a command takes besides options.
#[derive(Clone, Copy, Debug)]
pub struct Operands {
    /// How the usage line shows them.
    pub synopsis: &'static str,
    /// At least so many.
    pub min: usize,
    /// At most so many.
    pub max: usize,
    /// What each of them is.
    pub value: Value,
}

impl Operands {
    /// None at all.
    pub const NONE: Self = Self { synopsis: "", min: 0, max: 0, value: Value::Text("") };
}

/// A command, or a verb of one.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// As it is typed.
    pub name: &'static str,
    /// One line, without a full stop.
    pub summary: &'static str,
    /// Paragraphs for help and the manual.
    pub details: &'static [&'static str],
    /// Its own options.
    pub options: &'static [Opt],
    /// What else it takes.
    pub operands: Operands,
    /// Its verbs; one level only.
    pub verbs: &'static [Command],
    /// The verb that holds when none is given.
    pub default_verb: Option<&'static str>,
    /// Works, but is not listed.
    pub hidden: bool,
}

/// A command line that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// What a command line asks for.
#[derive(Debug)]
pub enum Request {
    /// Print this on standard output and leave with status 0.
    Help(String),
    /// There was nothing on the command line: print this and leave with status 1.
    Nothing(String),
    /// Print the version.
    Version,
    /// Run a command.
    Run(Parsed),
}

/// A command with its options and operands, checked against the table.
#[derive(Debug)]
pub struct Parsed {
    /// The command.
    pub command: &'static Command,
    /// Its verb, where it has verbs.
    pub verb: Option<&'static Command>,
    /// What was given besides options.
    pub operands: Vec<String>,
    /// `--home`, wherever it stood.
    pub home: Option<String>,
    matches: getopts::Matches,
}

impl Parsed {
    /// `sessions reset`, or `send`.
    pub fn name(&self) -> String {
        help::full_name(self.command, self.verb)
    }

    /// The verb's name; the empty string without one.
    pub fn verb_name(&self) -> &'static str {
        self.verb.map_or("", |v| v.name)
    }

    /// Whether a flag is given. `false` for an option that the command does not have.
    pub fn flag(&self, long: &str) -> bool {
        self.has(long) && self.matches.opt_present(long)
    }

    /// Words that the command does not know what to do with, and leaves alone.
    pub fn ignored(&self) -> &[String] {
        let most = self.verb.unwrap_or(self.command).operands.max;
        self.operands.get(most..).unwrap_or_default()
    }

    /// The value of an option that may be given once.
    pub fn text(&self, long: &str) -> Option<String> {
        if self.has(long) { self.matches.opt_str(long) } else { None }
    }

    /// The values of an option that may be repeated.
    pub fn all(&self, long: &str) -> Vec<String> {
        if self.has(long) { self.matches.opt_strs(long) } else { Vec::new() }
    }

    /// The number given, else the table's default.
    pub fn number(&self, long: &str) -> Option<u64> {
        let default = || self.option(long).and_then(|o| o.default).map(ToOwned::to_owned);
        self.text(long).or_else(default).and_then(|n| n.parse().ok())
    }

    fn option(&self, long: &str) -> Option<&'static Opt> {
        self.verb.unwrap_or(self.command).options.iter().chain(GLOBAL).find(|o| o.long == long)
    }

    // getopts panics when asked for an option that it was not told about.
    fn has(&self, long: &str) -> bool {
        self.option(long).is_some()
    }
}

/// Takes a command line (without the program's name) apart.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Request, UsageError> {
    let args = args
        .into_iter()
        .map(|a| a.into_string().map_err(|a| UsageError(format!("argument {} is not valid UTF-8", a.display()))))
        .collect::<Result<Vec<_>, _>>()?;
    if args.is_empty() {
        return Ok(Request::Nothing(help::overview()));
    }

    // Options before the command's name can only be global ones.
    check_values(&args, &[], true)?;
    let before = getopts_for(&[])
        .parsing_style(getopts::ParsingStyle::StopAtFirstFree)
        .parse(&args)
        .map_err(|e| explain(&e, None, None))?;
    if before.opt_present("version") {
        return Ok(Request::Version);
    }
    let Some((name, rest)) = before.free.split_first() else {
        return if before.opt_present("help") {
            Ok(Request::Help(help::overview()))
        } else {
            Ok(Request::Nothing(help::overview()))
        };
    };
    let command = find(COMMANDS, name)
        .ok_or_else(|| UsageError(unknown("command", name, COMMANDS.iter().filter(|c| !c.hidden).map(|c| c.name))))?;
    if command.name == "version" && rest.is_empty() {
        return Ok(Request::Version);
    }
    let (verb, rest) = find_verb(command, rest)?;
    let target = verb.unwrap_or(command);

    check_values(rest, target.options, false)?;
    let matches = getopts_for(target.options).parse(rest).map_err(|e| explain(&e, Some(command), verb))?;
    if before.opt_present("help") || matches.opt_present("help") {
        return Ok(Request::Help(help::command(command, verb)));
    }
    if matches.opt_present("version") {
        return Ok(Request::Version);
    }
    if !command.verbs.is_empty() && verb.is_none() {
        return Err(UsageError(format!(
            "{} needs a verb: {}",
            command.name,
            command.verbs.iter().map(|v| v.name).collect::<Vec<_>>().join(", ")
        )));
    }
    let operands = matches.free.clone();
    check_operands(command, verb, &operands)?;
    for option in target.options {
        check_option(option, &matches)?;
    }
    if command.name == "help" {
        return help_about(&operands);
    }
    let home = matches.opt_str("home").or_else(|| before.opt_str("home"));
    Ok(Request::Run(Parsed { command, verb, operands, home, matches }))
}

fn help_about(names: &[String]) -> Result<Request, UsageError> {
    let Some(name) = names.first() else { return Ok(Request::Help(help::overview())) };
    let command = find(COMMANDS, name)
        .ok_or_else(|| UsageError(unknown("command", name, COMMANDS.iter().filter(|c| !c.hidden).map(|c| c.name))))?;
    let verb = match names.get(1) {
        None => None,
        Some(name) => Some(
            find(command.verbs, name)
                .ok_or_else(|| UsageError(unknown("verb", name, command.verbs.iter().map(|v| v.name))))?,
        ),
    };
    Ok(Request::Help(help::command(command, verb)))
}

fn find(commands: &'static [Command], name: &str) -> Option<&'static Command> {
    commands.iter().find(|c| c.name == name)
}

fn find_verb<'a>(
    command: &'static Command,
    rest: &'a [String],
) -> Result<(Option<&'static Command>, &'a [String]), UsageError> {
    if command.verbs.is_empty() {
        return Ok((None, rest));
    }
    match rest.split_first() {
        Some((word, after)) if !word.starts_with('-') => {
            let verb = find(command.verbs, word).ok_or_else(|| {
                let what = format!("verb of {}", command.name);
                UsageError(unknown(&what, word, command.verbs.iter().map(|v| v.name)))
            })?;
            Ok((Some(verb), after))
        }
        _ => Ok((command.default_verb.and_then(|name| find(command.verbs, name)), rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[&str]) -> Vec<OsString> {
        line.iter().map(OsString::from).collect()
    }

    fn run(line: &[&str]) -> Parsed {
        match parse(words(line)) {
            Ok(Request::Run(parsed)) => parsed,
            other => panic!("{line:?}: {other:?}"),
        }
    }

    fn refused(line: &[&str]) -> String {
        parse(words(line)).expect_err("a usage error").0
    }

    #[test]
    fn values_may_stand_apart_or_behind_an_equals_sign() {
        let p = run(&["send", "--timeout", "5", "--agent=-x", "--", "-hello", "you"]);
        assert_eq!(p.number("timeout"), Some(5));
        assert_eq!(p.text("agent").as_deref(), Some("-x"));
        assert_eq!(p.operands, ["-hello", "you"]);
    }

    #[test]
    fn an_empty_value_is_a_value() {
        let p = run(&["memory", "set", "--goal="]);
        assert_eq!(p.text("goal").as_deref(), Some(""));
        assert_eq!(run(&["memory", "set", "--content", ""]).text("content").as_deref(), Some(""));
    }

    #[test]
    fn a_value_that_may_be_left_out_needs_its_equals_sign() {
        let p = run(&["doctor", "--auth-check", "--json"]);
        assert!(p.flag("auth-check") && p.flag("json") && p.text("auth-check").is_none());
        assert_eq!(run(&["doctor", "--auth-check=turn"]).text("auth-check").as_deref(), Some("turn"));
        assert!(refused(&["doctor", "--auth-check=x"]).contains("expected nothing or turn, found \"x\""));
        assert!(refused(&["doctor", "--auth-check", "turn"]).contains("unexpected argument"));
    }

    #[test]
    fn a_forgotten_value_is_noticed() {
        assert!(refused(&["send", "--timeout", "--json", "x"]).contains("--timeout needs a value"));
        assert!(refused(&["send", "x", "--timeout"]).contains("--timeout needs a value"));
        assert!(refused(&["logs", "-n", "-f"]).contains("--lines needs a value"));
        assert!(refused(&["logs", "-fn", "-f"]).contains("--lines needs a value"));
    }

    #[test]
    fn numbers_are_numbers() {
        assert!(refused(&["logs", "-n", "many"]).contains("expected a whole number, found \"many\""));
        assert_eq!(run(&["logs", "-fn5"]).number("lines"), Some(5));
        assert_eq!(run(&["logs"]).number("lines"), Some(100));
    }

    #[test]
    fn unknown_words_name_the_nearest_known_one() {
        assert!(refused(&["sned", "x"]).contains("did you mean send?"));
        assert!(refused(&["send", "--jsn", "x"]).contains("did you mean --json?"));
        assert!(refused(&["sessions", "lst"]).contains("did you mean list?"));
        assert_eq!(refused(&["frobnicate"]), "unknown command frobnicate");
        assert!(refused(&["--json", "send"]).contains("belongs to a command"));
    }

    #[test]
    fn global_options_work_on_both_sides() {
        assert_eq!(run(&["--home", "/a", "status"]).home.as_deref(), Some("/a"));
        assert_eq!(run(&["status", "--home=/b"]).home.as_deref(), Some("/b"));
        for line in [&["--version"][..], &["-V"], &["version"], &["status", "--version"]] {
            assert!(matches!(parse(words(line)), Ok(Request::Version)), "{line:?}");
        }
        for line in [&["-h"][..], &["--help"], &["send", "-h"], &["help", "send"], &["-h", "send"], &["help"]] {
            assert!(matches!(parse(words(line)), Ok(Request::Help(_))), "{line:?}");
        }
        assert!(matches!(parse(words(&[])), Ok(Request::Nothing(_))));
    }

    #[test]
    fn verbs_have_their_defaults() {
        assert_eq!(run(&["sessions"]).verb_name(), "list");
        assert_eq!(run(&["sessions", "--json"]).verb_name(), "list");
        assert_eq!(run(&["config"]).verb_name(), "show");
        assert!(refused(&["transcript"]).contains("needs a verb: list, tail"));
    }

    #[test]
    fn operands_are_counted() {
        assert!(refused(&["send"]).contains("needs TEXT|-"));
        assert!(refused(&["approve", "x", "y"]).contains("unexpected argument"));
        assert_eq!(run(&["status", "x"]).ignored(), ["x"]);
        assert!(refused(&["completions", "tcsh"]).contains("expected bash, zsh, fish"));
    }

    #[test]
    fn the_table_is_consistent() {
        for command in COMMANDS {
            assert!(!command.summary.is_empty() && !command.summary.ends_with('.'), "{}", command.name);
            for target in std::iter::once(command).chain(command.verbs) {
                let mut seen = Vec::new();
                for o in target.options.iter().chain(GLOBAL) {
                    assert!(!seen.contains(&o.long), "{} {} twice", command.name, o.long);
                    assert!(!o.help.ends_with('.'), "{}", o.help);
                    seen.push(o.long);
                }
            }
            if let Some(verb) = command.default_verb {
                assert!(find(command.verbs, verb).is_some(), "{}", command.name);
            }
        }
    }
}
