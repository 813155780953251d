//! What may keep its reader waiting for as long as whoever writes it likes: a pipe, a terminal. It is
//! read when there is something, and not at all once the process is to end.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use service::Shutdown;

/// How often a reader that waits looks whether to end.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A stream that ends with an error when the process is to end.
pub struct Stream {
    file: File,
    shutdown: Shutdown,
}

impl Stream {
    /// Reads a file from where it stands. It may be one that does not block.
    pub fn new(file: File, shutdown: &Shutdown) -> Self {
        Self {
            file,
            shutdown: shutdown.clone(),
        }
    }

    /// Waits for bytes, the end, or an error, all of which reading tells.
    fn wait(&self) -> io::Result<()> {
        let time = Timespec::try_from(LOOK_EVERY).map_err(io::Error::other)?;
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
                // Another reader of the same pipe was faster.
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
    fn a_stream_gives_what_is_written_and_ends_when_its_writer_does() {
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
    fn a_reader_that_waits_ends_when_it_is_to_end() {
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
