//! What waits to be written to a link: memory with few system calls, ranges of files inside the kernel.

use super::LinkPiece;
use crate::sendfile::{FileRange, FileSent, is_writable, send_files};
use bytes::{Buf, Bytes};
use socket2::SockRef;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::WriteHalf;
use tokio::task::JoinHandle;

/// Pieces handed to one write, and pieces that may wait.
const PIECES: usize = 64;

/// A queue of pieces.
#[derive(Default)]
pub(super) struct Outgoing {
    pieces: VecDeque<LinkPiece>,
    /// The range at the front is being sent by a thread that may wait for the disk, over this socket.
    sending: Option<(Arc<OwnedFd>, JoinHandle<FileSent>)>,
    written: u64,
}

impl Outgoing {
    pub(super) fn extend(&mut self, pieces: [LinkPiece; 2]) {
        self.pieces.extend(pieces.into_iter().filter(|piece| !piece.is_empty()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(super) fn takes_more(&self) -> bool {
        self.pieces.len() < PIECES
    }

    /// Bytes written ever.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Writes some of what waits; dropping the future loses nothing.
    pub(super) async fn write_some(&mut self, writer: &mut WriteHalf<'_>) -> io::Result<()> {
        if self.sending.is_none() && matches!(self.pieces.front(), Some(LinkPiece::Memory(_))) {
            return self.write_memory(writer).await;
        }
        let stream: &TcpStream = writer.as_ref();
        if self.sending.is_none() {
            // Only the look at the socket itself tells: what a thread has written since is not known here.
            let look = || if is_writable(stream) { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) };
            stream.async_io(Interest::WRITABLE, look).await?;
            self.start_sending(stream)?;
        }
        let Some((_, sending)) = &mut self.sending else { return Ok(()) };
        let sent = sending.await;
        self.sending = None;
        let FileSent { sent, error, .. } = sent.map_err(io::Error::other)?;
        self.wrote(sent);
        error.map_or(Ok(()), |error| Err(io::Error::other(error)))
    }

    async fn write_memory(&mut self, writer: &mut WriteHalf<'_>) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); PIECES];
        let memory = self.pieces.iter().map_while(LinkPiece::in_memory);
        let mut count = 0;
        for (slice, bytes) in slices.iter_mut().zip(memory) {
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        match writer.write_vectored(&slices[..count]).await? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            written => {
                self.wrote(written as u64);
                Ok(())
            }
        }
    }

    fn start_sending(&mut self, stream: &TcpStream) -> io::Result<()> {
        let Some(LinkPiece::File(range)) = self.pieces.front() else { return Ok(()) };
        let (ranges, socket) = ([range.clone()], Arc::new(stream.as_fd().try_clone_to_owned()?));
        let of_thread = Arc::clone(&socket);
        self.sending = Some((socket, tokio::task::spawn_blocking(move || send_files(&of_thread, &ranges))));
        Ok(())
    }

    fn wrote(&mut self, mut count: u64) {
        self.written += count;
        while let Some(front) = self.pieces.front_mut() {
            let taken = count.min(front.len() as u64);
            front.skip(taken);
            count -= taken;
            if !front.is_empty() {
                break;
            }
            self.pieces.pop_front();
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if let Some((socket, _)) = &self.sending {
            // The link ends now, not once the thread is through. It may have ended already.
            let _ = SockRef::from(&**socket).shutdown(Shutdown::Both);
        }
    }
}

impl LinkPiece {
    fn skip(&mut self, count: u64) {
        match self {
            Self::Memory(bytes) => Bytes::advance(bytes, count as usize),
            Self::File(FileRange { file_offset, len, .. }) => {
                *file_offset += count;
                *len -= count;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_storage::disk::{DiskOptions, OpenMode, open_disk};
    use std::time::Duration;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    const FILE_BYTES: usize = 24 << 20;

    fn content(at: usize) -> u8 {
        (at as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3]
    }

    /// A file whose bytes tell their place.
    fn file(folder: &std::path::Path) -> Arc<dyn lance_storage::disk::DiskFile> {
        let path = folder.join("segment");
        std::fs::write(&path, (0..FILE_BYTES).map(content).collect::<Vec<_>>()).unwrap();
        let disk = open_disk(DiskOptions::default()).unwrap();
        disk.open(&path, OpenMode::Read).unwrap()
    }

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    fn range(file: &Arc<dyn lance_storage::disk::DiskFile>, file_offset: usize, len: usize) -> LinkPiece {
        LinkPiece::File(FileRange { file: Arc::clone(file), file_offset: file_offset as u64, len: len as u64 })
    }

    async fn write_all(outgoing: &mut Outgoing, stream: &mut TcpStream) -> io::Result<()> {
        let (_, mut writer) = stream.split();
        while !outgoing.is_empty() {
            outgoing.write_some(&mut writer).await?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn memory_and_files_arrive_in_order_at_a_peer_that_rests_in_between() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path());
        let (mut stream, mut peer) = connected().await;
        let mut outgoing = Outgoing::default();
        let mut expected = Vec::new();
        // More than sockets hold before the peer begins to read.
        for (number, offset) in [(1u8, 0), (2, 5_000_001), (3, 12_000_000)] {
            let head = Bytes::from(vec![number; 50]);
            outgoing.extend([head.clone().into(), range(&file, offset, 9_000_003)]);
            expected.extend_from_slice(&head);
            expected.extend((offset..offset + 9_000_003).map(content));
        }
        outgoing.extend([Bytes::from_static(b"end").into(), Bytes::new().into()]);
        expected.extend_from_slice(b"end");
        let reads = tokio::spawn(async move {
            let mut received = vec![0; expected.len()];
            for part in received.chunks_mut(7_000_000) {
                tokio::time::sleep(Duration::from_millis(100)).await;
                peer.read_exact(part).await.unwrap();
            }
            assert!(received == expected, "what arrives is what was queued");
        });
        write_all(&mut outgoing, &mut stream).await.unwrap();
        reads.await.unwrap();
        assert_eq!(outgoing.written(), 3 * (50 + 9_000_003) + 3);
    }

    #[tokio::test]
    async fn a_file_that_is_too_short_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path());
        let (mut stream, _peer) = connected().await;
        let mut outgoing = Outgoing::default();
        outgoing.extend([range(&file, FILE_BYTES - 10, 11), Bytes::new().into()]);
        let error = write_all(&mut outgoing, &mut stream).await.unwrap_err();
        assert!(error.to_string().contains("shorter"), "{error}");
        assert_eq!(outgoing.written(), 10);
    }

    #[tokio::test]
    async fn a_link_that_is_dropped_ends_though_a_thread_still_sends() {
        const HOLE_BYTES: u64 = 16 << 30;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("segment");
        std::fs::File::create(&path).unwrap().set_len(HOLE_BYTES).unwrap();
        let file = open_disk(DiskOptions::default()).unwrap().open(&path, OpenMode::Read).unwrap();
        let (mut stream, peer) = connected().await;
        // A peer that takes everything: the thread has no reason to stop.
        let reads = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let mut peer = {
                let _inside = runtime.enter();
                TcpStream::from_std(peer.into_std().unwrap()).unwrap()
            };
            runtime.block_on(async move {
                let (mut buffer, mut total) = (vec![0; 1 << 20], 0u64);
                // The end may come as a reset.
                while let Ok(count @ 1..) = peer.read(&mut buffer).await {
                    total += count as u64;
                }
                total
            })
        });
        let mut outgoing = Outgoing::default();
        outgoing.extend([LinkPiece::File(FileRange { file, file_offset: 0, len: HOLE_BYTES }), Bytes::new().into()]);
        {
            let (_, mut writer) = stream.split();
            while outgoing.sending.is_none() {
                let _ = tokio::time::timeout(Duration::ZERO, outgoing.write_some(&mut writer)).await;
            }
        }
        drop(outgoing);
        drop(stream);
        assert!(reads.join().unwrap() < HOLE_BYTES / 2, "it went on after the link was gone");
    }
}
