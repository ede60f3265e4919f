//! A server on the loopback address that says whatever it is told to, and what a client makes of that.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::Duration;

use diskferry::{Error, Input, Progress};
use diskferry_remote::http::{How, Patience, open};
use diskferry_remote::{Access, Client, Guard, Runtime};
use url::Url;

use crate::image::{MIB, told};
use crate::same::carry;

/// Between the parts of an input.
pub(crate) const END: u8 = 0x1e;

/// Answers the head of a request.
type Answering = Box<dyn FnMut(&str) -> Vec<u8> + Send>;

/// One request per connection.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    answering: Arc<Mutex<Answering>>,
}

pub(crate) static SERVER: LazyLock<Server> = LazyLock::new(Server::start);

/// A client that talks to the server and to nobody else, wherever it is sent.
pub(crate) static CLIENT: LazyLock<(Runtime, Client)> = LazyLock::new(|| {
    let only = SERVER.address.to_string().parse().expect("an address with a port");
    let guard = Guard { allow_hosts: Some(vec![only]), ..Guard::default() };
    let client = Client::new(&Access { guard, ..Access::default() }).expect("a client");
    (Runtime::new().expect("a thread"), client)
});

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its own address");
        let nothing: Answering = Box::new(|_| Vec::new());
        let answering = Arc::new(Mutex::new(nothing));
        let shared = Arc::clone(&answering);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Who goes away in the middle is a client with reasons.
                let _ = converse(stream, &shared);
            }
        });
        Self { address, answering }
    }

    /// From now on requests are answered so.
    pub(crate) fn say(&self, answering: impl FnMut(&str) -> Vec<u8> + Send + 'static) {
        *self.answering.lock().expect("no answer has panicked") = Box::new(answering);
    }
}

fn converse(mut stream: TcpStream, answering: &Mutex<Answering>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut head = Vec::new();
    let mut piece = [0; 4096];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            got => head.extend(&piece[..got]),
        }
    }
    let answer = answering.lock().expect("no answer has panicked")(&String::from_utf8_lossy(&head));
    stream.write_all(&answer)
}

/// Asks again at once, and not often.
pub(crate) fn how(flags: u8) -> How {
    let pause = Duration::from_millis(1);
    let stall = Duration::from_secs(1);
    let patience = Patience { retries: 2, first_pause: pause, longest_pause: pause, stall, most: None };
    let connections = if flags & 2 == 0 { 1 } else { 3 };
    How { look: flags & 1 != 0, connections, patience, format: None }
}

/// Fetches an image from a server that gives one answer after the other, whatever it is asked. The first byte says how is fetched.
pub fn answers(script: &[u8]) {
    let Some((&flags, answers)) = script.split_first() else { return };
    let mut answers: VecDeque<_> = answers.split(|byte| *byte == END).take(8).map(<[u8]>::to_vec).collect();
    let sent: usize = answers.iter().map(Vec::len).sum();
    let (runtime, client) = &*CLIENT;
    SERVER.say(move |_| answers.pop_front().unwrap_or_default());
    let url = Url::parse(&format!("http://{}/image", SERVER.address)).expect("a URL");
    let input = match open(runtime, client, &url, &how(flags), &Progress::default()) {
        Ok(input) => input,
        Err(error) => return told(&error),
    };
    if flags & 4 != 0 {
        // What is wrong with it has been told.
        let _ = carry(input, &None, 1);
        return;
    }
    let (mut reader, len) = match input {
        Input::Stream { reader, len } | Input::Unpacked { reader, len } | Input::Ranged { reader, len, .. } => {
            (reader, len)
        }
        Input::File(_) => panic!("a file from a server"),
    };
    let mut bytes = Vec::new();
    match reader.by_ref().take(MIB).read_to_end(&mut bytes) {
        Ok(_) => {
            assert!(bytes.len() <= sent, "{} bytes of {sent} that were sent", bytes.len());
            assert!(len.is_none_or(|len| len == bytes.len() as u64), "{} bytes, not {len:?}", bytes.len());
        }
        Err(error) => told(&Error::reading(0, error)),
    }
}
