//! What is sent with a request, watched while it leaves.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// What is handed to a connection at once: it tells us that it wants more only then.
const PIECE: usize = 64 << 10;

/// Bytes to send. Clones are of the same bytes, and count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Payload {
    bytes: Bytes,
    taken: Arc<AtomicU64>,
}

impl Payload {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self { bytes, taken: Arc::default() }
    }

    /// How many bytes connections have taken by now.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// The body of one request.
    pub(crate) fn body(&self) -> Sending {
        Sending { left: self.bytes.clone(), taken: Arc::clone(&self.taken) }
    }
}

/// See [`Payload::body`].
pub(crate) struct Sending {
    left: Bytes,
    taken: Arc<AtomicU64>,
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.left.is_empty() {
            return Poll::Ready(None);
        }
        let piece = this.left.split_to(PIECE.min(this.left.len()));
        this.taken.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}
