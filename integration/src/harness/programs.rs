//! Where the programs under test are: built once by each test process, with the profile and target folder of the tests,
//! or those in the folder that `LANCE_TEST_PROGRAMS` names.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The path of `lance`, `lnc` or `lnc-bench`.
pub fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let path = FOLDER.get_or_init(build).join(name);
    assert!(path.is_file(), "{} was not built", path.display());
    path
}

/// Cargo has let go of its lock when tests run, so that it can be called again.
fn build() -> PathBuf {
    if let Some(folder) = std::env::var_os("LANCE_TEST_PROGRAMS") {
        return PathBuf::from(folder);
    }
    let test = std::env::current_exe().unwrap();
    // <target>/<folder of the profile>/deps/<test>
    let folder = test.parent().and_then(Path::parent).unwrap().to_owned();
    let target = folder.parent().unwrap();
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "test",
        Some(profile) => profile,
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .current_dir(root)
        .args(["build", "--quiet", "--package", "lance-bin", "--bins", "--profile", profile])
        .arg("--target-dir")
        .arg(target)
        .stdin(Stdio::null())
        .status()
        .expect("cargo runs");
    assert!(built.success(), "the programs do not build");
    folder
}
