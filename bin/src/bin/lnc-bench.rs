//! The load generator.

use std::process::ExitCode;

fn main() -> ExitCode {
    lance_bin::bench::main()
}
