//! Any text as a configuration: refused with reasons, or accepted and printed so that it loads as the same again.
#![no_main]

use lance_config::{LoadRequest, load};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let path = std::env::temp_dir().join(format!("lance-fuzz-{}.toml", std::process::id()));
    let load_text = |text: &str| {
        std::fs::write(&path, text).expect("the temporary folder can be written");
        load(&LoadRequest {
            file: Some(path.clone()),
            ..LoadRequest::default()
        })
    };
    match load_text(text) {
        Ok(loaded) => {
            let again = load_text(&loaded.to_toml()).expect("a printed configuration loads");
            // Secrets are not printed.
            let mut expected = loaded.config.clone();
            (expected.cluster.secret, expected.auth.token, expected.tee.token) = (None, None, None);
            assert_eq!(again.config, expected);
        }
        Err(problems) => {
            assert!(!problems.is_empty() && problems.iter().all(|problem| !problem.to_string().is_empty()))
        }
    }
    let _ = load(&LoadRequest {
        sets: text.lines().map(str::to_owned).collect(),
        ..LoadRequest::default()
    });
});
