//! One connection: requests in, answers out, byte by byte as the script wants it.

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::net::sockopt::set_socket_linger;

use super::answer::{Act, After, Answer, Chunks, End, Framing, What};
use super::file::File;
use super::reply::{Reply, representation};
use super::request::Request;
use super::{Greeting, Server, State, becomes};

/// Most bytes in one write. Small enough that the log keeps up with what the client has.
const PIECE: usize = 64 << 10;

/// No head grows longer, however patient the client is.
const LONGEST_HEAD: usize = 16 << 20;

/// What becomes of a connection.
enum Next {
    Request,
    End(End),
    /// It is closed without another look at what the client says.
    Vanish,
}

/// Talks to one client until the connection ends.
pub(super) fn converse(stream: &Arc<TcpStream>, connection: usize, greeting: Greeting, state: &State) {
    let end = match greeting {
        Greeting::Serve => serve(stream, connection, state),
        Greeting::End(end) => Ok(Next::End(end)),
        Greeting::Mute => pause(stream, Server::LIFE).map(|()| Next::Vanish),
    };
    match end {
        // The last handle is dropped by the caller, and closing then sends a reset.
        Ok(Next::End(End::Reset)) => drop(set_socket_linger(stream, Some(Duration::ZERO))),
        Ok(Next::End(End::Close)) => drop(close(stream)),
        // An error is a client that has left, or the end of the server.
        Ok(Next::Request | Next::Vanish) | Err(_) => {}
    }
}

fn serve(stream: &TcpStream, connection: usize, state: &State) -> io::Result<Next> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = Request::read(&mut reader, connection)? {
        let (place, scripted) = state.receive(request.clone());
        let (file, answer) = scripted.unwrap_or_else(|| (Arc::new(File::new([])), Answer::status(404)));
        let next = Exchange { stream, request: &request, file: &file, answer: &answer, place, state }.run()?;
        let last = request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        // A body of a request is not read.
        let upload = request.header("content-length").or(request.header("transfer-encoding")).is_some();
        match next {
            Next::Request if last || upload => return Ok(Next::End(End::Close)),
            Next::Request => {}
            end => return Ok(end),
        }
    }
    Ok(Next::Vanish)
}

/// Closes so that the client gets all that was sent: a close with unread bytes would send a reset.
fn close(mut stream: &TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    let mut rest = [0; 4096];
    while stream.read(&mut rest)? > 0 {}
    Ok(())
}

/// Waits, or fails as soon as the client has left.
fn pause(stream: &TcpStream, pause: Duration) -> io::Result<()> {
    match becomes(stream, PollFlags::RDHUP, Instant::now() + pause.min(Server::LIFE))? {
        false => Ok(()),
        true => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

/// One request and its answer.
struct Exchange<'a> {
    stream: &'a TcpStream,
    request: &'a Request,
    file: &'a File,
    answer: &'a Answer,
    place: usize,
    state: &'a State,
}

impl Exchange<'_> {
    fn run(&self) -> io::Result<Next> {
        if !self.answer.wait.is_zero() {
            pause(self.stream, self.answer.wait)?;
        }
        for status in &self.answer.interim {
            self.write(format!("HTTP/1.1 {status} By Script\r\n\r\n").as_bytes())?;
        }
        match &self.answer.what {
            What::Nothing(end) => Ok(Next::End(*end)),
            What::Raw(bytes) => self.write(bytes).map(|()| Next::End(End::Close)),
            What::EndlessHead => self.endless_head().map(|()| Next::End(End::Close)),
            What::File(_) | What::Page { .. } => self.reply(&Reply::new(self.file, self.answer, self.request)),
        }
    }

    fn endless_head(&self) -> io::Result<()> {
        self.write(b"HTTP/1.1 200 By Script\r\n")?;
        let lines: String = (0..64).map(|n| format!("X-Padding-{n}: {}\r\n", "x".repeat(1000))).collect();
        for _ in 0..LONGEST_HEAD / lines.len() {
            self.write(lines.as_bytes())?;
        }
        Ok(())
    }

    fn reply(&self, reply: &Reply) -> io::Result<Next> {
        self.state.answered(self.place, reply.status);
        self.write(reply.head().as_bytes())?;
        if !self.request.is_head()
            && let Some(end) = self.body(reply)?
        {
            return Ok(Next::End(end));
        }
        Ok(match (&self.answer.framing, self.answer.after) {
            (_, After::Vanish) => Next::Vanish,
            // A client that waits for what was promised, or finds more than that, would never learn.
            (Framing::LongBy(_) | Framing::ShortBy(_) | Framing::Close, _) => Next::End(End::Close),
            (Framing::Chunked(_, Chunks::Unended), _) | (_, After::Close) => Next::End(End::Close),
            (Framing::Length | Framing::Chunked(..), After::Keep) => Next::Request,
        })
    }

    /// Sends the body. Gives how the connection ends, if the script ends it within the body.
    fn body(&self, reply: &Reply) -> io::Result<Option<End>> {
        let (len, offset) = (reply.body.len(), reply.body.range.start);
        let mut bytes = Arc::clone(&reply.body.bytes);
        let (piece, rest) = self.answer.pace.unwrap_or((PIECE, Duration::ZERO));
        let chunk = match self.answer.framing {
            Framing::Chunked(chunk, _) => Some(chunk.max(1)),
            _ => None,
        };
        let mut acts = self.answer.acts.iter().peekable();
        let (mut at, mut chunk_end) = (0, 0);
        while at < len {
            while let Some((_, act)) = acts.next_if(|(place, _)| *place <= at) {
                match *act {
                    Act::End(end) => return Ok(Some(end)),
                    Act::Stall(time) => pause(self.stream, time)?,
                    Act::Version(version) => bytes = representation(self.file, version, self.answer.coding),
                }
            }
            let mut next = len.min(at + piece.min(PIECE)).min(acts.peek().map_or(len, |(place, _)| *place));
            if let Some(chunk) = chunk {
                if at == chunk_end {
                    chunk_end = len.min(at + chunk);
                    self.write(format!("{:x}\r\n", chunk_end - at).as_bytes())?;
                }
                next = next.min(chunk_end);
            }
            self.count_and_write(&bytes[offset + at..offset + next])?;
            at = next;
            if chunk.is_some() && at == chunk_end {
                self.write(b"\r\n")?;
            }
            if !rest.is_zero() && at < len {
                pause(self.stream, rest)?;
            }
        }
        match &self.answer.framing {
            Framing::Chunked(_, Chunks::Clean) => self.write(b"0\r\n\r\n")?,
            Framing::Chunked(_, Chunks::Trailers(trailers)) => {
                let trailers: String = trailers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                self.write(format!("0\r\n{trailers}\r\n").as_bytes())?;
            }
            _ => {}
        }
        for (_, act) in acts.take_while(|(place, _)| *place <= len) {
            match *act {
                Act::End(end) => return Ok(Some(end)),
                Act::Stall(time) => pause(self.stream, time)?,
                Act::Version(_) => {}
            }
        }
        Ok(None)
    }

    fn count_and_write(&self, mut bytes: &[u8]) -> io::Result<()> {
        self.state.sending(self.place, bytes.len());
        let mut stream = self.stream;
        while !bytes.is_empty() {
            match stream.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.state.unsent(self.place, bytes.len());
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut stream = self.stream;
        stream.write_all(bytes)
    }
}
