//! Clients over a plain socket: one that shows an answer as it is, and one that behaves as a good client should.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::serve::fault::Finding;

/// How long a client listens to silence.
const PATIENCE: Duration = Duration::from_millis(400);

/// An answer as far as it came.
#[derive(Debug, Default)]
pub struct Seen {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// Chunks are unpacked.
    pub body: Vec<u8>,
    /// The body ended as its head had said.
    pub complete: bool,
    /// What ended it, if it was neither its own end nor the connection's.
    pub error: Option<std::io::ErrorKind>,
    pub trailers: Vec<(String, String)>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// A connection that is used again.
pub struct Client(BufReader<TcpStream>);

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    /// Sends a request with these headers and reads the answer.
    pub fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Seen {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: disks\r\n{headers}\r\n");
        let mut seen = Seen::default();
        let result = self.0.get_mut().write_all(request.as_bytes()).and_then(|()| self.read(method, &mut seen));
        seen.error = result.err().map(|error| error.kind());
        seen
    }

    fn read(&mut self, method: &str, seen: &mut Seen) -> std::io::Result<()> {
        while seen.status < 200 {
            let line = self.line()?;
            let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.split(' ').next()?.parse().ok());
            let status = status.ok_or(std::io::ErrorKind::InvalidData)?;
            // Half a head is no answer.
            (seen.headers, seen.status) = (self.headers()?, status);
        }
        let length: Option<u64> = seen.header("content-length").map(|value| value.parse().unwrap());
        if method == "HEAD" {
            seen.complete = true;
        } else if seen.header("transfer-encoding").is_some() {
            loop {
                let line = self.line()?;
                let size = u64::from_str_radix(&line, 16).map_err(|_| std::io::ErrorKind::UnexpectedEof)?;
                if size == 0 {
                    break;
                }
                let got = self.0.by_ref().take(size).read_to_end(&mut seen.body)?;
                if got as u64 != size || !self.line()?.is_empty() {
                    return Ok(());
                }
            }
            seen.trailers = self.headers()?;
            seen.complete = true;
        } else {
            let got = self.0.by_ref().take(length.unwrap_or(u64::MAX)).read_to_end(&mut seen.body)?;
            seen.complete = length.is_none_or(|length| got as u64 == length);
        }
        Ok(())
    }

    fn headers(&mut self) -> std::io::Result<Vec<(String, String)>> {
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(headers);
            }
            if headers.len() > 200 {
                return Err(std::io::ErrorKind::InvalidData.into());
            }
            let (name, value) = line.split_once(": ").ok_or(std::io::ErrorKind::InvalidData)?;
            headers.push((name.to_owned(), value.to_owned()));
        }
    }

    /// A line without its end; an error if there is none.
    fn line(&mut self) -> std::io::Result<String> {
        let mut line = Vec::new();
        self.0.by_ref().take(4096).read_until(b'\n', &mut line)?;
        let line = line.strip_suffix(b"\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
        String::from_utf8(line.to_vec()).map_err(|_| std::io::ErrorKind::InvalidData.into())
    }
}

/// One request on a connection of its own.
pub fn ask(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Seen {
    Client::connect(address).ask(method, path, headers)
}

/// Gets a whole file in at most `tries` requests: what has broken off is resumed with a range, if the validator is strong.
pub fn fetch(address: SocketAddr, path: &str, tries: usize) -> Result<Vec<u8>, Finding> {
    let (mut got, mut tag, mut url) = (Vec::new(), None::<String>, path.to_owned());
    let mut why = Finding::Malformed;
    for _ in 0..tries {
        let range = format!("bytes={}-", got.len());
        let strong = tag.as_deref().filter(|tag: &&str| !tag.starts_with("W/"));
        let seen = match (got.is_empty(), strong) {
            (true, _) => ask(address, "GET", &url, &[]),
            (false, Some(tag)) => ask(address, "GET", &url, &[("Range", &range), ("If-Range", tag)]),
            (false, None) => return Err(Finding::Unresumable),
        };
        match seen.status {
            200 if seen.header("content-encoding").is_some() => return Err(Finding::Encoded),
            200 if got.is_empty() => tag = seen.header("etag").map(str::to_owned),
            206 if seen.header("etag") != tag.as_deref() => return Err(Finding::Changed),
            206 => {
                let label = seen.header("content-range").ok_or(Finding::Malformed)?;
                let rest = label.strip_prefix(&format!("bytes {}-", got.len())).ok_or(Finding::Malformed)?;
                let (last, total) = rest.split_once('/').ok_or(Finding::Malformed)?;
                let end = last.parse::<usize>().map_err(|_| Finding::Malformed)? + 1;
                // The length is known from the first answer, if that had one; here the label must at least not cut it short.
                got.extend_from_slice(&seen.body);
                if total != "*" && total.parse::<usize>().map_err(|_| Finding::Malformed)? < end {
                    return Err(Finding::Malformed);
                }
                if seen.complete && (total == "*" || total == end.to_string()) {
                    return Ok(got);
                }
                continue;
            }
            200 if seen.header("etag") == tag.as_deref() => return Err(Finding::Unresumable),
            200 => return Err(Finding::Changed),
            301..=308 => {
                url = format!("{path}{}", seen.header("location").unwrap());
                why = Finding::Redirects;
                continue;
            }
            0 => {
                why = Finding::Malformed;
                continue;
            }
            408 | 429 | 500..=599 => continue,
            416 => return Err(Finding::Malformed),
            status => return Err(Finding::Refused(status)),
        }
        got.extend_from_slice(&seen.body);
        if seen.complete {
            return Ok(got);
        }
    }
    Err(why)
}
