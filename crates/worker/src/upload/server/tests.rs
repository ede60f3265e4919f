use super::*;
use std::net::SocketAddr;
use tokio::io::DuplexStream;
use tokio::net::TcpStream;

use crate::serve::testing::{self, a_handshake_is_waited_for, answered};
use crate::status::{Outlets, Work};
use crate::upload::intake::Times;

const HEAD: &str = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";

/// One that leads to nobody who carries an image.
fn door() -> Arc<Door> {
    let hour = Duration::from_secs(3600);
    let (intake, _) = Intake::new(Times { first: hour, stall: hour, resume: hour, whole: None });
    let board = Board::new("", Outlets::none(Work::Upload));
    Arc::new(Door { intake, board, paths: Paths::new(None, false).unwrap(), client_name: None })
}

fn client(bytes: usize) -> DuplexStream {
    testing::client(bytes, |server| converse(server, None, door()))
}

async fn asked(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(HEAD.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn connections_are_served_up_to_2048_and_the_next_when_one_has_gone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let room = Arc::new(Semaphore::new(MOST));
    let _others = Arc::clone(&room).try_acquire_many_owned(2046).unwrap();
    tokio::spawn(accept_into(room, listener, |stream| converse(stream, None, door())));
    let silent = TcpStream::connect(address).await.unwrap();
    assert!(answered(asked(address).await).await.starts_with("HTTP/1.1 200 "));
    let _last = TcpStream::connect(address).await.unwrap();
    let mut next = asked(address).await;
    assert!(timeout(Duration::from_millis(500), next.readable()).await.is_err(), "it waits");
    drop(silent);
    let answered = timeout(PATIENCE / 2, answered(&mut next)).await.unwrap();
    assert!(answered.starts_with("HTTP/1.1 200 "), "{answered}");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_may_take_ten_seconds() {
    a_handshake_is_waited_for(HEAD, |server, acceptor| converse(server, Some(acceptor), door())).await;
}

#[tokio::test(start_paused = true)]
async fn a_head_may_take_ten_seconds_whatever_comes_of_it_before() {
    for early in [0, 1, HEAD.len() - 1] {
        let (early, late) = HEAD.split_at(early);
        for (time, status) in [(9_900, "200 OK"), (10_100, "408 Request Timeout")] {
            let mut client = client(BUFFER);
            client.write_all(early.as_bytes()).await.unwrap();
            sleep(Duration::from_millis(time)).await;
            let came = client.write_all(late.as_bytes()).await;
            assert_eq!(came.is_ok(), status == "200 OK", "{early:?} {time}");
            let answer = answered(client).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{early:?} {time}: {answer}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_was_too_slow_has_ten_seconds_to_read_that() {
    for (time, is_whole) in [(9_900, true), (10_100, false)] {
        let client = client(TOO_SLOW.len() - 1);
        sleep(PATIENCE + Duration::from_millis(time)).await;
        assert_eq!(answered(client).await.as_bytes() == TOO_SLOW, is_whole, "{time}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_be_read_for_twenty_seconds() {
    for (time, is_whole) in [(19_900, true), (20_100, false)] {
        let mut client = client(HEAD.len());
        client.write_all(HEAD.as_bytes()).await.unwrap();
        sleep(Duration::from_millis(time)).await;
        let answer = answered(client).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{time}: {answer}");
        assert_eq!(answer.ends_with("ok\n"), is_whole, "{time}: {answer}");
    }
}

/// Sends a body that nobody wants, a piece after each pause, and gives how many bytes were taken of it, and the answer.
async fn refused(len: usize, piece: usize, pause: Duration) -> (usize, String) {
    let mut client = client(BUFFER);
    let head = format!("PUT /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    let (piece, mut taken) = (vec![0; piece], 0);
    while taken < len {
        sleep(pause).await;
        let Ok(count) = client.write(&piece[..piece.len().min(len - taken)]).await else { break };
        taken += count;
    }
    (taken, answered(client).await)
}

#[tokio::test(start_paused = true)]
async fn of_a_body_that_nobody_wants_256_mib_are_read() {
    let all = 256 << 20;
    let (taken, answer) = refused(all, BUFFER, Duration::ZERO).await;
    assert!(taken == all && answer.starts_with("HTTP/1.1 404 "), "{taken} {answer}");
    let (taken, answer) = refused(all + (1 << 20), BUFFER, Duration::ZERO).await;
    assert!((all..all + 4 * BUFFER).contains(&taken) && answer.starts_with("HTTP/1.1 404 "), "{taken} {answer}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_wants_is_read_for_ten_seconds() {
    for (time, is_read) in [(9_900, true), (10_100, false)] {
        let (taken, answer) = refused(2, 1, Duration::from_millis(time / 2)).await;
        assert_eq!(taken == 2, is_read, "{time}");
        assert!(answer.starts_with("HTTP/1.1 404 "), "{time}: {answer}");
    }
}

#[test]
fn slow_is_who_sends_less_than_a_kibibyte_in_a_second() {
    let second = Duration::from_secs(1);
    let mut pace = Pace::default();
    // What comes at once costs no time.
    assert_eq!(pace.is_too_slow(1, Duration::ZERO, 4 * second), None);
    assert_eq!(pace.is_too_slow(1, 3 * second, 4 * second), None);
    assert_eq!(pace.is_too_slow(1, second, 4 * second), Some(3));
    // It begins anew after that.
    assert_eq!(pace.is_too_slow(4095, 3 * second, 4 * second), None);
    assert_eq!(pace.is_too_slow(1, second, 4 * second), None);
    assert_eq!(pace.is_too_slow(4095, 4 * second, 4 * second), Some(4095));
}

#[test]
fn ranges_of_uploads_are_understood() {
    assert_eq!(range_of("bytes 5-9/10"), Some((5, 10, Some(10))));
    assert_eq!(range_of("bytes 0-0/*"), Some((0, 1, None)));
    for bad in [
        "",
        "bytes",
        "bytes 9-5/10",
        "bytes 0-10/10",
        "bytes */10",
        "bytes +1-2/3",
        "bytes 0-18446744073709551615/*",
        "0-1/2",
    ] {
        assert_eq!(range_of(bad), None, "{bad}");
    }
}
