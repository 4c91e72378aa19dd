//! Feeds randomly changed frames, the same in each run, to the decoder, which must not panic.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and says how far it came"
)]

use kms_kmip::read_any_response;

/// Encodes an item, with padding.
fn item(tag: u32, kind: u8, value: &[u8]) -> Vec<u8> {
    let mut out = tag.to_be_bytes()[1..].to_vec();
    out.push(kind);
    out.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

fn number(tag: u32, kind: u8, value: u32) -> Vec<u8> {
    item(tag, kind, &value.to_be_bytes())
}

fn answer(operation: u32, payload: &[u8]) -> Vec<u8> {
    let version = [number(0x42_006a, 2, 1), number(0x42_006b, 2, 4)].concat();
    let header =
        [item(0x42_0069, 1, &version), item(0x42_0092, 9, &[0; 8]), number(0x42_000d, 2, 1)].concat();
    let fields = [
        number(0x42_005c, 5, operation),
        item(0x42_0093, 8, &[7; 16]),
        number(0x42_007f, 5, 0),
        item(0x42_007c, 1, payload),
    ]
    .concat();
    item(0x42_007b, 1, &[item(0x42_007a, 1, &header), item(0x42_000f, 1, &fields)].concat())
}

/// A response to each operation, as servers send it.
fn seeds() -> Vec<Vec<u8>> {
    let uid = item(0x42_0094, 7, b"abc123");
    let value = item(0x42_0045, 1, &item(0x42_0043, 8, &[5; 128]));
    let block =
        [number(0x42_0042, 5, 1), value, number(0x42_0028, 5, 3), number(0x42_002a, 2, 1024)].concat();
    let key = item(0x42_008f, 1, &item(0x42_0040, 1, &block));
    let secret = item(0x42_0085, 1, &[number(0x42_0086, 5, 1), item(0x42_0040, 1, &block)].concat());
    let opaque = item(0x42_005b, 1, &[number(0x42_0059, 5, 1), item(0x42_005a, 8, b"opaque")].concat());
    let name = [item(0x42_0055, 7, b"rook-ceph-osd-encryption-key-a"), number(0x42_0054, 5, 1)].concat();
    let named = [item(0x42_000a, 7, b"Name"), item(0x42_000b, 1, &name)].concat();
    let attributes = [uid.clone(), item(0x42_0008, 1, &named)].concat();
    let newer = [item(0x42_0053, 1, &name), number(0x42_008d, 5, 1), item(0x42_0039, 9, &[1; 8])].concat();
    let version = item(0x42_0069, 1, &[number(0x42_006a, 2, 2), number(0x42_006b, 2, 1)].concat());
    vec![
        answer(0x03, &uid),
        answer(0x08, &[uid.clone(), uid.clone()].concat()),
        answer(0x0a, &[number(0x42_0057, 5, 2), uid.clone(), key].concat()),
        answer(0x0a, &[number(0x42_0057, 5, 7), uid.clone(), secret].concat()),
        answer(0x0a, &[number(0x42_0057, 5, 8), uid.clone(), opaque].concat()),
        answer(0x0b, &attributes),
        answer(0x0b, &[uid, item(0x42_0125, 1, &newer)].concat()),
        answer(0x18, &[number(0x42_005c, 5, 3), item(0x42_009d, 7, b"vendor")].concat()),
        answer(0x1e, &[version.clone(), version].concat()),
    ]
}

/// The generator xorshift64*, which yields the same numbers in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }
}

fn change(frame: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    const ODD: [u8; 8] = [0, 1, 4, 7, 8, 0x42, 0x80, 0xff];
    for _ in 0..=random.below(4) {
        let at = random.below(frame.len());
        match random.below(7) {
            0 => frame[at] ^= 1 << random.below(8),
            1 => frame[at] = ODD[random.below(8)],
            2 => frame.truncate(at.max(1)),
            // In most cases, this changes a length.
            3 => {
                let word = at / 8 * 8 + 4;
                if let Some(length) = frame.get_mut(word..word + 4) {
                    let values = [0_u32, 1, 7, 8, 9, 0xffff_ffff, 0x7fff_fff8, u32::MAX - 7];
                    length.copy_from_slice(&values[random.below(8)].to_be_bytes());
                }
            }
            // This changes a type.
            4 => {
                if let Some(kind) = frame.get_mut(at / 8 * 8 + 3) {
                    *kind = u8::try_from(random.below(14)).unwrap();
                }
            }
            5 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len()) / 8 * 8;
                frame.extend_from_slice(&other[from..]);
            }
            _ => {
                let end = (at + random.below(64)).min(frame.len());
                frame.drain(at..end);
                if frame.is_empty() {
                    frame.push(0x42);
                }
            }
        }
        // Correct the outermost length in half of the cases, so that the decoder reaches more of the frame.
        if frame.len() >= 8 && random.below(2) == 0 {
            let length = u32::try_from(frame.len() - 8).unwrap().to_be_bytes();
            frame[4..8].copy_from_slice(&length);
        }
    }
}

fn run(cases: usize) {
    let seeds = seeds();
    for seed in &seeds {
        assert!(read_any_response(seed) > 1, "{seed:02x?}");
    }
    let mut random = Random(0x6b6d_6970_2074_746c);
    let mut understood = 0_usize;
    let mut frame = Vec::new();
    for _ in 0..cases {
        frame.clear();
        frame.extend_from_slice(&seeds[random.below(seeds.len())]);
        change(&mut frame, &seeds, &mut random);
        understood += usize::from(read_any_response(&frame) > 0);
    }
    println!("{understood} of {cases} were understood all the same");
    // The decoder must accept some frames and refuse others, otherwise the changes test nothing.
    assert!(understood > cases / 100 && understood < cases);
}

#[test]
fn changed_frames_do_not_make_the_decoder_panic() {
    run(50_000);
}

#[test]
#[ignore = "takes long; ten million cases with --release: cargo xtask it kmip"]
fn a_long_run_of_changed_frames_does_not_make_the_decoder_panic() {
    run(if cfg!(debug_assertions) { 1_000_000 } else { 10_000_000 });
}
