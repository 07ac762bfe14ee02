//! A Python with the public client `lnc-client` 0.2.9.

use super::process::{Finished, run_command};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const PACKAGE: &str = "lnc-client==0.2.9";
const HAS_PACKAGE: &str = "import importlib.metadata as m; assert m.version('lnc-client') == '0.2.9'";

/// Runs a script with that Python.
pub fn run_script(script: &str, arguments: &[&str]) -> Finished {
    let mut command = Command::new(interpreter());
    command.arg("-c").arg(script).args(arguments);
    run_command(command, &[])
}

/// `LANCE_TEST_PYTHON`, else a virtual environment below the target folder that is made when it is missing.
fn interpreter() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        if let Some(given) = std::env::var_os("LANCE_TEST_PYTHON") {
            let given = PathBuf::from(given);
            assert!(has_package(&given), "LANCE_TEST_PYTHON={}: {PACKAGE} is not installed there", given.display());
            return given;
        }
        let test = std::env::current_exe().unwrap();
        let home = test.ancestors().nth(3).unwrap().join("python");
        let python = home.join("bin/python");
        if !has_package(&python) {
            install(&home);
        }
        python
    })
}

fn has_package(python: &Path) -> bool {
    let mut command = Command::new(python);
    command.args(["-c", HAS_PACKAGE]);
    python.is_file() && run_command(command, &[]).status.success()
}

fn install(home: &Path) {
    let mut make = Command::new("python3");
    make.args(["-m", "venv", "--clear"]).arg(home);
    let mut install = Command::new(home.join("bin/python"));
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE]);
    for mut command in [make, install] {
        let problem = match command.output() {
            Ok(output) if output.status.success() => continue,
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        panic!(
            "the tests of the public Python client need Python 3 with pip and venv, and {PACKAGE} from PyPI;\n\
             {command:?} failed: {problem}\nset LANCE_TEST_PYTHON to a Python that has the package"
        );
    }
}
