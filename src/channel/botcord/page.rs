//! How many messages an inbox is asked for at once: as many as it gives, unless they are too long together. Pure.
//!
//! What was too long stays with the hub under the lease of the answer that was not read. So it must still be asked for
//! few at a time when that lease has run out; only then there are more again.

use super::exchange::{BODY_LIMIT, LARGE_LIMIT};

/// Messages of one answer.
const PAGE: usize = 50;
/// Longer than a hub's lease and its delay, in milliseconds.
const CAREFUL_MS: i64 = 180_000;

/// The size of the next answer.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    size: usize,
    careful_until: i64,
}

impl Default for Page {
    fn default() -> Self {
        Self { size: PAGE, careful_until: i64::MIN }
    }
}

impl Page {
    /// Messages to ask for.
    pub fn size(self) -> usize {
        self.size
    }

    /// Bytes that the answer may have. A single message that is too long would come back for ever.
    pub fn limit(self) -> u64 {
        if self.size == 1 { LARGE_LIMIT } else { BODY_LIMIT }
    }

    /// After an answer that was read. `now`: milliseconds of a clock that only goes forward.
    #[must_use]
    pub fn was_read(self, now: i64) -> Self {
        if now < self.careful_until { self } else { Self { size: (self.size * 2).min(PAGE), ..self } }
    }

    /// After one that was too long.
    #[must_use]
    pub fn was_too_long(self, now: i64) -> Self {
        Self { size: (self.size / 7).max(1), careful_until: now + CAREFUL_MS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_too_long_is_still_asked_for_in_small_pieces_when_it_comes_back() {
        let mut page = Page::default();
        assert_eq!((page.size(), page.limit()), (50, BODY_LIMIT));
        page = page.was_read(0).was_too_long(0);
        assert_eq!(page.size(), 7);
        for now in [30_000, 150_000] {
            page = page.was_read(now);
        }
        assert_eq!(page.size(), 7, "the lease may just have run out");
        page = page.was_too_long(150_000).was_too_long(300_000);
        assert_eq!((page.size(), page.limit()), (1, LARGE_LIMIT));
        page = page.was_read(300_000).was_read(479_999);
        let sizes = (0..8).map(|_| {
            page = page.was_read(480_000);
            page.size()
        });
        assert_eq!(sizes.collect::<Vec<_>>(), [2, 4, 8, 16, 32, 50, 50, 50]);
    }
}
