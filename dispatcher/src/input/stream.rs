//! A reader of a pipe, a terminal or a device, whose writer may make it wait for any time. Waiting ends
//! when a shutdown is requested.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use service::Shutdown;

/// The time between two checks for a shutdown while a reader waits.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// A stream whose reading fails when a shutdown is requested.
pub struct Stream {
    file: File,
    shutdown: Shutdown,
}

impl Stream {
    /// A stream of a file, from its current position. The file may be in non-blocking mode.
    pub fn new(file: File, shutdown: &Shutdown) -> Self {
        Self {
            file,
            shutdown: shutdown.clone(),
        }
    }

    /// Waits until a read does not block: until there are bytes, the end, or an error.
    fn wait(&self) -> io::Result<()> {
        let time = Timespec::try_from(CHECK_INTERVAL).map_err(io::Error::other)?;
        loop {
            if let Some(signal) = self.shutdown.requested() {
                return Err(io::Error::other(format!("stopped by {signal}")));
            }
            let mut waiting = [PollFd::from_borrowed_fd(self.file.as_fd(), PollFlags::IN)];
            match poll(&mut waiting, Some(&time)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait()?;
            match self.file.read(buffer) {
                // Another reader of the same pipe has taken the bytes.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Write, pipe};
    use std::os::fd::OwnedFd;
    use std::thread;

    use service::Signal;

    use super::*;

    #[test]
    fn a_stream_returns_the_written_bytes_and_ends_when_its_writer_closes() {
        let (reader, mut writer) = pipe().expect("a pipe");
        let mut stream = Stream::new(OwnedFd::from(reader).into(), &Shutdown::new());
        writer.write_all(b"some").expect("there is room");
        let mut buffer = [0; 8];
        assert_eq!(stream.read(&mut buffer).expect("bytes"), 4);
        assert_eq!(&buffer[..4], b"some");
        drop(writer);
        assert_eq!(stream.read(&mut buffer).expect("the end"), 0);
    }

    #[test]
    fn a_waiting_reader_fails_when_a_shutdown_is_requested() {
        let (reader, _writer) = pipe().expect("a pipe");
        let shutdown = Shutdown::new();
        let mut stream = Stream::new(OwnedFd::from(reader).into(), &shutdown);
        thread::scope(|scope| {
            let waiting = scope.spawn(move || stream.read(&mut [0; 8]));
            shutdown.request(Signal::Interrupt);
            let read = waiting.join().expect("no panic");
            assert_eq!(read.expect_err("stopped").to_string(), "stopped by SIGINT");
        });
    }
}
