//! How the key-value engines store an entry: the layout of Cloakroom itself, so that engines are compared and not
//! layouts. A small hot record, a larger cold one, and an index row by minute that moves only across minutes.

use crate::support::people::Record;
use crate::support::stream::MINUTE;

pub const HOT_BYTES: usize = 20;

pub fn hot(updated_at: i64) -> [u8; HOT_BYTES] {
    let mut hot = [0; HOT_BYTES];
    hot[..8].copy_from_slice(&updated_at.to_le_bytes());
    hot
}

/// The same record with a later time.
pub fn touched(hot: &[u8], updated_at: i64) -> [u8; HOT_BYTES] {
    let mut hot: [u8; HOT_BYTES] = hot.try_into().unwrap();
    hot[..8].copy_from_slice(&updated_at.to_le_bytes());
    hot
}

/// Adds to the counter in the record, and sets the other where one is given.
pub fn counted(hot: &mut [u8; HOT_BYTES], added: u32, set: Option<i64>) {
    let total = u32::from_le_bytes(hot[8..12].try_into().unwrap()).wrapping_add(added);
    hot[8..12].copy_from_slice(&total.to_le_bytes());
    if let Some(set) = set {
        hot[12..].copy_from_slice(&set.to_le_bytes());
    }
}

pub fn updated_at(hot: &[u8]) -> i64 {
    i64::from_le_bytes(hot[..8].try_into().unwrap())
}

pub fn bucket(time: i64) -> [u8; 4] {
    u32::try_from(time / MINUTE).unwrap().to_be_bytes()
}

pub fn index_row(time: i64, key: &[u8]) -> Vec<u8> {
    [&bucket(time)[..], key].concat()
}

/// The texts of an entry, each with its length before it.
pub fn cold(record: &Record) -> Vec<u8> {
    let origin = &record.origin;
    let texts = [
        Some(&record.session_id),
        Some(&record.created_at),
        record.display_name.as_ref(),
        Some(&record.platform),
        Some(&record.chat_type),
        Some(&record.cost_status),
        origin.chat_id.as_ref(),
        origin.chat_name.as_ref(),
        origin.user_id.as_ref(),
        origin.user_name.as_ref(),
        origin.guild_id.as_ref(),
        origin.message_id.as_ref(),
    ];
    joined(texts.into_iter().map(|text| text.map_or("", String::as_str)))
}

fn joined<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(300);
    for text in texts {
        bytes.extend_from_slice(&u16::try_from(text.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

/// The same with another name to show.
pub fn renamed(cold: &[u8], name: String) -> Vec<u8> {
    let mut texts = texts(cold);
    texts[2] = name;
    joined(texts.iter().map(String::as_str))
}

/// The session id: the first text.
pub fn session_id(cold: &[u8]) -> &[u8] {
    let (length, rest) = cold.split_first_chunk::<2>().unwrap();
    &rest[..usize::from(u16::from_le_bytes(*length))]
}

/// And back: what a reader of an entry gets.
pub fn texts(mut cold: &[u8]) -> Vec<String> {
    let mut texts = Vec::with_capacity(12);
    while let Some((length, rest)) = cold.split_first_chunk::<2>() {
        let (text, rest) = rest.split_at(usize::from(u16::from_le_bytes(*length)));
        texts.push(std::str::from_utf8(text).unwrap().to_owned());
        cold = rest;
    }
    assert_eq!(texts.len(), 12);
    texts
}
