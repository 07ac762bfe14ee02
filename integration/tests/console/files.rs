//! The files of the console as they are served.

use lance_integration::harness::{ServerSpec, http};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The files as they lie in the source, below `actors/console`.
fn sources() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../actors/console");
    let (mut found, mut folders) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push(path.strip_prefix(&root).unwrap().display().to_string()),
            }
        }
    }
    found
}

#[test]
fn every_file_is_served_with_its_type_and_a_policy_that_lets_nothing_else_in() {
    let server = ServerSpec::new().start();
    let files = sources();
    assert!(files.len() > 25, "{files:?}");
    let mut tags = BTreeSet::new();
    for file in &files {
        let path = format!("/console/{file}");
        let reply = http::get(&server.admin(), &path);
        assert_eq!(reply.status, 200, "{path}");
        let expected = match file.rsplit('.').next() {
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!(reply.header("content-type"), Some(expected), "{path}");
        let policy = reply.header("content-security-policy").unwrap();
        for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "trusted-types 'none'"] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{path}: {policy}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{path}");
        tags.insert(reply.header("etag").unwrap().to_owned());
    }
    assert_eq!(tags.len(), 1, "what was built together has one tag");
    let tag = tags.first().unwrap();
    let known = http::request_with(&server.admin(), "GET", "/console/js/main.js", &[("If-None-Match", tag)], "");
    assert_eq!((known.status, known.body.as_str()), (304, ""));
}

#[test]
fn the_page_is_at_the_root_and_names_only_files_that_are_there() {
    let server = ServerSpec::new().start();
    let page = http::get(&server.admin(), "/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert_eq!(http::get(&server.admin(), "/console").body, page.body);
    let named = page.body.split(['"', '\'']).filter(|part| part.starts_with("/console/"));
    for path in named.collect::<BTreeSet<_>>() {
        assert_eq!(http::get(&server.admin(), path).status, 200, "{path}");
    }
    assert!(!page.body.contains("http://") && !page.body.contains("https://"), "everything comes from the node");
    for missing in ["/console/nothing.js", "/console/../Cargo.toml", "/console/js", "/console/%2e%2e/index.html"] {
        assert_eq!(http::get(&server.admin(), missing).status, 404, "{missing}");
    }
    assert_eq!(http::request(&server.admin(), "HEAD", "/", "").status, 200);
    assert_eq!(http::post(&server.admin(), "/", "").status, 405);
}

#[test]
fn no_script_reads_markup_or_runs_text() {
    for file in sources().iter().filter(|file| file.ends_with(".js")) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../actors/console").join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//"), "{file} says what it is");
        for word in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "DOMParser"]
        {
            assert!(!text.contains(word), "{file}: {word}");
        }
    }
}
