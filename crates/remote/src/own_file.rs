//! Files that are the user's to write (certificates, credentials, settings), read whole, or refused if they are too long.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// All of the file at `path`, which must not have more than `most` bytes. The error does not name it.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {most} bytes")));
    }
    Ok(bytes)
}

/// The same of a text.
pub fn read_text(path: &Path, most: u64) -> io::Result<String> {
    String::from_utf8(read(path, most)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no text in UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_whole_or_not_at_all() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "word\n").unwrap();
        assert_eq!(read_text(file.path(), 5).unwrap(), "word\n");
        assert_eq!(read(file.path(), 4).unwrap_err().to_string(), "it has more than 4 bytes");
        std::fs::write(&file, b"w\xff").unwrap();
        assert_eq!(read_text(file.path(), 5).unwrap_err().to_string(), "it is no text in UTF-8");
        assert_eq!(read(Path::new("/dev/zero"), 1 << 20).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_file_may_have_as_many_bytes_as_are_allowed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for most in [1 << 20, 4 << 20, 16 << 20] {
            file.as_file().set_len(most).unwrap();
            assert_eq!(read(file.path(), most).unwrap().len() as u64, most);
            file.as_file().set_len(most + 1).unwrap();
            assert_eq!(read(file.path(), most).unwrap_err().to_string(), format!("it has more than {most} bytes"));
        }
    }
}
