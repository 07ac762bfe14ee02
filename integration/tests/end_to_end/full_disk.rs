//! A file system that is full to the last byte: the server starts, serves what it has, and goes on when there is space.

use lance_integration::harness::records::{record, texts};
use lance_integration::harness::{Server, ServerSpec, eventually, http, not_run};
use std::ffi::CString;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A file system in memory on a server's data folder.
struct Small(PathBuf);

impl Small {
    /// `None` where mounting is not allowed.
    fn mount(server: &Server) -> Option<Self> {
        let path = server.data_dir();
        std::fs::create_dir_all(&path).unwrap();
        let target = CString::new(path.as_os_str().as_bytes()).unwrap();
        let (name, options) = (c"tmpfs".as_ptr(), c"size=64m".as_ptr().cast());
        // SAFETY: terminated strings that live through the call.
        let mounted = unsafe { libc::mount(name, target.as_ptr(), name, 0, options) };
        (mounted == 0).then_some(Self(path))
    }

    /// Takes every byte that is left.
    fn fill(&self) {
        let mut ballast = std::fs::OpenOptions::new().append(true).create(true).open(self.0.join("ballast")).unwrap();
        while ballast.write(&[0; 4096]).is_ok_and(|count| count > 0) {}
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let target = CString::new(self.0.as_os_str().as_bytes()).unwrap();
        // SAFETY: a terminated string that lives through the call.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}

#[test]
fn a_start_on_a_full_disk_serves_reads_and_appends_resume_by_themselves() {
    let spec = ServerSpec::new()
        .set("storage.reserve_bytes=16MiB")
        .set("storage.disk_low_free_bytes=4MiB")
        .set("storage.disk_min_free_bytes=2MiB");
    let mut server = spec.prepare();
    let Some(small) = Small::mount(&server) else {
        return not_run("mounting is not allowed");
    };
    server.start_again();
    let mut connection = server.connect();
    let topic = connection.create_topic("full");
    connection.store(topic, 1, &record(b"before"));
    let reserve = server.data_dir().join("reserve");
    let reserved = || std::fs::metadata(&reserve).map_or(0, |file| file.len());
    eventually("the reserve is taken", || (reserved() == 16 << 20).then_some(()));
    // Others take everything, what the reserve gives back included.
    small.fill();
    eventually("the reserve is released", || (reserved() == 1 << 20).then_some(()));
    let until = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < until {
        small.fill();
    }
    server.kill();
    small.fill();
    server.start_again();
    assert_eq!(http::get(&server.admin(), "/health/ready").status, 200);
    let mut connection = server.connect();
    assert_eq!(texts(&connection.read_from(topic, 0)), ["before"]);
    let refused = connection.ingest(topic, 2, &record(b"refused"));
    assert!(refused.text().starts_with("FORWARD_FAILED"), "1.0 clients try again: {}", refused.text());
    small.empty();
    eventually("an ack", || {
        let answer = connection.ingest(topic, 3, &record(b"after"));
        assert!(!answer.is_error() || answer.text().starts_with("FORWARD_FAILED"), "{}", answer.text());
        (!answer.is_error()).then_some(())
    });
    let stored = texts(&connection.read_from(topic, 0));
    assert_eq!((stored.first().unwrap().as_str(), stored.last().unwrap().as_str()), ("before", "after"));
}
