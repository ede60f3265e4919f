//! Who we say we are, and whom we believe.

/// What a client needs to be let in, and how it knows whom it talks to.
#[derive(Debug, Clone, Default)]
pub struct Access {}
