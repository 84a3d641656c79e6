//! A peer in memory.
