//! `curl`, which tells whether the servers are what they say to clients that are not ours.

use std::process::Command;

use crate::oracle::Scratch;

/// What curl got.
#[derive(Debug)]
pub struct Answer {
    /// Of the last answer, after redirects and proxies.
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Runs curl with these arguments. An error is its exit status.
pub fn curl(args: &[&str]) -> Result<Answer, i32> {
    let scratch = Scratch::new();
    let (head, body) = (scratch.path("head"), scratch.path("body"));
    let mut curl = Command::new("curl");
    // What the environment says of proxies is not for these servers.
    curl.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    curl.args(["--disable", "--silent", "--max-time", "60", "--dump-header"]).arg(&head).arg("--output").arg(&body);
    let status = curl.args(args).status().unwrap_or_else(|error| panic!("curl: {error}"));
    if !status.success() {
        return Err(status.code().unwrap_or(-1));
    }
    let head = std::fs::read_to_string(head).unwrap();
    let last = head.trim_end().rsplit("\r\n\r\n").next().unwrap_or_default();
    let mut lines = last.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|word| word.parse().ok()).unwrap();
    let header = |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    let headers = lines.filter_map(header).collect();
    Ok(Answer { status, headers, body: std::fs::read(body).unwrap_or_default() })
}
