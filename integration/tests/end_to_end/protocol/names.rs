//! Topic names: `[A-Za-z0-9._-]{1,255}`, not `.` or `..`.

use lance_integration::harness::ServerSpec;

#[test]
fn names_of_letters_digits_dots_dashes_and_underscores_are_taken() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let longest = "n".repeat(255);
    for name in ["a", "Z9", "a.b-c_d", "...", "-", "_x", "0", &longest] {
        let answer = connection.control(0x01, name.as_bytes());
        assert_eq!(answer.batch_id, 0x80, "{name}: {}", answer.text());
        assert_eq!(answer.json()["name"], name);
    }
}

#[test]
fn other_names_are_refused_with_the_rule() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let too_long = "n".repeat(256);
    let names: Vec<&[u8]> = vec![
        b".",
        b"..",
        b"a b",
        b"a/b",
        b"../etc/passwd",
        b"a\0b",
        b"caf\xC3\xA9",
        b"\xFF\xFE",
        b"a\nb",
        b"tab\t",
        b"a:b",
        b"a'b\"c",
        too_long.as_bytes(),
    ];
    for name in &names {
        let answer = connection.control(0x01, name);
        assert!(answer.is_error(), "{:?}", String::from_utf8_lossy(name));
        assert!(answer.text().contains("1 to 255 of A-Z a-z 0-9 . _ -"), "{}", answer.text());
        let with_retention = [&(name.len() as u16).to_le_bytes()[..], name, &[0; 16]].concat();
        assert!(connection.control(0x06, &with_retention).is_error());
    }
    assert_eq!(connection.control(0x03, b"").text(), r#"{"topics":[]}"#);
}
