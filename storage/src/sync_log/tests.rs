//! Tests of the log of entries.
