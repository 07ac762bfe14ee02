//! Faults on a real cluster, and the verdict about what it promised.

use std::process::ExitCode;

fn main() -> ExitCode {
    lance_bin::chaos::main()
}
