//! What a file is that is no session file, so that the message says more than that.

/// Bytes of a file that tell.
pub(super) const HEAD_BYTES: usize = 16;

/// Only a file can be read as one, and not a stream.
#[cfg(feature = "sqlite")]
const IS_DATABASE: &str = "an SQLite database: it is read by its path, and not as a text";
#[cfg(not(feature = "sqlite"))]
const IS_DATABASE: &str =
    "an SQLite database, which the feature `sqlite` of cloakroom reads; this was built without it";

const MAGICS: [(&[u8], &str); 12] = [
    (b"SQLite format 3\0", IS_DATABASE),
    (&[0x1f, 0x8b], "gzip data: unpack it first"),
    (b"PK\x03\x04", "a zip archive: unpack it first"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "Zstandard data: unpack it first"),
    (b"\xfd7zXZ\0", "xz data: unpack it first"),
    (b"BZh", "bzip2 data: unpack it first"),
    (b"CLOAKBAK", "a backup of a store, which is restored and not imported"),
    (&[0xff, 0xfe], "UTF-16 text: convert it to UTF-8 first"),
    (&[0xfe, 0xff], "UTF-16 text: convert it to UTF-8 first"),
    (b"{\0", "UTF-16 text: convert it to UTF-8 first"),
    (b"\0{", "UTF-16 text: convert it to UTF-8 first"),
    (&[0; 2], "zero bytes, as a power cut leaves them"),
];

/// Tells a file of another kind by its first bytes.
pub(super) fn of_head(head: &[u8]) -> Option<&'static str> {
    MAGICS.into_iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, kind)| kind)
}

/// Tells what else a text is by its first character that is no white space.
pub(super) fn of_first(byte: u8) -> &'static str {
    match byte {
        b'[' => "a list",
        b'"' => "a text",
        b'-' | b'0'..=b'9' => "a number, or another text",
        b'<' => "HTML or XML",
        0x20..=0x7e => "another text",
        _ => "binary data, or text in another encoding",
    }
}

/// Names the kind of a value of JSON by how it begins.
pub(super) fn of_value(text: &str) -> &'static str {
    match text.trim_ascii_start().bytes().next() {
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b'"') => "a text",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        _ => "a number",
    }
}
