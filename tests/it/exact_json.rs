//! JSON values that are equal only if nothing was lost: numbers are compared by their text.

use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Exact {
    /// A number, or a bare word: `null`, `true`, `NaN`.
    Word(String),
    Text(String),
    List(Vec<Exact>),
    Object(BTreeMap<String, Exact>),
}

impl Exact {
    /// Reads what Python writes.
    pub(crate) fn parse(text: &str) -> Self {
        let text = text.trim_start_matches('\u{feff}');
        let mut at = 0;
        let value = parse(text, &mut at);
        assert_eq!(text[at..].trim(), "", "the text goes on after its value");
        value
    }

    pub(crate) fn fields(&self) -> &BTreeMap<String, Exact> {
        match self {
            Self::Object(fields) => fields,
            other => panic!("{other:?} is no object"),
        }
    }

    pub(crate) fn fields_mut(&mut self) -> &mut BTreeMap<String, Exact> {
        match self {
            Self::Object(fields) => fields,
            other => panic!("{other:?} is no object"),
        }
    }

    pub(crate) fn entry(&mut self, key: &str) -> &mut BTreeMap<String, Exact> {
        self.fields_mut().get_mut(key).unwrap_or_else(|| panic!("no {key}")).fields_mut()
    }
}

fn space(text: &str, at: &mut usize) {
    *at += text[*at..].len() - text[*at..].trim_start().len();
}

fn eat(text: &str, at: &mut usize, token: char) -> bool {
    space(text, at);
    let is_there = text[*at..].starts_with(token);
    *at += if is_there { token.len_utf8() } else { 0 };
    is_there
}

fn string(text: &str, at: &mut usize) -> String {
    let mut strings = serde_json::Deserializer::from_str(&text[*at..]).into_iter::<Units>();
    let Units(found) = strings.next().unwrap().unwrap();
    *at += strings.byte_offset();
    found
}

/// A string, in which `U+10FFFD`, four digits, stands for half of a surrogate pair.
struct Units(String);

impl<'de> serde::Deserialize<'de> for Units {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl serde::de::Visitor<'_> for Bytes {
            type Value = Units;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }

            /// serde_json hands out the halves as if they were characters of their own.
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Units, E> {
                let mut text = String::new();
                let mut rest = bytes;
                while let Some(half) = rest.windows(2).position(|pair| pair[0] == 0xed && pair[1] >= 0xa0) {
                    text += std::str::from_utf8(&rest[..half]).map_err(E::custom)?;
                    let unit = 0xd000 | u32::from(rest[half + 1] & 0x3f) << 6 | u32::from(rest[half + 2] & 0x3f);
                    text += &format!("\u{10fffd}{unit:04x}");
                    rest = &rest[half + 3..];
                }
                text += std::str::from_utf8(rest).map_err(E::custom)?;
                Ok(Units(text))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

fn parse(text: &str, at: &mut usize) -> Exact {
    space(text, at);
    if text[*at..].starts_with('"') {
        return Exact::Text(string(text, at));
    }
    if eat(text, at, '{') {
        let mut fields = BTreeMap::new();
        while !eat(text, at, '}') {
            eat(text, at, ',');
            space(text, at);
            let name = string(text, at);
            assert!(eat(text, at, ':'));
            fields.insert(name, parse(text, at));
        }
        return Exact::Object(fields);
    }
    if eat(text, at, '[') {
        let mut items = Vec::new();
        while !eat(text, at, ']') {
            eat(text, at, ',');
            items.push(parse(text, at));
        }
        return Exact::List(items);
    }
    let rest = &text[*at..];
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c)).unwrap_or(rest.len());
    assert!(end > 0, "no value at {at}");
    *at += end;
    Exact::Word(rest[..end].into())
}
