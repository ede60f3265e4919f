//! Memory that is given back.

/// No bytes yet, with room for 33 MiB. Pages that nobody writes to take nothing, and when it is freed, nothing of it stays: of what is
/// smaller than 32 MiB, `malloc` of glibc keeps what it may need once more, beside all that it takes to carry an image.
pub(crate) fn with_room() -> Vec<u8> {
    Vec::with_capacity(33 << 20)
}
