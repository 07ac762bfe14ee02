//! Whatever is set: no panic, reasons for a refusal, and a printed configuration that loads as the same.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use lance_config::keys::KEYS;
use lance_config::{LoadRequest, load};
use proptest::prelude::*;

/// Texts that some key takes, and texts that none does.
fn values() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<u32>().prop_map(|number| number.to_string()),
        (1u64..100_000, prop_oneof![Just("ms"), Just("s"), Just("d"), Just("KiB"), Just("GiB")])
            .prop_map(|(count, unit)| format!("{count}{unit}")),
        prop_oneof![Just("true"), Just("false"), Just("L1"), Just("always"), Just("io_uring"), Just("")]
            .prop_map(str::to_owned),
        "[a-z]{1,8}:[0-9]{1,5}(,[a-z]{1,8}:[0-9]{1,5})?",
        "\\[[0-9]{1,2}(, [0-9]{1,2}){0,3}\\]",
        "\\{ interval_ms = [0-9]{1,3}, bytes = [0-9]{1,6} \\}",
        any::<String>(),
    ]
}

proptest! {
    #[test]
    fn any_value_is_refused_with_reasons_or_survives_printing(
        settings in prop::collection::vec((0..KEYS.len(), values()), 1..6),
    ) {
        let sets = settings.iter().map(|(key, value)| format!("{}={value}", KEYS[*key].name)).collect();
        match load(&LoadRequest { sets, ..LoadRequest::default() }) {
            Err(problems) => prop_assert!(!problems.is_empty()),
            Ok(loaded) => {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("printed.toml");
                std::fs::write(&path, loaded.to_toml()).unwrap();
                let again = load(&LoadRequest { file: Some(path), ..LoadRequest::default() }).unwrap();
                let mut expected = loaded.config;
                (expected.cluster.secret, expected.auth.token, expected.tee.token) = (None, None, None);
                prop_assert_eq!(again.config, expected);
            }
        }
    }

    #[test]
    fn any_file_is_taken_or_refused_with_its_line(text in any::<String>()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lance.toml");
        std::fs::write(&path, text).unwrap();
        if let Err(problems) = load(&LoadRequest { file: Some(path), ..LoadRequest::default() }) {
            prop_assert!(problems.iter().all(|problem| problem.to_string().contains("lance.toml")));
        }
    }
}
