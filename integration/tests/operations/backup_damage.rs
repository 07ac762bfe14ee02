//! Backups that something happened to: every flaw is named, and nothing of them is restored.

use super::json;
use lance_integration::harness::ServerSpec;
use lance_integration::harness::process::lnc;
use std::fs;
use std::path::{Path, PathBuf};

fn batches(dir: &Path) -> PathBuf {
    let folder = fs::read_dir(dir.join("topics")).unwrap().next().unwrap().unwrap().path();
    fs::read_dir(folder).unwrap().next().unwrap().unwrap().path()
}

#[test]
fn damage_is_named_and_nothing_of_it_is_restored() {
    let folder = tempfile::TempDir::with_prefix("lance-test-").unwrap();
    let dir = folder.path().join("backup");
    let text = dir.display().to_string();
    let source = ServerSpec::new().start();
    let lines: String = (0..1_000).map(|number| format!("line {number}\n")).collect();
    lnc(&source.address(), &["produce", "-t", "lines", "-p", "0"], lines.as_bytes()).ok();
    json(&source.address(), &["backup", "--to", &text]);
    let (file, manifest) = (batches(&dir), dir.join("manifest.json"));
    let (sound_file, sound_manifest) = (fs::read(&file).unwrap(), fs::read(&manifest).unwrap());
    let target = ServerSpec::new().start();
    let expect = |what: &str, named: &str| {
        for arguments in [&["backup", "verify", &text][..], &["restore", "--from", &text]] {
            let (code, error) = lnc(&target.address(), arguments, b"").failure();
            assert_eq!(code, 1, "{what}: {error}");
            assert!(error.contains(named), "{what}: {error}");
        }
        assert_eq!(json(&target.address(), &["topic", "list"])["topics"].as_array().map(Vec::len), Some(0), "{what}");
    };
    let name = file.file_name().unwrap().to_string_lossy().into_owned();

    for at in [3, 60, sound_file.len() / 2, sound_file.len() - 1] {
        let mut flipped = sound_file.clone();
        flipped[at] ^= 0x10;
        fs::write(&file, flipped).unwrap();
        expect("a flipped bit", &name);
    }
    fs::write(&file, &sound_file[..sound_file.len() - 7]).unwrap();
    expect("a cut file", "bytes, the manifest says");
    fs::remove_file(&file).unwrap();
    expect("a missing file", &format!("{name} is missing"));
    fs::write(&file, &sound_file).unwrap();

    fs::write(&manifest, &sound_manifest[..sound_manifest.len() / 2]).unwrap();
    expect("a cut manifest", "no whole manifest");
    let changed = String::from_utf8(sound_manifest.clone()).unwrap().replace("\"lines\"", "\"other\"");
    fs::write(&manifest, changed).unwrap();
    expect("a changed manifest", "manifest.json is damaged: its checksum is");
    fs::remove_file(&manifest).unwrap();
    expect("no manifest", "manifest.json is missing");
    fs::write(&manifest, &sound_manifest).unwrap();

    json(&target.address(), &["backup", "verify", &text]);
    json(&target.address(), &["restore", "--from", &text]);
    // Another cluster's batches would not follow these.
    let other = ServerSpec::new().start();
    lnc(&other.address(), &["produce", "-t", "else", "-p", "0", "-d", "x"], b"").ok();
    let (code, error) = lnc(&other.address(), &["backup", "--to", &text], b"").failure();
    assert!(code == 1 && error.contains("backup of another cluster"), "{code}: {error}");
    let (code, error) = lnc(&other.address(), &["backup"], b"").failure();
    assert!(code == 2 && error.contains("--to DIR"), "{code}: {error}");
}
