//! The client program.

use std::process::ExitCode;

fn main() -> ExitCode {
    lance_bin::cli::main()
}
