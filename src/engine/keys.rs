//! Names that the engine makes: ids of turns and entries, the key of a breaker, names derived from a room.
//!
//! The keys of queues, sessions and loops are methods of [`Inbound`].

use ring::digest;

use crate::crypto;
use crate::message::Inbound;

/// Namespace of [`room_key`]. A hub computes a key of its own in another namespace; the two never agree.
const ROOM_NAMESPACE: [u8; 16] =
    [0xd4, 0xe8, 0xf2, 0xa1, 0x3b, 0x6c, 0x4d, 0x5e, 0x9f, 0x0a, 0x1b, 0x2c, 0x3d, 0x4e, 0x5f, 0x6a];

/// Digits of an entry id: Crockford's base 32, which has no I, L, O and U.
const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// A key that is the same on every machine: `botcord:` and a name-based UUID of the room (and topic), else of the
/// sender, else of nothing. Empty strings count as absent; a topic counts only within a room.
pub fn room_key(room: Option<&str>, topic: Option<&str>, sender: Option<&str>) -> String {
    let given = |s: Option<&str>| s.filter(|s| !s.is_empty()).map(str::to_owned);
    let seed = match (given(room), given(topic), given(sender)) {
        (Some(room), Some(topic), _) => format!("{room}:{topic}"),
        (Some(room), None, _) => room,
        (None, _, Some(sender)) => format!("dm:{sender}"),
        (None, _, None) => "default".to_owned(),
    };
    format!("botcord:{}", uuid_v5(ROOM_NAMESPACE, &seed))
}

/// `<runtime>:<queue key>`: how a breaker is named in snapshots. What it covers is [`breaker_scope`].
pub fn breaker_key(runtime: &str, message: &Inbound) -> String {
    format!("{runtime}:{}", message.queue_key())
}

/// `<runtime>:<account>`: credentials belong to a runtime and an agent, so a breaker opens for all their rooms.
pub fn breaker_scope(runtime: &str, account_id: &str) -> String {
    format!("{runtime}:{account_id}")
}

/// Name of the directory with the session profile of a room: 64 hex digits.
pub fn profile_dir(room_id: &str) -> String {
    crypto::sha256_hex(room_id.as_bytes())
}

/// A random UUID, as turns carry.
pub fn uuid_v4() -> String {
    uuid(crypto::random(), 4)
}

/// A UUID made from a name: the same name in the same namespace gives the same id.
pub fn uuid_v5(namespace: [u8; 16], name: &str) -> String {
    // SHA-1 is what the format prescribes; nothing depends on its strength.
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(&namespace);
    context.update(name.as_bytes());
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    uuid(bytes, 5)
}

fn uuid(mut bytes: [u8; 16], version: u8) -> String {
    bytes[6] = bytes[6] & 0x0f | version << 4;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = crypto::hex(&bytes);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// An id of 26 characters that sorts by time (in the form of a ULID): 48 bits of Unix milliseconds and 80 random
/// bits. Ids of one millisecond are in no particular order.
pub fn entry_id(now_ms: i64) -> String {
    let time = u128::from(now_ms.max(0).unsigned_abs() & 0xffff_ffff_ffff);
    let random = crypto::random::<10>().iter().fold(0u128, |bits, byte| bits << 8 | u128::from(*byte));
    let bits = time << 80 | random;
    (0..26).rev().map(|digit| char::from(CROCKFORD[(bits >> (digit * 5) & 31) as usize])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_uuid_says_so() {
        let id = uuid_v4();
        assert_eq!(id.len(), 36);
        assert_eq!(&id[14..15], "4");
        assert!("89ab".contains(&id[19..20]));
        assert_ne!(id, uuid_v4());
    }

    #[test]
    fn a_known_name_gives_the_known_uuid() {
        let dns = [0x6b, 0xa7, 0xb8, 0x10, 0x9d, 0xad, 0x11, 0xd1, 0x80, 0xb4, 0x00, 0xc0, 0x4f, 0xd4, 0x30, 0xc8];
        assert_eq!(uuid_v5(dns, "www.example.com"), "2ed6657d-e927-568b-95e1-2665a8aea6a2");
    }

    #[test]
    fn entry_ids_sort_by_time() {
        let ids: Vec<String> = [-5, 0, 1, 1_767_225_600_000, 1_767_225_600_001].map(entry_id).into();
        assert!(ids[1..].is_sorted());
        assert!(ids.iter().all(|id| id.len() == 26 && id.starts_with('0')));
        assert!(entry_id(1_469_918_176_385).starts_with("01ARYZ6S41"));
    }
}
