//! A Python with the public client `lnc-client` 0.2.9: the one that `LANCE_TEST_PYTHON` names, else one of the tests' own.
//! Where none can be had the tests that need it look at nothing, and say so.

use super::not_run;
use super::process::{Finished, run_command};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const PACKAGE: &str = "lnc-client==0.2.9";
const HAS_PACKAGE: &str = "import importlib.metadata as m; assert m.version('lnc-client') == '0.2.9'";

/// Runs a script with that Python; `None` where there is none.
pub fn run_script(script: &str, arguments: &[&str]) -> Option<Finished> {
    let mut command = Command::new(interpreter()?);
    command.arg("-c").arg(script).args(arguments);
    Some(run_command(command, &[]))
}

/// `LANCE_TEST_PYTHON`, which must be right, else a virtual environment below the target folder that is made when it is
/// missing.
fn interpreter() -> Option<&'static Path> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let python = PYTHON.get_or_init(|| {
        if let Some(given) = std::env::var_os("LANCE_TEST_PYTHON") {
            let given = PathBuf::from(given);
            assert!(has_package(&given), "LANCE_TEST_PYTHON={}: {PACKAGE} is not installed there", given.display());
            return Ok(given);
        }
        let test = std::env::current_exe().unwrap();
        let home = test.ancestors().nth(3).unwrap().join("python");
        let python = home.join("bin/python");
        if !has_package(&python) {
            install(&home)?;
        }
        Ok(python)
    });
    python.as_deref().map_err(|problem| not_run(problem)).ok()
}

fn has_package(python: &Path) -> bool {
    let mut command = Command::new(python);
    command.args(["-c", HAS_PACKAGE]);
    python.is_file() && run_command(command, &[]).status.success()
}

fn install(home: &Path) -> Result<(), String> {
    let mut make = Command::new("python3");
    make.args(["-m", "venv", "--clear"]).arg(home);
    let mut install = Command::new(home.join("bin/python"));
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE]);
    for mut command in [make, install] {
        let problem = match command.output() {
            Ok(output) if output.status.success() => continue,
            // `venv` says on its standard output what is missing.
            Ok(output) => {
                [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
            }
            Err(error) => error.to_string(),
        };
        return Err(format!(
            "tests of the public Python client need Python 3 with pip and venv, and {PACKAGE} from PyPI; {command:?} \
             failed: {}; LANCE_TEST_PYTHON names a Python that has the package",
            problem.trim()
        ));
    }
    Ok(())
}
