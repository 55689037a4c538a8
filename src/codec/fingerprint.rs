//! [`Fingerprint`]: sixteen bytes that stand for a session key.
//!
//! Session keys are long, and a tree of long keys is large: at a million entries the trees that a touch writes would
//! not fit into memory. Sixteen bytes stay inline in sled's nodes, and nearly so behind the eight of a time.

use std::fmt;

use siphasher::sip128::{Hash128, Hasher128, SipHasher13};

use crate::key::SessionKey;

/// Stands for a session key in every tree but `sessions`, and in memory.
///
/// It is SipHash-1-3 with 128 bits under the store's own random seed, so nobody can make two keys meet on purpose. By
/// chance, two of 10^7 keys meet in one of 10^24 stores.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// The first one in the order of the trees.
    pub(crate) const FIRST: Self = Self([0; 16]);
    /// The last one in the order of the trees.
    pub(crate) const LAST: Self = Self([0xff; 16]);

    pub(crate) fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Eight of its bytes, for tables in memory: they are as good as any hash.
    pub(crate) fn table_hash(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// Its first byte, by which trees and tables are divided in the same order, and eight others for such a table.
    pub(crate) fn part_and_hash(&self) -> (u8, u64) {
        let [part, .., a, b, c, d, e, f, g, h] = self.0;
        (part, u64::from_le_bytes([a, b, c, d, e, f, g, h]))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "entry {a:02x}{b:02x}{c:02x}{d:02x}…")
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A store's seed for fingerprints, made with the store and kept in `meta`.
#[derive(Clone, Copy)]
pub(crate) struct Seed(SipHasher13);

impl Seed {
    pub(crate) fn new(seed: &[u8; 16]) -> Self {
        Self(SipHasher13::new_with_key(seed))
    }

    pub(crate) fn fingerprint(&self, key: &SessionKey) -> Fingerprint {
        let mut hasher = self.0;
        std::hash::Hasher::write(&mut hasher, key.as_str().as_bytes());
        let Hash128 { h1, h2 } = hasher.finish128();
        let mut bytes = [0; 16];
        let (low, high) = bytes.split_at_mut(8);
        low.copy_from_slice(&h1.to_le_bytes());
        high.copy_from_slice(&h2.to_le_bytes());
        Fingerprint(bytes)
    }
}

impl fmt::Debug for Seed {
    /// Not the seed itself: somebody who knows it can make fingerprints collide.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed")
    }
}
