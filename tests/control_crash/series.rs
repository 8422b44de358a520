//! One frame, and a daemon that dies at its first step, its second, and so on until there is none left.

use serde_json::{Value, json};

use crate::place::Place;

/// A frame and what it changes.
pub struct Case<'a> {
    pub kind: &'a str,
    pub params: Value,
    /// Brings everything into the state before it.
    pub ready: &'a dyn Fn(&Place),
    /// What it changes, part by part.
    pub look: &'a dyn Fn(&Place) -> Value,
    /// All parts are as before, or all are as wanted; otherwise each for itself.
    pub at_once: bool,
    /// Steps that the frame itself takes; there may be more of others at the same time.
    pub steps: usize,
}

/// Kills the daemon at every step; returns how often. The daemon runs before and afterwards.
pub fn run(place: &mut Place, case: &Case<'_>) -> usize {
    let kind = case.kind;
    (case.ready)(place);
    let before = (case.look)(place);
    place.done(kind, case.params.clone());
    let wanted = (case.look)(place);
    assert_ne!(before, wanted, "{kind} changes something");
    let (mut undone, mut kept) = (0, 0);
    for nth in 1.. {
        (case.ready)(place);
        assert_eq!((case.look)(place), before, "{kind}: another state before step {nth}");
        let id = place.frame_id();
        let told = place.told(&id, kind, &case.params, nth);
        if let Some(ack) = &told.ack {
            assert_eq!(ack["ok"], true, "{kind} at {nth}: {ack}");
        }
        if !told.killed {
            assert_eq!((case.look)(place), wanted, "{kind}");
            assert!(undone > 0 && kept > 0, "{kind}: {undone} undone, {kept} kept");
            assert!(nth > case.steps, "{kind}: only {nth} steps");
            println!("{kind}: killed at each of {} steps: {undone} times as before, {kept} as wanted", nth - 1);
            return nth - 1;
        }
        place.start();
        let found = (case.look)(place);
        for (part, found) in found.as_object().unwrap() {
            let known = [&before[part], &wanted[part]].contains(&found);
            assert!(known, "{kind} at {nth}: {part} is {found}, was {}, should be {}", before[part], wanted[part]);
        }
        assert!(!case.at_once || found == before || found == wanted, "{kind} at {nth}: {found}");
        undone += usize::from(found == before);
        kept += usize::from(found == wanted);
        let again = place.again(&id, kind, &case.params);
        assert_eq!(again["ok"], true, "{kind} at {nth}, again: {again}");
        if let Some(first) = &told.ack {
            assert_eq!(found, wanted, "{kind} at {nth}: promised and not done");
            let mut first = first.clone();
            first["result"]["duplicate"] = json!(true);
            assert_eq!(again, first, "{kind} at {nth}");
        }
        assert_eq!((case.look)(place), wanted, "{kind} at {nth}, again");
    }
    unreachable!()
}
