//! Splitting contents into chunks at places that the contents choose, so that an insertion moves few of them.
//!
//! Invariant: the chunks of given contents are always the same, however the bytes arrive; FastCDC of 2020 with the sizes below.
//! Changing any of them makes every stored file new to deduplication.
//! Left out: hashing and storing the chunks, and clients that split by themselves.

use fastcdc::v2020::FastCDC;

/// Shortest chunk in bytes, but for the last one of a file.
pub const MIN_BYTES: usize = 256 * 1024;
/// Usual length of a chunk in bytes.
pub const AVERAGE_BYTES: usize = 1024 * 1024;
/// Longest chunk in bytes.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Longest chunk in bytes that a client which splits by itself may send.
pub const MAX_CLIENT_BYTES: usize = 8 * 1024 * 1024;

/// Takes bytes in and gives chunks out.
///
/// ```
/// let mut splitter = driftless_sync::chunk::Splitter::new();
/// splitter.push(b"some bytes");
/// while let Some(chunk) = splitter.next_chunk() {
///     assert!(chunk.len() >= driftless_sync::chunk::MIN_BYTES);
/// }
/// assert_eq!(splitter.finish().concat(), b"some bytes");
/// ```
#[derive(Default)]
pub struct Splitter {
    buffer: Vec<u8>,
    /// Where the part that has not been given out begins.
    start: usize,
}

impl Splitter {
    /// A splitter that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the next bytes. Ask [`next_chunk`](Self::next_chunk) until it is empty after each push: at most
    /// [`MAX_BYTES`] then stay in memory.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.buffer.len() + bytes.len() > self.buffer.capacity() {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next chunk whose end no later byte can move; none until enough bytes have come.
    pub fn next_chunk(&mut self) -> Option<Vec<u8>> {
        // The place of a cut depends on at most MAX_BYTES: with so many at hand it is final.
        (self.buffer.len() - self.start >= MAX_BYTES).then(|| self.cut())
    }

    /// What is left when the contents have ended: none for empty contents, several chunks when many bytes were waiting.
    pub fn finish(mut self) -> Vec<Vec<u8>> {
        let mut chunks = Vec::new();
        while self.start < self.buffer.len() {
            chunks.push(self.cut());
        }
        chunks
    }

    fn cut(&mut self) -> Vec<u8> {
        let waiting = &self.buffer[self.start..];
        let (_, end) = FastCDC::new(waiting, MIN_BYTES, AVERAGE_BYTES, MAX_BYTES).cut(0, waiting.len());
        let chunk = waiting[..end].to_vec();
        self.start += end;
        chunk
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

    fn streamed(data: &[u8], piece: usize) -> Vec<Vec<u8>> {
        let mut splitter = Splitter::new();
        let mut chunks = Vec::new();
        for piece in data.chunks(piece) {
            splitter.push(piece);
            while let Some(chunk) = splitter.next_chunk() {
                chunks.push(chunk);
            }
        }
        chunks.extend(splitter.finish());
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
        let known: std::collections::HashSet<_> = streamed(&before, 1 << 20).into_iter().collect();
        let new = streamed(&after, 1 << 20).into_iter().filter(|chunk| !known.contains(chunk)).count();
        assert!(new <= 2, "{new} of {} chunks are new", known.len());
    }

    /// The cuts are part of the storage format; this test must never be changed to fit the code.
    #[test]
    fn the_cuts_of_known_contents_stay_where_they_are() {
        assert_eq!(at_once(&bytes(6 << 20, 3)), [2_035_153, 615_603, 1_266_927, 2_072_104, 301_669]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn streaming_cuts_where_one_call_would(length in 0usize..12 << 20, seed: u64, piece in 1usize..3 << 20) {
            let data = bytes(length, seed);
            let chunks = streamed(&data, piece.max(4096));
            prop_assert_eq!(chunks.iter().map(Vec::len).collect::<Vec<_>>(), at_once(&data));
            prop_assert!(chunks.concat() == data);
        }
    }
}
