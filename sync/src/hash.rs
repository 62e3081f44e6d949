//! The identity of contents: SHA-256, of chunks and of whole files alike.
//!
//! Invariant: a [`ContentHash`] is 32 bytes and is written as 64 lower-case hex digits. A [`Hasher`] can be put away between
//! two requests and taken up by another process, so that a resumed upload hashes each byte once.
//! Left out: who may know a hash; that is the store's business.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest, Sha256};

/// The SHA-256 of some contents.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContentHash(pub [u8; 32]);

/// A text or bytes that are no SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 has 64 hex digits")]
pub struct HashError;

impl ContentHash {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 32 bytes, as the database keeps them.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl TryFrom<&[u8]> for ContentHash {
    type Error = HashError;
    fn try_from(bytes: &[u8]) -> Result<Self, HashError> {
        bytes.try_into().map(Self).map_err(|_| HashError)
    }
}

impl FromStr for ContentHash {
    type Err = HashError;
    /// Takes upper-case digits too.
    fn from_str(text: &str) -> Result<Self, HashError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| HashError)?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for ContentHash {
    type Error = HashError;
    fn try_from(text: String) -> Result<Self, HashError> {
        text.parse()
    }
}

impl From<ContentHash> for String {
    fn from(hash: ContentHash) -> String {
        hash.to_string()
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Hashes contents piece by piece, and can be put away in between.
#[derive(Clone, Default)]
pub struct Hasher {
    inner: Sha256,
    length: u64,
}

/// A saved state that is not one of ours: cut short, or of another format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the saved hash state is not readable")]
pub struct StateError;

/// First byte of a saved state. Another layout gets another number; an upload whose state is unreadable is hashed anew.
const STATE_FORMAT: u8 = 1;

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.inner.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// Bytes taken in so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The hash of all bytes taken in.
    pub fn finish(self) -> ContentHash {
        ContentHash(self.inner.finalize().into())
    }

    /// The state as bytes (about 120). They reveal the last, unfinished block of the contents: keep them like the contents.
    pub fn save(&self) -> Vec<u8> {
        let mut bytes = vec![STATE_FORMAT];
        bytes.extend_from_slice(&self.length.to_le_bytes());
        bytes.extend_from_slice(&self.inner.serialize());
        bytes
    }

    /// Takes up a saved state.
    pub fn restore(bytes: &[u8]) -> Result<Self, StateError> {
        let [STATE_FORMAT, rest @ ..] = bytes else { return Err(StateError) };
        let (length, state) = rest.split_first_chunk::<8>().ok_or(StateError)?;
        let state = SerializedState::<Sha256>::try_from(state).map_err(|_| StateError)?;
        let inner = Sha256::deserialize(&state).map_err(|_| StateError)?;
        Ok(Self { inner, length: u64::from_le_bytes(*length) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_empty_hash_is_the_known_one() {
        let text = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(ContentHash::of(b"").to_string(), text);
        assert_eq!(text.to_uppercase().parse::<ContentHash>().unwrap(), ContentHash::of(b""));
        assert_eq!("abc".parse::<ContentHash>(), Err(HashError));
        assert_eq!(ContentHash::try_from(&[0u8; 31][..]), Err(HashError));
    }

    #[test]
    fn a_state_that_is_not_ours_is_refused() {
        let saved = Hasher::new().save();
        assert!(Hasher::restore(&saved).is_ok());
        for bad in [&[][..], &saved[..saved.len() - 1], &[9; 100][..]] {
            assert!(Hasher::restore(bad).is_err());
        }
    }

    proptest! {
        #[test]
        fn putting_the_hasher_away_changes_nothing(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8)) {
            let mut hasher = Hasher::new();
            for piece in &pieces {
                hasher.update(piece);
                hasher = Hasher::restore(&hasher.save()).unwrap();
            }
            let whole = pieces.concat();
            prop_assert_eq!(hasher.length(), whole.len() as u64);
            prop_assert_eq!(hasher.finish(), ContentHash::of(&whole));
        }
    }
}
