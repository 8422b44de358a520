//! Files that are not what was written.

use std::path::PathBuf;

use bellhop::engine::journal::{Known, Line, Record, decode, encode};

use crate::kit::*;
use crate::mem_disk::MemDisk;

fn segment(number: u64) -> PathBuf {
    dir().join(format!("{number:010}.ndjson"))
}

/// A journal with three messages, closed; its one segment.
fn three_messages() -> (MemDisk, PathBuf, Vec<u8>) {
    let disk = MemDisk::default();
    let journal = open(&disk).journal;
    for id in ["m1", "m2", "m3"] {
        take_in(&journal, id);
    }
    journal.close();
    let bytes = disk.get(&segment(1)).unwrap();
    (disk, segment(1), bytes)
}

/// Where each line begins, and the end of the last.
fn line_starts(bytes: &[u8]) -> Vec<usize> {
    let ends = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1);
    std::iter::once(0).chain(ends).collect()
}

fn corrupt_files(disk: &MemDisk) -> Vec<PathBuf> {
    disk.paths().into_iter().filter(|p| p.to_string_lossy().contains(".ndjson.corrupt-")).collect()
}

#[test]
fn a_tail_torn_anywhere_costs_only_the_last_record() {
    let (disk, path, bytes) = three_messages();
    let starts = line_starts(&bytes);
    let last = starts[starts.len() - 2];
    for cut in last..bytes.len() {
        let disk = disk.copy();
        disk.put(&path, &bytes[..cut]);
        let opened = open(&disk);
        assert_eq!(opened.report.torn_tail, cut > last, "cut at {cut}");
        assert_eq!(opened.report.bad_line_count, 0, "cut at {cut}");
        let ids = ["m1", "m2", "m3"].map(|id| known(&opened.journal, id) != Known::No);
        assert_eq!(ids, [true, true, false], "cut at {cut}");
        opened.journal.close();
        assert!(!open(&disk).report.torn_tail, "cut at {cut}: still torn after a restart");
    }
}

#[test]
fn a_flipped_bit_costs_one_record_and_the_segment_is_kept() {
    let (disk, path, bytes) = three_messages();
    let starts = line_starts(&bytes);
    // Lines: base, boot, m1, m2, m3. Every byte of m2 but its newline.
    let line = starts[3]..starts[4] - 1;
    for at in line {
        for bit in [0x01, 0x80] {
            let mut damaged = bytes.clone();
            damaged[at] ^= bit;
            let disk = disk.copy();
            disk.put(&path, &damaged);
            let opened = open(&disk);
            let ids = ["m1", "m2", "m3"].map(|id| known(&opened.journal, id) != Known::No);
            assert_eq!(ids, [true, false, true], "flipped {bit:#x} at {at}");
            assert_eq!(opened.report.bad_lines[0].segment, path);
            assert_eq!(opened.report.bad_lines[0].offset, starts[3] as u64);
            let kept = corrupt_files(&disk);
            assert_eq!(kept, opened.report.quarantined, "flipped {bit:#x} at {at}");
            assert_eq!(disk.get(&kept[0]).unwrap(), damaged);
            opened.journal.close();
            let again = open(&disk);
            assert_eq!(again.report.bad_line_count, 0);
            assert_ne!(known(&again.journal, "m3"), Known::No);
        }
    }
}

#[test]
fn a_lost_newline_costs_the_two_records_beside_it() {
    let (disk, path, mut bytes) = three_messages();
    let starts = line_starts(&bytes);
    bytes[starts[3] - 1] = b' ';
    disk.put(&path, &bytes);
    let opened = open(&disk);
    let ids = ["m1", "m2", "m3"].map(|id| known(&opened.journal, id) != Known::No);
    assert_eq!((ids, opened.report.bad_line_count), ([false, false, true], 1));
}

#[test]
fn a_damaged_beginning_does_not_hide_the_rest() {
    let (disk, path, mut bytes) = three_messages();
    bytes[3] ^= 1;
    disk.put(&path, &bytes);
    let opened = open(&disk);
    assert!(["m1", "m2", "m3"].iter().all(|id| known(&opened.journal, id) != Known::No));
    assert_eq!(opened.report.bad_line_count, 1);
}

#[test]
fn any_bytes_at_all_can_be_opened() {
    let mut x: u32 = 7;
    let mut any = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 24) as u8
    };
    let (_, _, sound) = three_messages();
    for round in 0..200 {
        let disk = MemDisk::default();
        let mut bytes: Vec<u8> = (0..300).map(|_| any()).collect();
        if round % 2 == 0 {
            // Sound bytes with holes.
            bytes = sound.iter().map(|&b| if any() < 4 { any() } else { b }).collect();
        }
        disk.put(&segment(4), &bytes);
        disk.put(&segment(9), &bytes[..bytes.len() / 2]);
        let journal = open(&disk).journal;
        take_in(&journal, "another");
        journal.close();
        assert_eq!(open(&disk).report.bad_line_count, 0);
    }
    let disk = MemDisk::default();
    disk.put(&segment(1), b"");
    disk.put(&segment(2), &[0; 5_000]);
    assert!(open(&disk).report.torn_tail);
}

#[test]
fn only_what_follows_the_last_base_counts() {
    let (disk, path, bytes) = three_messages();
    let later = MemDisk::default();
    let journal = open(&later).journal;
    take_in(&journal, "m4");
    journal.close();
    disk.put(&segment(2), &later.get(&path).unwrap());
    disk.put(&dir().join("0000000003.ndjson.tmp"), &bytes);
    disk.put(&dir().join("README"), b"not ours");

    let journal = open(&disk).journal;
    assert_eq!(["m1", "m4"].map(|id| known(&journal, id) != Known::No), [false, true]);
    assert_eq!(disk.paths(), [segment(3), dir().join("README")]);
}

#[test]
fn segments_without_a_base_are_read_together() {
    let (_, _, bytes) = three_messages();
    let starts = line_starts(&bytes);
    let disk = MemDisk::default();
    disk.put(&segment(1), &bytes[starts[2]..starts[3]]);
    disk.put(&segment(2), &bytes[starts[3]..]);
    let opened = open(&disk);
    assert!(["m1", "m2", "m3"].iter().all(|id| known(&opened.journal, id) != Known::No));
    assert_eq!((opened.report.segments, opened.report.records), (2, 3));
}

#[test]
fn records_of_a_later_version_are_kept_word_for_word() {
    let sign = |body: &str| {
        let digest = ring::digest::digest(&ring::digest::SHA256, body.as_bytes());
        let sum = u32::from_be_bytes(digest.as_ref()[..4].try_into().unwrap());
        format!("{body},\"c\":\"{sum:08x}\"}}")
    };
    let other_kind = sign(r#"{"v":1,"t":5,"k":"weather","sky":  "blue""#);
    let other_version = sign(r#"{"v":2,"t":6,"k":"accepted","e":"x""#);
    let disk = MemDisk::default();
    disk.put(&segment(1), format!("{other_kind}\n{other_version}\n").as_bytes());

    for _ in 0..3 {
        let opened = open_with(&disk, small());
        assert_eq!((opened.report.unknown, opened.report.bad_line_count), (2, 0));
        for i in 0..40 {
            let entry = take_in(&opened.journal, &format!("m{i}_{}", opened.journal.health().segment));
            finish(&opened.journal, &entry).unwrap();
        }
        let kept: Vec<_> = opened.journal.view(|l| l.unknown().map(str::to_owned).collect());
        assert_eq!(kept, [other_kind.clone(), other_version.clone()]);
    }
}

#[test]
fn a_line_tells_when_it_was_changed() {
    let line = encode(NOW, &started("e1", "t1")).unwrap();
    let line = line.strip_suffix(b"\n").unwrap();
    let Ok(Line::Known(stamped)) = decode(line) else { panic!() };
    assert_eq!((stamped.t, stamped.record), (NOW, started("e1", "t1")));
    let text = std::str::from_utf8(line).unwrap();
    assert!(text.starts_with(r#"{"v":1,"t":1767225600000,"k":"started","e":["e1"],"#), "{text}");

    let base = encode(NOW, &Record::Base {}).unwrap();
    assert_eq!(base.len(), r#"{"v":1,"t":1767225600000,"k":"base","c":"00000000"}"#.len() + 1);
    for at in 0..line.len() {
        let mut damaged = line.to_vec();
        damaged[at] ^= 4;
        assert!(decode(&damaged).is_err(), "at {at}");
        assert!(decode(&line[..at]).is_err(), "cut at {at}");
    }
}
