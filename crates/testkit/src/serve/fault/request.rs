//! A request as it came, and what became of it.

use std::io::{self, BufRead, Read};

/// A request that the server has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Which connection it came on, counted from 0.
    pub connection: usize,
    /// As in `GET`.
    pub method: String,
    /// With the query, as the client wrote it.
    pub path: String,
    /// Names in lower case, values without the blanks around them, in the order of the request.
    pub headers: Vec<(String, String)>,
    /// The one range that was asked for: first byte, and last byte unless it is open. `None` too if it is of another form.
    pub range: Option<(u64, Option<u64>)>,
    /// The status of the answer, or `None` as long as no head was sent.
    pub status: Option<u16>,
    /// Bytes of the answer's body that went to the kernel, as they are on the wire, without what frames chunks.
    pub sent: u64,
    /// What the client has sent behind the head. Only bodies that state their length are understood.
    pub body: Vec<u8>,
}

impl Request {
    /// No head of a request is longer.
    const LONGEST: u64 = 64 << 10;
    /// No body of a request is longer.
    const LARGEST: u64 = 64 << 20;

    /// The value of the first header called `name`, which is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// Whether only the head of the answer is wanted.
    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// Reads the next request. `None` when the client has closed the connection instead.
    pub(super) fn read(reader: &mut impl BufRead, connection: usize) -> io::Result<Option<Self>> {
        let mut lines = Vec::new();
        let mut head = reader.by_ref().take(Self::LONGEST);
        loop {
            let mut line = String::new();
            if head.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let line = line.trim_end();
            match (line.is_empty(), lines.is_empty()) {
                (true, false) => break,
                // Blank lines may stand in front of a request.
                (true, true) => {}
                (false, _) => lines.push(line.to_owned()),
            }
        }
        let mut words = lines[0].split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let headers: Vec<_> = lines[1..]
            .iter()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let range = headers.iter().find(|(name, _)| name == "range").and_then(|(_, value)| single_range(value));
        let (method, path) = (method.to_owned(), path.to_owned());
        let stated = headers.iter().find(|(name, _)| name == "content-length");
        let len = stated.and_then(|(_, value)| value.parse::<u64>().ok()).unwrap_or_default().min(Self::LARGEST);
        let mut body = Vec::new();
        if (reader.take(len).read_to_end(&mut body)? as u64) < len {
            return Ok(None);
        }
        Ok(Some(Self { connection, method, path, headers, range, status: None, sent: 0, body }))
    }
}

fn single_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    let last = if last.is_empty() { None } else { Some(last.parse().ok()?) };
    Some((first.parse().ok()?, last))
}
