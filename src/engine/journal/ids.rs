//! Ids of entries.

use ring::rand::{SecureRandom, SystemRandom};

/// 26 characters of Crockford's base 32: 48 bits of time, then 80 random bits. Sorts by time.
pub(super) fn entry_id(now_ms: i64) -> String {
    const ALPHABET: [u8; 32] = *b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let mut random = [0; 10];
    if SystemRandom::new().fill(&mut random).is_err() {
        // No random bytes: a counter still keeps the ids of one process apart.
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        random[..2].copy_from_slice(&(std::process::id() as u16).to_be_bytes());
        random[2..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    }
    let time = u128::from(now_ms.max(0) as u64 & 0xffff_ffff_ffff);
    let bits = random.iter().fold(time, |bits, &byte| (bits << 8) | u128::from(byte));
    (0..26).rev().map(|i| char::from(ALPHABET[(bits >> (5 * i)) as usize & 31])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_and_differ() {
        let ids = [0, 1, 1_767_225_600_000, 1_767_225_600_001, 0xffff_ffff_ffff].map(entry_id);
        assert!(ids.is_sorted() && ids.iter().all(|id| id.len() == 26));
        assert!(ids[4].starts_with("7ZZZZZZZZZ"), "{}", ids[4]);
        assert_ne!(entry_id(5), entry_id(5));
        assert!(entry_id(-1).starts_with("0000000000"));
    }
}
