//! How often an agent may show that it types, over all its rooms. Pure.
//!
//! A hub takes 20 signs a minute. Here it is 18, and the turn that began first gets what it needs before others do: a
//! person who waits longest sees that it goes on.

use std::collections::VecDeque;

/// The span in which signs are counted, in milliseconds: a minute, and a little for the way there.
const WINDOW_MS: i64 = 61_000;
/// Signs in that span.
const MOST: usize = 18;
/// What one turn needs of them: one in four seconds.
const NEED: usize = 16;
/// A room that has not asked for so long types no more, in milliseconds.
const GONE_MS: i64 = 9_000;
/// Rooms that are told apart.
const ROOMS: usize = 64;

struct Typist {
    room: String,
    /// When its turn's message came.
    since: i64,
    asked: i64,
}

/// The signs of one agent.
#[derive(Default)]
pub struct TypingBudget {
    shown: VecDeque<(i64, String)>,
    typists: Vec<Typist>,
}

impl TypingBudget {
    /// Whether a room may be shown a sign now; if so, it counts. `since`: when what is answered came; only compared.
    /// `now`: milliseconds of a clock that only goes forward.
    pub fn take(&mut self, room: &str, since: i64, now: i64) -> bool {
        while self.shown.front().is_some_and(|(at, _)| at + WINDOW_MS <= now) {
            self.shown.pop_front();
        }
        self.typists.retain(|t| t.room != room && t.asked + GONE_MS > now);
        let older = self.typists.iter().filter(|t| t.since < since);
        let reserved: usize =
            older.map(|t| NEED.saturating_sub(self.shown.iter().filter(|(_, room)| *room == t.room).count())).sum();
        let may = self.shown.len() + reserved < MOST;
        if self.typists.len() < ROOMS {
            self.typists.push(Typist { room: room.to_owned(), since, asked: now });
        }
        if may {
            self.shown.push_back((now, room.to_owned()));
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets rooms ask every four seconds for some minutes; returns how often each was shown, and the most in a minute.
    fn run(rooms: &[&str]) -> (Vec<usize>, usize) {
        let mut budget = TypingBudget::default();
        let mut shown = Vec::new();
        for step in 0..75 {
            for (n, room) in rooms.iter().enumerate() {
                let now = step * 4_000 + n as i64;
                if budget.take(room, n as i64, now) {
                    shown.push((now, *room));
                }
            }
        }
        let minute = |from: i64| shown.iter().filter(|(at, _)| (from..from + 60_000).contains(at)).count();
        let most = shown.iter().map(|(at, _)| minute(*at)).max().unwrap();
        (rooms.iter().map(|room| shown.iter().filter(|(_, r)| r == room).count()).collect(), most)
    }

    #[test]
    fn one_room_is_shown_all() {
        assert_eq!(run(&["a"]), (vec![75], 15));
    }

    #[test]
    fn the_oldest_turn_comes_first_and_the_limit_holds() {
        let (shown, most) = run(&["a", "b", "c", "d"]);
        assert!(most <= MOST);
        assert_eq!(shown[0], 75);
        assert!(shown[1] >= 8 && shown[1] > shown[3], "{shown:?}");
    }

    #[test]
    fn who_has_gone_is_owed_nothing() {
        let mut budget = TypingBudget::default();
        assert!(budget.take("old", 0, 0));
        for n in 0..17 {
            assert!(budget.take("new", 1, 10_000 + n), "{n}");
        }
        assert!(!budget.take("new", 1, 10_100));
        assert!(budget.take("new", 1, 71_000));
    }
}
