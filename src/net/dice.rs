//! Chances for spreading over time what would otherwise come all at once. Not for secrets.

use crate::crypto;

/// Yields another chance each time, without asking the system for more than the first.
pub struct Dice(u64);

impl Default for Dice {
    fn default() -> Self {
        Self(u64::from_ne_bytes(crypto::random()))
    }
}

impl Dice {
    /// In 0..1.
    pub fn roll(&mut self) -> f64 {
        // Knuth's linear congruential generator; its upper bits are the better ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f64 / (1u64 << 24) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_lie_where_they_should_and_everywhere_there() {
        let (mut dice, mut tenths) = (Dice::default(), [0; 10]);
        for _ in 0..10_000 {
            let chance = dice.roll();
            assert!((0.0..1.0).contains(&chance));
            tenths[(chance * 10.0) as usize] += 1;
        }
        assert!(tenths.iter().all(|n| (500..1_500).contains(n)), "{tenths:?}");
    }
}
