//! OpenClaw's text: thoughts taken out, the final answer found.
//!
//! Models behind this gateway print their thoughts as `<think>…</think>` and their answer as
//! `<final>…</final>`, or neither, and now and then leak reasoning as plain paragraphs.
//! [`Filter`] works on the stream, [`normalize`] and [`make_safe`] on whole texts, [`final_text`] on the
//! answer to a prompt.

use serde_json::Value;

const TAGS: [(&str, Tag); 4] =
    [("<think", Tag::Think), ("</think", Tag::EndThink), ("<final", Tag::Final), ("</final", Tag::EndFinal)];

/// Most bytes of text that are held back for the end of the turn; more is dropped.
const HELD_LIMIT: usize = 1_048_576;

/// Longest beginning of a tag that is waited for, in bytes.
const TAG_LIMIT: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    Think,
    EndThink,
    Final,
    EndFinal,
}

/// What the text at a `<` is.
enum Markup {
    /// One of the four tags, this many bytes long.
    Tag(Tag, usize),
    /// Could become one of the four with more text.
    Undecided,
    /// Anything else.
    Other,
}

/// Looks at text that begins with `<`.
fn markup(text: &str) -> Markup {
    for (name, tag) in TAGS {
        let shared = text.len().min(name.len());
        if !text.as_bytes()[..shared].eq_ignore_ascii_case(&name.as_bytes()[..shared]) {
            continue;
        }
        if text.len() <= name.len() {
            return Markup::Undecided;
        }
        let rest = &text[name.len()..];
        if !rest.starts_with(|c: char| c.is_whitespace() || c == '>' || c == '/') {
            continue;
        }
        return match rest.find('>') {
            Some(end) => Markup::Tag(tag, name.len() + end + 1),
            None => Markup::Undecided,
        };
    }
    Markup::Other
}

/// Whether a `<` at the start of `text` begins markup or is a comparison. A text that ends too early
/// to tell counts as markup.
fn is_real_markup(text: &str) -> bool {
    let rest = &text[1..];
    let Some(first) = rest.chars().next() else { return true };
    if first.is_whitespace() || first == '=' || first == '<' {
        return true;
    }
    let name = rest.strip_prefix('/').unwrap_or(rest);
    if name.is_empty() {
        return true;
    }
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return false;
    }
    let after = name.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == ':' || c == '-');
    after.is_empty()
        || after.starts_with(|c: char| c.is_whitespace() || c == '>')
        || after.starts_with("/>")
        || after == "/"
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Outside,
    Think,
    Final,
}

/// The stream filter of one turn.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    place: Place,
    /// A `<final>` was seen: what is outside is passed from then on.
    answered: bool,
    /// Beginning of what may become a tag.
    pending: String,
    /// Text outside both, until it is known whether a `<final>` comes.
    held: String,
}

impl Filter {
    /// More text from the agent; returns what may be shown at once.
    pub fn push(&mut self, chunk: &str) -> String {
        let mut text = std::mem::take(&mut self.pending);
        text.push_str(chunk);
        let mut shown = String::new();
        let mut rest = text.as_str();
        let last_close = text.rfind('>').unwrap_or(0);
        while let Some(at) = rest.find('<') {
            self.take(&rest[..at], &mut shown);
            rest = &rest[at..];
            // Where no `>` follows, the beginning tells all, and many beginnings of tags cost no search each.
            let closes = text.len() - rest.len() < last_close;
            let seen = if closes { rest } else { &rest[..rest.floor_char_boundary(TAG_LIMIT + 1)] };
            match markup(seen) {
                Markup::Tag(tag, length) => {
                    self.enter(tag);
                    rest = &rest[length..];
                }
                // Inside <final> nothing is held back: the answer is worth more than a stray tag.
                Markup::Undecided if self.place != Place::Final && rest.len() <= TAG_LIMIT => {
                    rest.clone_into(&mut self.pending);
                    return shown;
                }
                Markup::Undecided | Markup::Other => {
                    if is_real_markup(rest) {
                        self.take("<", &mut shown);
                        rest = &rest[1..];
                    } else {
                        rest = rest[1..].trim_start();
                    }
                }
            }
        }
        self.take(rest, &mut shown);
        shown
    }

    /// The end of the turn: what was held back, made presentable.
    pub fn finish(&mut self) -> String {
        let mut held = std::mem::take(&mut self.held);
        let pending = std::mem::take(&mut self.pending);
        if self.answered {
            return String::new();
        }
        if self.place == Place::Outside {
            held.push_str(&pending);
        }
        make_safe(&normalize(&held))
    }

    fn take(&mut self, text: &str, shown: &mut String) {
        match self.place {
            Place::Final => shown.push_str(text),
            Place::Outside if self.answered => shown.push_str(text),
            Place::Outside if self.held.len() + text.len() <= HELD_LIMIT => self.held.push_str(text),
            // Thoughts, and what is too much to hold back.
            Place::Think | Place::Outside => {}
        }
    }

    fn enter(&mut self, tag: Tag) {
        match tag {
            Tag::Think => self.place = Place::Think,
            Tag::EndThink | Tag::EndFinal => self.place = Place::Outside,
            Tag::Final => {
                self.place = Place::Final;
                self.answered = true;
                self.held.clear();
            }
        }
    }
}

/// Where the last `>` ends. Behind it nothing is a tag, and many beginnings of one need not be searched each.
fn end_of_tags(text: &str) -> usize {
    text.rfind('>').map_or(0, |at| at + 1)
}

/// Position and length of the next of the four tags.
fn next_tag(text: &str) -> Option<(usize, usize, Tag)> {
    text.match_indices('<').find_map(|(at, _)| match markup(&text[at..]) {
        Markup::Tag(tag, length) => Some((at, length, tag)),
        _ => None,
    })
}

/// The content of the first `<final>…</final>`.
fn final_block(text: &str) -> Option<&str> {
    let end = end_of_tags(text);
    let mut from = 0;
    let mut start = None;
    while let Some((at, length, tag)) = next_tag(&text[from..end]) {
        match (tag, start) {
            (Tag::Final, None) => start = Some(from + at + length),
            (Tag::EndFinal, Some(start)) => return Some(&text[start..from + at]),
            _ => {}
        }
        from += at + length;
    }
    None
}

/// A whole text without thoughts and final tags.
pub fn normalize(text: &str) -> String {
    if let Some(answer) = final_block(text) {
        return answer.trim().to_owned();
    }
    let begins_with_thought = text.trim_start().get(..6).is_some_and(|t| t.eq_ignore_ascii_case("<think"));
    if begins_with_thought {
        return String::new();
    }
    let mut kept = String::new();
    let end = end_of_tags(text);
    let mut from = 0;
    let mut thinking = false;
    while let Some((at, length, tag)) = next_tag(&text[from..end]) {
        if !thinking {
            kept.push_str(&text[from..from + at]);
        }
        match tag {
            Tag::Think => thinking = true,
            Tag::EndThink => thinking = false,
            Tag::Final | Tag::EndFinal => {}
        }
        from += at + length;
    }
    if !thinking {
        kept.push_str(&text[from..]);
    }
    let kept = kept.trim();
    match kept.strip_prefix('<') {
        Some(rest) if !is_real_markup(kept) => rest.trim_start().to_owned(),
        _ => kept.to_owned(),
    }
}

/// Lower case, with plain apostrophes.
fn folded(text: &str) -> String {
    text.to_lowercase().replace('\u{2019}', "'")
}

/// Whether `phrase` stands in `text` with no word character next to it.
fn has_words(text: &str, phrase: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(phrase)
        .any(|(at, _)| !text[..at].ends_with(word) && !text[at + phrase.len()..].starts_with(word))
}

fn begins_with_words(text: &str, phrase: &str) -> bool {
    text.strip_prefix(phrase).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// Whether a text reads like the model talking to itself. `text` is folded and trimmed.
fn looks_leaked(text: &str) -> bool {
    const OPENINGS: [&str; 4] = ["the user said", "the user asked", "the user wants", "the user is asking"];
    const PLANS: [&str; 5] = ["i'll", "i will", "need to", "should", "going to"];
    if OPENINGS.iter().any(|o| begins_with_words(text, o)) {
        return true;
    }
    let first_line = text.lines().next().unwrap_or_default();
    if begins_with_words(first_line, "i'm") && PLANS.iter().any(|p| has_words(&first_line[3..], p)) {
        return true;
    }
    has_words(text, "i'll respond") || has_words(text, "i need to")
}

/// Whether a paragraph of a leaked text goes with it.
fn is_leading_thought(paragraph: &str) -> bool {
    const OPENINGS: [&str; 5] = ["let me", "i'll", "i will", "i should", "i need to"];
    looks_leaked(paragraph) || OPENINGS.iter().any(|o| begins_with_words(paragraph, o))
}

/// A text without leading paragraphs of leaked reasoning; empty when nothing else is left.
pub fn make_safe(text: &str) -> String {
    if !looks_leaked(folded(text).trim()) {
        return text.to_owned();
    }
    let mut rest = text.trim();
    while !rest.is_empty() && is_leading_thought(folded(paragraph(rest)).trim()) {
        rest = rest[paragraph(rest).len()..].trim_start();
    }
    if looks_leaked(folded(rest).trim()) { String::new() } else { rest.to_owned() }
}

/// The text up to the first line that is blank.
fn paragraph(text: &str) -> &str {
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        if line.trim().is_empty() && end > 0 {
            break;
        }
        end += line.len();
    }
    &text[..end]
}

/// The words in a content value, as gateways nest them: a string, a list of parts, or one part.
pub fn content_text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(content_text).collect(),
        Value::Object(part) => {
            if matches!(part.get("type").and_then(Value::as_str), Some("thinking" | "reasoning" | "thought")) {
                return String::new();
            }
            match (part.get("text"), part.get("content")) {
                (Some(Value::String(text)), _) => text.clone(),
                (_, Some(inner @ (Value::String(_) | Value::Array(_)))) => content_text(inner),
                _ => String::new(),
            }
        }
        _ => String::new(),
    }
}

/// The answer in the result of `session/prompt`, where there is one.
pub fn final_text(result: &Value) -> Option<String> {
    let spoken = result
        .get("assistantTexts")
        .and_then(Value::as_array)
        .map(|texts| texts.iter().map(content_text).filter(|t| !t.is_empty()).collect::<Vec<_>>().join("\n"));
    let nested = || {
        ["content", "output", "response"].iter().find_map(|name| {
            let text = content_text(result.get(name)?);
            (!text.trim().is_empty()).then_some(text)
        })
    };
    let plain = || {
        ["text", "message"].iter().find_map(|name| {
            let text = result.get(name)?.as_str()?;
            (!text.trim().is_empty()).then(|| text.to_owned())
        })
    };
    let text = spoken.filter(|t| !t.trim().is_empty()).or_else(nested).or_else(plain)?;
    Some(make_safe(&normalize(&text))).filter(|t| !t.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_found_in_any_case_and_with_attributes() {
        let mut filter = Filter::default();
        assert_eq!(filter.push("<THINK a=1>x</Think >y<Final>z"), "z");
        assert_eq!(filter.finish(), "");
    }

    #[test]
    fn any_split_shows_the_same_outside_of_final() {
        let text = "a <b>c</b> <think>secret</think> d";
        for at in 0..=text.len() {
            let mut filter = Filter::default();
            let shown = filter.push(&text[..at]) + &filter.push(&text[at..]);
            assert_eq!((shown.as_str(), filter.finish().as_str()), ("", "a <b>c</b>  d"), "split at {at}");
        }
    }

    #[test]
    fn long_texts_are_no_burden() {
        for unit in ["<think ", "</think ", "<final ", "<", "< ", "<x>", "<think>", "</think>", "the user said\n\n"] {
            let long = unit.repeat((1 << 20) / unit.len());
            // Many tags, and much behind them that is none.
            let tailed = long.clone() + &"x".repeat(1 << 20);
            assert!(normalize(&tailed).len() <= tailed.len(), "{unit:?}");
            let mut filter = Filter::default();
            assert!(filter.push(&long).len() <= long.len(), "{unit:?}");
            filter.finish();
            assert!(make_safe(&normalize(&long)).len() <= long.len(), "{unit:?}");
        }
    }

    #[test]
    fn ordinary_words_are_no_leaked_reasoning() {
        for text in ["I'm fine.\nYou should rest.", "The username is x.", "Let me know.", "They need to go."] {
            assert_eq!(make_safe(text), text);
        }
    }

    #[test]
    fn leading_thoughts_go_and_the_answer_stays() {
        assert_eq!(make_safe("The user wants a joke.\n\nLet me think.\n \nKnock knock."), "Knock knock.");
        assert_eq!(make_safe("I’m asked for it, so I will do it.\n\nDone."), "Done.");
    }
}
