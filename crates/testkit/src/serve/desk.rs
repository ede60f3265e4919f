//! Who gives out the tokens that a registry wants: [token authentication], with tokens that a real registry believes.
//!
//! [token authentication]: https://distribution.github.io/distribution/spec/auth/jwt/

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, KeyPair};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

use super::registry::USER;

/// What the registry is called in tokens, and who gives them out.
pub(super) const SERVICE: &str = "registry";
pub(super) const ISSUER: &str = "desk";

/// Gives [`USER`] every token, and everybody else those for reading. It listens as long as the test runs.
#[derive(Clone)]
pub struct TokenDesk(Arc<State>);

struct State {
    address: String,
    key: KeyPair,
    certificate: rcgen::Certificate,
    /// The scopes that were asked for, request by request.
    asked: Mutex<Vec<Vec<String>>>,
}

impl TokenDesk {
    /// Starts it on a loopback port.
    #[expect(clippy::new_without_default, reason = "a new key is no default")]
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let desk = Self(Arc::new(State { address, key, certificate, asked: Mutex::default() }));
        let serving = desk.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let desk = serving.clone();
                thread::spawn(move || desk.serve(&client.unwrap()));
            }
        });
        desk
    }

    /// Where tokens are given out.
    pub fn realm(&self) -> String {
        format!("http://{}/token", self.0.address)
    }

    /// The certificate of its signatures, as PEM.
    pub fn certificate(&self) -> String {
        self.0.certificate.pem()
    }

    /// The scopes that were asked for, request by request.
    pub fn asked(&self) -> Vec<Vec<String>> {
        self.0.asked.lock().unwrap().clone()
    }

    fn serve(&self, client: &TcpStream) {
        let head: Vec<String> =
            BufReader::new(client).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        let Some(first) = head.first() else { return };
        let query = first.split(' ').nth(1).unwrap().split_once('?').map_or("", |(_, query)| query);
        let plain = |text: &str| text.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",").replace("%2A", "*");
        let scopes: Vec<_> = query.split('&').filter_map(|pair| pair.strip_prefix("scope=")).map(plain).collect();
        let shown = head.iter().find(|line| line.to_ascii_lowercase().starts_with("authorization:"));
        let right = format!("Basic {}", STANDARD.encode(format!("{}:{}", USER.0, USER.1)));
        let is_user = shown.map(|line| line.split_once(": ").unwrap().1 == right);
        self.0.asked.lock().unwrap().push(scopes.clone());
        let (status, body) = match is_user {
            Some(false) => ("401 Unauthorized", "{}".to_owned()),
            known => ("200 OK", format!(r#"{{"token":"{}"}}"#, self.token(&scopes, known.is_some()))),
        };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        let _ = (&mut &*client).write_all(answer.as_bytes());
    }

    fn token(&self, scopes: &[String], everything: bool) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let access = scopes.iter().map(|scope| {
            let (kind, rest) = scope.split_once(':').unwrap();
            let (name, actions) = rest.rsplit_once(':').unwrap();
            let granted = actions.split(',').filter(|action| everything || *action == "pull");
            let granted = granted.map(|action| format!("\"{action}\"")).collect::<Vec<_>>().join(",");
            format!(r#"{{"type":"{kind}","name":"{name}","actions":[{granted}]}}"#)
        });
        let access = access.collect::<Vec<_>>().join(",");
        let certificate = STANDARD.encode(self.0.certificate.der());
        let header = format!(r#"{{"typ":"JWT","alg":"ES256","x5c":["{certificate}"]}}"#);
        let (from, to) = ((now - Duration::from_secs(60)).as_secs(), (now + Duration::from_secs(600)).as_secs());
        let claims = format!(
            r#"{{"iss":"{ISSUER}","sub":"me","aud":"{SERVICE}","exp":{to},"nbf":{from},"iat":{from},"jti":"1","access":[{access}]}}"#
        );
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &self.0.key.serialize_der(), &random);
        let signature = key.unwrap().sign(&random, signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
