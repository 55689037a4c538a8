//! JSON as text: checked, split into fields and laid out, without a tree and without reading numbers.
//!
//! A number keeps the digits it was written with, Python's `NaN`, `Infinity` and `-Infinity` are let through, and so is
//! half of a surrogate pair (`\ud800`), which both gateways write where they cut an emoji: what a gateway stored comes
//! back as it was. No crate on offer does all of it without changing how the rest of the program reads JSON.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::Range;

/// How deep arrays and objects may nest.
pub(crate) const MAX_DEPTH: usize = 64;
/// The longest number, in bytes.
const MAX_NUMBER_BYTES: usize = 4096;

/// Why a text is refused. Messages are sentences about `it`, and hold nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JsonError {
    #[error("it is not JSON: at byte {at} of it, {expected} is expected")]
    Syntax { at: usize, expected: &'static str },
    #[error("it holds a string with a control character, at byte {at} of it")]
    Control { at: usize },
    #[error("it is nested deeper than {MAX_DEPTH} levels")]
    Depth,
    #[error("it holds a number of {bytes} bytes, and {MAX_NUMBER_BYTES} is the limit")]
    Number { bytes: usize },
}

type Result<T> = std::result::Result<T, JsonError>;

/// The fields of an object: names and values, the values without white space and each string in one spelling. `None`
/// if the text is another kind of value. Names are JSON strings in that spelling, for one may hold half of a surrogate
/// pair. Where a name comes twice both are there.
pub(crate) fn all_fields(text: &str) -> Result<Option<Vec<(String, String)>>> {
    let mut reader = Reader { text, at: 0 };
    reader.skip_space();
    if reader.peek() != Some(b'{') {
        normal(text)?;
        return Ok(None);
    }
    reader.at += 1;
    let mut fields: Vec<(String, String)> = Vec::with_capacity(32);
    reader.items(b'}', |reader| {
        let mut name = String::new();
        reader.string(&mut name)?;
        reader.colon()?;
        let mut value = String::new();
        reader.value(&mut value, 2)?;
        fields.push((name, value));
        Ok(())
    })?;
    reader.end()?;
    Ok(Some(fields))
}

/// As [`all_fields`], with the last of those that have one name, as everywhere.
pub(crate) fn fields(text: &str) -> Result<Option<Vec<(String, String)>>> {
    let mut fields = all_fields(text)?;
    if let Some(fields) = &mut fields {
        drop_repeated(fields);
    }
    Ok(fields)
}

/// Keeps the last of the fields with one name. Returns how many it dropped.
pub(crate) fn drop_repeated(fields: &mut Vec<(String, String)>) -> u64 {
    let mut names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let before = names.len();
    names.dedup();
    let dropped = before - names.len();
    if dropped == 0 {
        return 0;
    }
    let mut seen = std::collections::HashSet::new();
    fields.reverse();
    fields.retain(|(name, _)| seen.insert(name.clone()));
    fields.reverse();
    dropped as u64
}

/// Checks a text and writes it without white space, each string in one spelling.
pub(crate) fn normal(text: &str) -> Result<String> {
    normal_at(text, 1)
}

/// The same of a text that is to be the value of a field, which may nest one level less.
pub(crate) fn normal_field(text: &str) -> Result<String> {
    normal_at(text, 2)
}

fn normal_at(text: &str, depth: usize) -> Result<String> {
    let mut reader = Reader { text, at: 0 };
    let mut out = String::new();
    reader.skip_space();
    reader.value(&mut out, depth)?;
    reader.end()?;
    Ok(out)
}

/// The content of a JSON string, with U+FFFD for each half of a surrogate pair; `None` if the text is another kind of
/// value.
pub(crate) fn string(text: &str) -> Option<String> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains(['\\', '"']) { serde_json::from_str(&whole(text)).ok() } else { Some(inner.into()) }
}

/// The content of a JSON string, if it is one and has no half of a surrogate pair.
pub(crate) fn whole_string(text: &str) -> Option<String> {
    if has_half(text) { None } else { string(text) }
}

/// Whether a normal text has half of a surrogate pair somewhere.
pub(crate) fn has_half(text: &str) -> bool {
    halves(text).next().is_some()
}

/// A normal text with U+FFFD for each half of a surrogate pair, as other readers of JSON want it.
pub(crate) fn whole(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut from = 0;
    for half in halves(text) {
        out.push_str(text.get(from..half.start).unwrap_or_default());
        out.push(char::REPLACEMENT_CHARACTER);
        from = half.end;
    }
    if from == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(text.get(from..).unwrap_or_default());
    Cow::Owned(out)
}

/// Where the escapes are that stand for half of a surrogate pair.
fn halves(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    const ESCAPE: usize = r"\ud800".len();
    let unit = |at: usize| {
        let digits = text.get(at..at + ESCAPE)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let start = at + text.get(at..)?.find('\\')?;
            at = match unit(start) {
                Some(0xd800..=0xdbff) if matches!(unit(start + ESCAPE), Some(0xdc00..=0xdfff)) => start + 2 * ESCAPE,
                Some(0xd800..=0xdfff) => {
                    at = start + ESCAPE;
                    return Some(start..at);
                }
                _ => start + 2,
            };
        }
    })
}

/// A text as a JSON string.
pub(crate) fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Whether a number has no fraction and no exponent.
pub(crate) fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Lays a normal text out over lines, two spaces a level, as both gateways write it.
pub(crate) fn pretty(normal: &str, mut level: usize, out: &mut String) {
    let mut rest = normal.char_indices().peekable();
    let line = |out: &mut String, level: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", level));
    };
    while let Some((start, c)) = rest.next() {
        match c {
            '{' | '[' => {
                out.push(c);
                if let Some((_, close)) = rest.next_if(|(_, next)| matches!(next, '}' | ']')) {
                    out.push(close);
                } else {
                    level += 1;
                    line(out, level);
                }
            }
            '}' | ']' => {
                level = level.saturating_sub(1);
                line(out, level);
                out.push(c);
            }
            ',' => {
                out.push(',');
                line(out, level);
            }
            ':' => out.push_str(": "),
            '"' => {
                let mut escaped = false;
                let end = rest.by_ref().find(|(_, c)| {
                    let ends = *c == '"' && !escaped;
                    escaped = *c == '\\' && !escaped;
                    ends
                });
                let end = end.map_or(normal.len(), |(at, _)| at + 1);
                out.push_str(normal.get(start..end).unwrap_or_default());
            }
            _ => out.push(c),
        }
    }
}

/// Reads a text once, from the front.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn expected<T>(&self, expected: &'static str) -> Result<T> {
        Err(JsonError::Syntax { at: self.at, expected })
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn end(&mut self) -> Result<()> {
        self.skip_space();
        if self.peek().is_some() { self.expected("the end") } else { Ok(()) }
    }

    fn colon(&mut self) -> Result<()> {
        self.skip_space();
        if self.peek() != Some(b':') {
            return self.expected("a colon");
        }
        self.at += 1;
        self.skip_space();
        Ok(())
    }

    /// The items up to `close`, with commas between them; the opening bracket has been read.
    fn items(&mut self, close: u8, mut item: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.skip_space();
        if self.peek() == Some(close) {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.skip_space();
            item(self)?;
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(byte) if byte == close => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.expected("a comma or a closing bracket"),
            }
        }
    }

    /// One value, at `depth` if it is an array or an object. The recursion is as deep as the limit at most.
    fn value(&mut self, out: &mut String, depth: usize) -> Result<()> {
        let Some(byte) = self.peek() else { return self.expected("a value") };
        match byte {
            b'"' => self.string(out),
            b'{' | b'[' if depth > MAX_DEPTH => Err(JsonError::Depth),
            b'{' => {
                self.at += 1;
                out.push('{');
                let start = out.len();
                self.items(b'}', |reader| {
                    if out.len() > start {
                        out.push(',');
                    }
                    reader.string(out)?;
                    reader.colon()?;
                    out.push(':');
                    reader.value(out, depth + 1)
                })?;
                out.push('}');
                Ok(())
            }
            b'[' => {
                self.at += 1;
                out.push('[');
                let start = out.len();
                self.items(b']', |reader| {
                    if out.len() > start {
                        out.push(',');
                    }
                    reader.value(out, depth + 1)
                })?;
                out.push(']');
                Ok(())
            }
            _ => self.word(out),
        }
    }

    fn string(&mut self, out: &mut String) -> Result<()> {
        let start = self.at;
        if self.peek() != Some(b'"') {
            return self.expected("a string");
        }
        self.at += 1;
        let mut plain = true;
        loop {
            match self.peek() {
                None => return self.expected("the end of a string"),
                Some(b'"') => break,
                Some(b'\\') => {
                    plain = false;
                    self.at += 2;
                }
                Some(byte) if byte < 0x20 => return Err(JsonError::Control { at: self.at }),
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        let text = self.since(start);
        if plain {
            out.push_str(text);
            return Ok(());
        }
        let spelled = respelled(text).ok_or(JsonError::Syntax { at: start, expected: "a string with proper escapes" });
        out.push_str(&spelled?);
        Ok(())
    }

    /// A number or one of the bare words.
    fn word(&mut self, out: &mut String) -> Result<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')) {
            self.at += 1;
        }
        let word = self.since(start);
        let known = matches!(word, "true" | "false" | "null" | "NaN" | "Infinity" | "-Infinity");
        if !known && !is_number(word) {
            return Err(JsonError::Syntax { at: start, expected: "a value" });
        }
        if word.len() > MAX_NUMBER_BYTES {
            return Err(JsonError::Number { bytes: word.len() });
        }
        let _ = out.write_str(word);
        Ok(())
    }
}

/// A JSON string in the spelling of [`quote`], its halves of surrogate pairs in lower case; `None` if its escapes are not
/// right.
fn respelled(text: &str) -> Option<String> {
    let inner = |text: &str| {
        let content: String = serde_json::from_str(&format!("\"{text}\"")).ok()?;
        let quoted = quote(&content);
        Some(quoted.get(1..quoted.len() - 1)?.to_owned())
    };
    let mut out = String::from("\"");
    let mut from = 1;
    for half in halves(text) {
        out.push_str(&inner(text.get(from..half.start)?)?);
        out.push_str(&text.get(half.clone())?.to_ascii_lowercase());
        from = half.end;
    }
    out.push_str(&inner(text.get(from..text.len() - 1)?)?);
    out.push('"');
    Some(out)
}

/// The grammar of RFC 8259.
fn is_number(word: &str) -> bool {
    let digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let word = word.strip_prefix('-').unwrap_or(word);
    let whole = digits(word);
    if whole == 0 || (whole > 1 && word.starts_with('0')) {
        return false;
    }
    let mut rest = word.get(whole..).unwrap_or_default();
    if let Some(fraction) = rest.strip_prefix('.') {
        let length = digits(fraction);
        if length == 0 {
            return false;
        }
        rest = fraction.get(length..).unwrap_or_default();
    }
    if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        let length = digits(exponent);
        return length > 0 && length == exponent.len();
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_written_in_one_spelling() {
        let text = " { \"a\\u0062\" : [ 1 , 2.50e+1 , NaN , -Infinity ] , \"c\" : { } , \"d\":\"x\\/\\u00e9\" } ";
        assert_eq!(normal(text).unwrap(), r#"{"ab":[1,2.50e+1,NaN,-Infinity],"c":{},"d":"x/é"}"#);
    }

    #[test]
    fn the_last_of_two_fields_counts() {
        let got = fields(r#"{"a":1,"b":2,"a":3}"#).unwrap().unwrap();
        assert_eq!(got, [("\"b\"".into(), "2".into()), ("\"a\"".into(), "3".into())]);
    }

    #[test]
    fn half_of_a_surrogate_pair_is_kept_and_reads_as_a_replacement() {
        let text = r#"{"a\uD83D":["\ud83d\ude00 \uDE00\ud83d\ud83d\ude00 \\ud800 \\\udfff",1]}"#;
        let normal_text = r#"{"a\ud83d":["😀 \ude00\ud83d😀 \\ud800 \\\udfff",1]}"#;
        assert_eq!(normal(text).unwrap(), normal_text);
        assert_eq!(normal(normal_text).unwrap(), normal_text);
        assert_eq!(string(r#""x\ud83d\n""#).as_deref(), Some("x\u{fffd}\n"));
        assert_eq!((whole_string(r#""x\ud83d""#), whole_string(r#""x\\ud83d""#)), (None, Some(r"x\ud83d".into())));
        assert!(!has_half(r#""\ud83d\ude00""#) && has_half(r#""\ude00\ud83d""#));
        assert_eq!(whole(r#"["\ud800",1]"#), "[\"\u{fffd}\",1]");
        for bad in [r#""\ud80""#, r#""\ud80g""#, r#""\ud800\x""#, r#""\ud800\""#, r#""\u+800""#, r#""\u 80é""#] {
            assert!(matches!(normal(bad), Err(JsonError::Syntax { .. })), "{bad}");
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for bad in [
            "",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "{\"a\" 1}",
            "01",
            "1.",
            ".5",
            "1e",
            "--1",
            "nul",
            "'a'",
            "\"a",
            "1 2",
            "\"\\x\"",
            "{a:1}",
            "+1",
            "\"\\",
        ] {
            assert!(matches!(normal(bad), Err(JsonError::Syntax { .. })), "{bad}");
        }
        assert_eq!(normal("\"a\nb\""), Err(JsonError::Control { at: 2 }));
        assert_eq!(normal(&"7".repeat(5000)), Err(JsonError::Number { bytes: 5000 }));
        assert_eq!(normal(&"[".repeat(100_000)), Err(JsonError::Depth));
        assert!(normal(&format!("{}{}", "[".repeat(64), "]".repeat(64))).is_ok());
        assert_eq!(normal(&format!("{}{}", "[".repeat(65), "]".repeat(65))), Err(JsonError::Depth));
    }

    #[test]
    fn pretty_is_the_gateways_layout() {
        let mut out = String::new();
        pretty(r#"{"a":[1,"x,{\"y\\"],"b":{},"c":[]}"#, 1, &mut out);
        assert_eq!(
            out,
            "{\n    \"a\": [\n      1,\n      \"x,{\\\"y\\\\\"\n    ],\n    \"b\": {},\n    \"c\": []\n  }"
        );
    }
}
