//! What whoever sends an image is told: one line of JSON that a person can read as it stands.

use diskferry::Kind;
use diskferry_remote::escape::json_line;
use hyper::header::{CONNECTION, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::intake::{Outcome, Place, Refusal};
use crate::serve::{Body, text};
use crate::status::Board;
use crate::verdict::{DEADLINE, Verdict};

const JSON: &str = "application/json";

/// What whoever has begun an upload calls it, which is ours alone.
pub const ID: HeaderName = HeaderName::from_static("upload-id");

/// Headers of [resumable uploads](https://tus.io/protocols/resumable-upload), which others understand as well.
pub const OFFSET: HeaderName = HeaderName::from_static("upload-offset");
pub const LENGTH: HeaderName = HeaderName::from_static("upload-length");
pub const DEFER_LENGTH: HeaderName = HeaderName::from_static("upload-defer-length");
pub const RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
pub const VERSION: HeaderName = HeaderName::from_static("tus-version");
pub const EXTENSION: HeaderName = HeaderName::from_static("tus-extension");
/// The version of that protocol which is spoken.
pub const TUS: HeaderValue = HeaderValue::from_static("1.0.0");

/// The length is said later.
pub const DEFERRED: HeaderValue = HeaderValue::from_static("1");

/// Code of what belongs to a beginning that is over.
const BEGUN_ANEW: &str = "begun-anew";

/// When somebody who was sent away may come again, in seconds.
const AGAIN: HeaderValue = HeaderValue::from_static("5");

/// An answer with an error in it.
pub fn error(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    let object = json!({ "error": { "code": code, "message": message } });
    let mut answer = text(status, JSON, line(&object));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        answer.headers_mut().insert(RETRY_AFTER, AGAIN);
    }
    // What is left of the body is read for a while and then no more.
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// `object` on a line. It may have the words of a registry in it, and whoever has sent the image may be at a terminal.
fn line(object: &Value) -> String {
    json_line(object) + "\n"
}

/// What is known of the image.
pub fn status(board: &Board, place: &Place) -> Response<Body> {
    let mut object = serde_json::to_value(board.snapshot()).unwrap_or_default();
    if let Some(object) = object.as_object_mut() {
        object.insert("upload-offset".into(), json!(place.offset));
        object.insert("upload-length".into(), json!(place.total));
        object.insert("upload-busy".into(), json!(place.is_busy));
    }
    placed(text(StatusCode::OK, JSON, line(&object)), place)
}

/// The same, with where to go on in the headers.
pub fn placed(mut answer: Response<Body>, place: &Place) -> Response<Body> {
    let headers = answer.headers_mut();
    headers.insert(OFFSET, place.offset.into());
    headers.extend(place.total.map(|total| (LENGTH, total.into())));
    headers.extend((place.is_open && place.total.is_none()).then_some((DEFER_LENGTH, DEFERRED)));
    headers.insert(RESUMABLE, TUS);
    named(answer, place)
}

/// The same, with whose it is.
fn named(mut answer: Response<Body>, place: &Place) -> Response<Body> {
    answer.headers_mut().extend(place.id.clone().map(|id| (ID, id.into_value())));
    answer
}

/// How the image has ended, for who has sent it.
pub fn outcome(outcome: &Outcome, board: &Board, place: &Place) -> Response<Body> {
    match outcome {
        Outcome::Good => status(board, place),
        Outcome::Bad(verdict) => refused(verdict),
    }
}

fn refused(verdict: &Verdict) -> Response<Body> {
    let status = match (verdict.code.as_str(), verdict.kind) {
        ("target-too-small" | "max-size" | "spool-limit", _) => StatusCode::PAYLOAD_TOO_LARGE,
        (_, Some(Kind::Image | Kind::Mismatch)) => StatusCode::UNPROCESSABLE_ENTITY,
        ("source-stalled" | DEADLINE, _) => StatusCode::REQUEST_TIMEOUT,
        (_, Some(Kind::Stopped)) => StatusCode::SERVICE_UNAVAILABLE,
        ("target-no-space", _) => StatusCode::INSUFFICIENT_STORAGE,
        (_, Some(Kind::Target)) if verdict.is_transient() => StatusCode::BAD_GATEWAY,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let object = json!({ "error": verdict });
    let mut answer = text(status, JSON, line(&object));
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// Why somebody cannot send now.
pub fn refusal(refusal: &Refusal, ended: Option<&Outcome>, place: &Place) -> Response<Body> {
    let conflict = |code, message: &str| error(StatusCode::CONFLICT, code, message);
    let answer = match (refusal, ended) {
        (Refusal::Over, Some(Outcome::Bad(verdict))) => refused(verdict),
        (Refusal::Over, _) => conflict("already-done", "the image is there already"),
        (Refusal::Busy, _) => {
            error(StatusCode::SERVICE_UNAVAILABLE, "busy", "somebody is sending an image, or it is being dealt with")
        }
        (Refusal::Another, _) => conflict(BEGUN_ANEW, "another upload than this one was begun since"),
        (Refusal::Elsewhere { offset }, _) => {
            let message = format!("byte {offset} is missing next: go on there, or begin anew");
            let mut answer = conflict("wrong-offset", &message);
            answer.headers_mut().insert(OFFSET, (*offset).into());
            answer.headers_mut().insert(RESUMABLE, TUS);
            answer
        }
        (Refusal::OtherLength { total }, _) => {
            let message = format!("the image was said to have {total} bytes: begin anew if it is another");
            conflict("other-length", &message)
        }
    };
    named(answer, place)
}

/// The upload was begun anew while it was sent.
pub fn begun_anew(place: &Place) -> Response<Body> {
    named(error(StatusCode::CONFLICT, BEGUN_ANEW, "somebody has begun to send an image anew"), place)
}
