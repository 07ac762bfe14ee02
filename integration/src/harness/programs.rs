//! Where the programs under test are: built once by each test process, with the profile and target folder of the tests,
//! or those in the folder that `LANCE_TEST_PROGRAMS` names. Examples of the client library likewise, below `examples`.

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

/// The path of an example of the client library.
pub fn example(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let given = std::env::var_os("LANCE_TEST_PROGRAMS").map(PathBuf::from);
        given.unwrap_or_else(|| cargo_build(&["--package", "lance-client", "--examples"])).join("examples")
    });
    let path = folder.join(name);
    assert!(path.is_file(), "{} was not built", path.display());
    path
}

fn build() -> PathBuf {
    let given = std::env::var_os("LANCE_TEST_PROGRAMS").map(PathBuf::from);
    given.unwrap_or_else(|| cargo_build(&["--package", "lance-bin", "--bins"]))
}

/// Builds as the tests were built; gives the folder of what was. Cargo has let go of its lock when tests run, so that it
/// can be called again.
fn cargo_build(what: &[&str]) -> PathBuf {
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
        .args(["build", "--quiet", "--profile", profile])
        .args(what)
        .arg("--target-dir")
        .arg(target)
        .stdin(Stdio::null())
        .status()
        .expect("cargo runs");
    assert!(built.success(), "{what:?} do not build");
    folder
}
