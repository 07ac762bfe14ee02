//! LWP frames.
