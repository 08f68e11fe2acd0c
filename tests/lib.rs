//! Proofs that cross rooms.
