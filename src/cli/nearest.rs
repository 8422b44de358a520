//! What somebody who mistyped a word probably meant.

/// `unknown command "sned"; did you mean "send"?`
pub fn unknown<'a>(what: &str, found: &str, known: impl Iterator<Item = &'a str>) -> String {
    match nearest(found, known) {
        Some(near) => format!("unknown {what} {found}; did you mean {near}?"),
        None => format!("unknown {what} {found}"),
    }
}

/// The known word that `found` is most probably a misspelling of.
fn nearest<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let bare = |s: &str| s.trim_start_matches('-').to_lowercase();
    let wanted = bare(found);
    known
        .filter_map(|k| {
            let name = bare(k);
            let distance = distance(&wanted, &name);
            let begins = !wanted.is_empty() && name.starts_with(&wanted);
            let near = begins || distance <= 2 && distance < name.chars().count().max(2) - 1;
            near.then_some((if begins { 0 } else { distance }, k))
        })
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// Levenshtein's distance, where swapping two neighbours counts as one step. Inputs longer than 64
/// characters are infinitely far.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("send", "sned"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn short_words_are_not_taken_for_each_other() {
        assert_eq!(nearest("-x", ["--json", "-f"].into_iter()), None);
        assert_eq!(nearest("sta", ["stop", "start"].into_iter()), Some("start"));
        assert_eq!(nearest("", ["stop"].into_iter()), None);
    }
}
