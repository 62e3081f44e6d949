//! Splitting contents into chunks at places that the contents choose, so that an insertion moves few of them.
//!
//! Invariant: the chunks of given contents are always the same, however the bytes arrive; FastCDC of 2020 with the sizes below.
//! Changing any of them makes every stored file new to deduplication.
//! Left out: hashing and storing the chunks, and clients that split by themselves.

use std::{borrow::Cow, collections::VecDeque};

use bytes::Bytes;
use fastcdc::v2020::{Normalization, get_gear_with_seed, select_masks};

/// Shortest chunk in bytes, but for the last one of a file.
pub const MIN_BYTES: usize = 256 * 1024;
/// Usual length of a chunk in bytes.
pub const AVERAGE_BYTES: usize = 1024 * 1024;
/// Longest chunk in bytes.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Longest chunk in bytes that a client which splits by itself may send.
pub const MAX_CLIENT_BYTES: usize = 8 * 1024 * 1024;

/// Takes bytes in and gives chunks out, as the pieces of which they came: no byte is copied, and none is held longer than until
/// its chunk is known.
///
/// ```
/// let mut splitter = driftless_sync::chunk::Splitter::new();
/// splitter.push("some bytes".into());
/// assert_eq!(splitter.next_chunk(), None);
/// assert_eq!(splitter.finish().concat(), b"some bytes");
/// ```
pub struct Splitter {
    /// The current chunk so far, looked at.
    open: Vec<Bytes>,
    length: usize,
    hash: u64,
    /// Not looked at yet.
    waiting: VecDeque<Bytes>,
    gear: Gear,
}

impl Default for Splitter {
    fn default() -> Self {
        Self::new()
    }
}

impl Splitter {
    /// A splitter that has seen nothing.
    pub fn new() -> Self {
        Splitter { open: Vec::new(), length: 0, hash: 0, waiting: VecDeque::new(), gear: Gear::new() }
    }

    /// Takes in the next bytes. Ask [`next_chunk`](Self::next_chunk) until it is empty after each push.
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.waiting.push_back(bytes);
        }
    }

    /// The next chunk that has ended; none until enough bytes have come.
    pub fn next_chunk(&mut self) -> Option<Vec<Bytes>> {
        while let Some(bytes) = self.waiting.pop_front() {
            let end = self.end_within(&bytes);
            self.length += bytes.len();
            self.open.push(bytes);
            if let Some(end) = end {
                return Some(self.cut(end));
            }
        }
        None
    }

    /// What is left when the contents have ended and no chunk waits: the last chunk, empty for empty contents.
    pub fn finish(self) -> Vec<Bytes> {
        debug_assert!(self.waiting.is_empty(), "a chunk was not asked for");
        self.open
    }

    /// Takes the first `end` bytes off; what lies behind them is looked at again.
    fn cut(&mut self, end: usize) -> Vec<Bytes> {
        let mut behind = self.length - end;
        // The end lies in the last piece, or one byte before it.
        while behind > 0 {
            let mut last = self.open.pop().expect("the end lies within what was taken in");
            let back = last.split_off(last.len() - behind.min(last.len()));
            behind -= back.len();
            self.waiting.push_front(back);
            if !last.is_empty() {
                self.open.push(last);
            }
        }
        (self.length, self.hash) = (0, 0);
        std::mem::take(&mut self.open)
    }

    /// Where the current chunk ends, counted from its start, if that is known once `bytes` have come.
    ///
    /// FastCDC looks at bytes in pairs from the chunk's start on, and at a pair only when it is whole.
    fn end_within(&mut self, bytes: &[u8]) -> Option<usize> {
        let start = self.length;
        let mut at = start.max(MIN_BYTES);
        if at % 2 == 1 {
            let first = *self.open.last().and_then(|piece| piece.last()).expect("an odd length has a last byte");
            if let Some(found) = self.look(&[first, *bytes.first()?], at - 1) {
                return Some(at - 1 + found);
            }
            at += 1;
        }
        for limit in [AVERAGE_BYTES, MAX_BYTES] {
            let here = bytes.get(at.saturating_sub(start)..).unwrap_or_default();
            let here = &here[..here.len().min(limit.saturating_sub(at))];
            if let Some(found) = self.look(here, at) {
                return Some(at + found);
            }
            at += here.len() & !1;
        }
        (start + bytes.len() >= MAX_BYTES).then_some(MAX_BYTES)
    }

    /// Looks at the pairs of `bytes`, which begin at `at` and lie on one side of the average length.
    fn look(&mut self, bytes: &[u8], at: usize) -> Option<usize> {
        let mask = if at < AVERAGE_BYTES { self.gear.strict } else { self.gear.loose };
        let mut hash = self.hash;
        for (n, pair) in bytes.chunks_exact(2).enumerate() {
            hash = (hash << 2).wrapping_add(self.gear.shifted[pair[0] as usize]);
            if hash & (mask << 1) == 0 {
                return Some(2 * n);
            }
            hash = hash.wrapping_add(self.gear.plain[pair[1] as usize]);
            if hash & mask == 0 {
                return Some(2 * n + 1);
            }
        }
        self.hash = hash;
        None
    }
}

/// The tables and masks of FastCDC.
struct Gear {
    plain: &'static [u64; 256],
    shifted: &'static [u64; 256],
    strict: u64,
    loose: u64,
}

impl Gear {
    fn new() -> Self {
        let (plain, shifted) = get_gear_with_seed(0);
        let table = |table: Cow<'static, [u64]>| match table {
            Cow::Borrowed(table) => table.try_into().expect("a gear table has 256 entries"),
            Cow::Owned(_) => unreachable!("only a seed makes tables of its own"),
        };
        let (strict, loose) = select_masks(AVERAGE_BYTES, Normalization::Level1);
        Gear { plain: table(plain), shifted: table(shifted), strict, loose }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastcdc::v2020::FastCDC;
    use proptest::prelude::*;

    /// Bytes that look random, so that cuts fall everywhere; or long runs of zeros, where none falls before the maximum.
    fn bytes(length: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        (0..length)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                if seed.is_multiple_of(5) { 0 } else { state as u8 }
            })
            .collect()
    }

    fn at_once(data: &[u8]) -> Vec<usize> {
        FastCDC::new(data, MIN_BYTES, AVERAGE_BYTES, MAX_BYTES).map(|chunk| chunk.length).collect()
    }

    fn streamed(data: &[u8], pieces: &[usize]) -> Vec<Vec<u8>> {
        let mut splitter = Splitter::new();
        let (mut chunks, mut at) = (Vec::new(), 0);
        for piece in pieces.iter().cycle() {
            let end = data.len().min(at + piece);
            splitter.push(Bytes::copy_from_slice(&data[at..end]));
            while let Some(chunk) = splitter.next_chunk() {
                chunks.push(chunk.concat());
            }
            if end == data.len() {
                break;
            }
            at = end;
        }
        chunks.extend(Some(splitter.finish().concat()).filter(|last| !last.is_empty()));
        chunks
    }

    #[test]
    fn empty_contents_have_no_chunk() {
        assert!(Splitter::new().finish().is_empty());
    }

    #[test]
    fn an_insertion_at_the_start_leaves_most_chunks_as_they_were() {
        let before = bytes(16 << 20, 7);
        let after = [&b"inserted"[..], &before].concat();
        let known: std::collections::HashSet<_> = streamed(&before, &[1 << 20]).into_iter().collect();
        let new = streamed(&after, &[1 << 20]).into_iter().filter(|chunk| !known.contains(chunk)).count();
        assert!(new <= 2, "{new} of {} chunks are new", known.len());
    }

    /// The cuts are part of the storage format; this test must never be changed to fit the code.
    #[test]
    fn the_cuts_of_known_contents_stay_where_they_are() {
        assert_eq!(at_once(&bytes(6 << 20, 3)), [2_035_153, 615_603, 1_266_927, 2_072_104, 301_669]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn streaming_cuts_where_one_call_would(
            length in 0usize..12 << 20,
            seed: u64,
            pieces in prop::collection::vec(prop_oneof![1usize..4, 1usize..3 << 20], 1..8),
        ) {
            let data = bytes(length, seed);
            // Single bytes only take too long.
            let chunks = streamed(&data, &[&pieces[..], &[1 << 16 | 1]].concat());
            prop_assert_eq!(chunks.iter().map(Vec::len).collect::<Vec<_>>(), at_once(&data));
            prop_assert!(chunks.concat() == data);
        }
    }
}
