//! The load generator `lnc-bench`.
