//! Every fuzz target with a bounded number of inputs, derived from its corpus in a way that is the same each time.
//!
//! ```text
//! BELLHOP_FUZZ_SEED=7 BELLHOP_FUZZ_INPUTS=100000 BELLHOP_FUZZ_ONLY=frames,kimi cargo test --test fuzz_smoke
//! ```

#[path = "fuzz/targets.rs"]
mod targets;

use std::panic::catch_unwind;
use std::path::Path;

/// Inputs per target beside the corpus itself, without the variable.
const INPUTS: u64 = 400;
/// Longest input in bytes.
const LONGEST: usize = 16 << 10;

/// What parsers like to trip over.
const TOKENS: [&[u8]; 24] = [
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1e999",
    b"18446744073709551615",
    b"-9223372036854775808",
    b"0.5",
    b"\"\"",
    b"[]",
    b"{}",
    b"[[[[[[[[",
    b"{\"a\":",
    b"\"\\ud800\"",
    b"\\u0000",
    b"\xff",
    b"\xf0\x9f\x98\x80",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\n",
    b"\"type\":",
    b"%00",
    b"%",
    b",",
];

#[test]
fn no_input_makes_a_reader_panic() {
    let seed = variable("BELLHOP_FUZZ_SEED").unwrap_or(1);
    let inputs = variable("BELLHOP_FUZZ_INPUTS").unwrap_or(INPUTS);
    println!("seed {seed}, {inputs} inputs for each target");
    let only = std::env::var("BELLHOP_FUZZ_ONLY").unwrap_or_default();
    let wanted = |name: &str| only.is_empty() || only.split(',').any(|n| n == name);
    assert!(targets::TARGETS.iter().any(|(name, _)| wanted(name)), "there is no target {only:?}");
    for (name, target) in targets::TARGETS.into_iter().filter(|(name, _)| wanted(name)) {
        let corpus = corpus(name);
        let check = |what: String, input: &[u8]| {
            assert!(
                catch_unwind(|| target(input)).is_ok(),
                "{name} panicked with {what} of seed {seed}:\n{}",
                input.escape_ascii()
            );
        };
        for (number, input) in corpus.iter().enumerate() {
            check(format!("file {number}"), input);
            // Everything that a cut connection or a full disk may leave of it, in steps.
            for cut in (0..input.len()).step_by(input.len().div_ceil(50)) {
                check(format!("file {number} cut at {cut}"), &input[..cut]);
            }
        }
        let mut random = Random(seed);
        for number in 0..inputs {
            check(format!("input {number}"), &mutated(&corpus, &mut random));
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name} is {text:?}: {e}")))
}

/// The files of a corpus, by name; there is at least one and none is empty.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let corpus: Vec<_> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    assert!(!corpus.is_empty() && corpus.iter().all(|file| !file.is_empty()), "{}", dir.display());
    corpus
}

/// A file of the corpus with one to eight changes.
fn mutated(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(8) {
        let at = random.below(input.len() + 1);
        let end = at + random.below((input.len() - at).min(64) + 1);
        match random.below(7) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.below(256) as u8,
            2 => drop(input.drain(at..end)),
            3 => drop(input.splice(at..at, input[at..end].to_vec())),
            4 => replace_value(&mut input, at, TOKENS[random.below(TOKENS.len())]),
            5 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len());
                let piece = other[from..(from + random.below(200)).min(other.len())].to_vec();
                drop(input.splice(at..end, piece));
            }
            _ => drop(input.splice(at..at, TOKENS[random.below(TOKENS.len())].iter().copied())),
        }
        input.truncate(LONGEST);
    }
    input
}

/// Puts a token in the place of the JSON value after the next colon: what is still JSON gets further.
fn replace_value(input: &mut Vec<u8>, at: usize, token: &[u8]) {
    let Some(begin) = input[at..].iter().position(|&b| b == b':').map(|n| at + n + 1) else { return };
    let quoted = input.get(begin) == Some(&b'"');
    let stop = |b: &u8| if quoted { *b == b'"' } else { b",}]\n".contains(b) };
    let from = begin + usize::from(quoted);
    let Some(end) = input[from..].iter().position(stop).map(|n| from + n + usize::from(quoted)) else { return };
    drop(input.splice(begin..end, token.iter().copied()));
}

/// The numbers of splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is more than 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}
