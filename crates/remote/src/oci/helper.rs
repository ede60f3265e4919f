//! Credential helpers: programs that keep passwords for Docker.
//! [Protocol](https://github.com/docker/docker-credential-helpers#development): `docker-credential-NAME get` is told the server on stdin and
//! answers with JSON.

use std::env;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::keys::Credentials;
use crate::secret::Secret;

/// How long a helper may take. Some ask a person.
const PATIENCE: Duration = Duration::from_secs(30);

/// Most bytes of an answer.
const ANSWER: u64 = 1 << 20;

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// What the helper called `name` has for `server`.
pub(super) fn get(name: &str, server: &str) -> Result<Credentials, String> {
    let is_word = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if name.is_empty() || !is_word {
        return Err("the name of a credential helper has letters, digits and . _ -".into());
    }
    run(&format!("docker-credential-{name}"), server, PATIENCE)
}

fn run(program: &str, server: &str, patience: Duration) -> Result<Credentials, String> {
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    // What we were told in variables is for us: passwords of other servers and tokens stand there. A helper has its own.
    for (name, _) in env::vars_os().filter(|(name, _)| is_ours(name)) {
        command.env_remove(name);
    }
    let mut child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let server = server.to_owned();
    // It may end without reading, or without closing what it writes to.
    let write = move || stdin.map(|mut stdin| stdin.write_all(server.as_bytes()));
    let read = move || {
        let mut answer = Vec::new();
        let read = stdout.map(|stdout| stdout.take(ANSWER + 1).read_to_end(&mut answer));
        read.and_then(Result::ok).map(|_| answer)
    };
    let started = thread::Builder::new().spawn(write).and_then(|_| thread::Builder::new().spawn(read));
    let reading = started.map_err(|error| {
        // Its time is over.
        wait(&mut child, Instant::now());
        format!("{program}: {error}")
    })?;
    let deadline = Instant::now() + patience;
    let success = wait(&mut child, deadline).ok_or_else(|| format!("{program} takes too long"))?;
    let answer = loop {
        if reading.is_finished() {
            break reading.join().ok().flatten().unwrap_or_default();
        }
        if Instant::now() > deadline {
            return Err(format!("{program} takes too long"));
        }
        thread::sleep(PAUSE);
    };
    // Who is not listened to any more may have failed by that.
    if answer.len() as u64 > ANSWER {
        return Err(format!("{program} answers with more than the {ANSWER} bytes that are allowed"));
    }
    if !success {
        // It says why in words, of which only these are part of the protocol.
        let text = String::from_utf8_lossy(&answer);
        return match text.contains("credentials not found") {
            true => Ok(Credentials::None),
            false => Err(format!("{program} has failed")),
        };
    }
    let answer: Answer =
        serde_json::from_slice(&answer).map_err(|_| format!("{program} answers with something else"))?;
    let secret = Secret::new(answer.secret);
    Ok(match answer.username.as_str() {
        "<token>" => Credentials::Identity(secret),
        _ => Credentials::Basic { user: answer.username, password: secret },
    })
}

/// Whether a variable is one of those that diskferry and its worker are told by.
fn is_ours(name: &OsStr) -> bool {
    let ours = [&b"DISKFERRY_"[..], b"IMPORTER_", b"UPLOADER_"];
    ours.iter().any(|prefix| name.as_bytes().starts_with(prefix))
}

const PAUSE: Duration = Duration::from_millis(5);

/// Whether it ended well; `None` if it did not in time, and was killed.
fn wait(child: &mut Child, deadline: Instant) -> Option<bool> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.success()),
            Ok(None) if Instant::now() < deadline => thread::sleep(PAUSE),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::tests::without_threads;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn outcome(script: &str, patience: Duration) -> Result<Credentials, String> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("docker-credential-test");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        run(program.to_str().unwrap(), "h.example", patience)
    }

    #[test]
    fn a_helper_is_told_the_server_and_answers() {
        let long = Duration::from_secs(20);
        let script = r#"test "$1" = get && echo "{\"ServerURL\":\"x\",\"Username\":\"me\",\"Secret\":\"$(cat)!\"}""#;
        let expected = Credentials::Basic { user: "me".into(), password: Secret::new("h.example!") };
        assert_eq!(outcome(script, long), Ok(expected));
        let script = r#"echo '{"Username":"<token>","Secret":"t"}'"#;
        assert_eq!(outcome(script, long), Ok(Credentials::Identity(Secret::new("t"))));
        let script = "echo 'credentials not found in native keychain'; exit 1";
        assert_eq!(outcome(script, long), Ok(Credentials::None));
    }

    #[test]
    fn a_helper_that_fails_says_nothing_secret() {
        let long = Duration::from_secs(20);
        for script in ["echo hunter2; exit 1", "echo hunter2", "exit 0"] {
            let error = outcome(script, long).unwrap_err();
            assert!(error.contains("docker-credential-test") && !error.contains("hunter2"), "{error}");
        }
        assert!(get("../../bin/sh", "x").is_err() && get("", "x").is_err());
        assert!(get("no-such-helper-here", "x").unwrap_err().contains("docker-credential-no-such-helper-here"));
    }

    #[test]
    fn a_helper_may_answer_with_a_mebibyte() {
        let long = Duration::from_secs(20);
        let answer = r#"{"Username":"me","Secret":"t"}"#;
        let padded = |len: u64| {
            let spaces = len - answer.len() as u64;
            outcome(&format!("echo -n '{answer}'; head -c {spaces} /dev/zero | tr '\\0' ' '"), long)
        };
        assert_eq!(padded(1 << 20), Ok(Credentials::Basic { user: "me".into(), password: Secret::new("t") }));
        for error in [padded((1 << 20) + 1).unwrap_err(), outcome("exec cat /dev/zero", long).unwrap_err()] {
            assert!(
                error.ends_with("docker-credential-test answers with more than the 1048576 bytes that are allowed"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_helper_that_nobody_can_listen_to_is_ended() {
        let began = Instant::now();
        let error = without_threads(|| outcome("exec sleep 60", Duration::from_secs(60))).unwrap_err();
        assert!(error.contains("docker-credential-test: ") && error.contains("unavailable"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_helper_is_not_waited_for_without_end() {
        let began = Instant::now();
        for script in ["exec sleep 60", "sleep 5 & exit 0"] {
            assert!(outcome(script, Duration::from_millis(200)).unwrap_err().contains("too long"), "{script}");
        }
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}
