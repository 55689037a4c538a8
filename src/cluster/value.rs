//! Answers of a server, taken apart. What has not the shape that was asked for counts as nothing.

use redis::Value;

pub(super) fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::Okay => Some("OK".to_owned()),
        Value::Int(number) => Some(number.to_string()),
        _ => bytes(value).map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
    }
}

pub(super) fn list(value: &Value) -> &[Value] {
    match value {
        Value::Array(values) | Value::Set(values) => values,
        _ => &[],
    }
}

pub(super) fn int(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        // A score: whole numbers are exact up to 2^53.
        Value::Double(number) => Some(*number as i64),
        _ => {
            let text = std::str::from_utf8(bytes(value)?).ok()?;
            text.parse().ok().or_else(|| text.parse::<f64>().ok().map(|number| number as i64))
        }
    }
}

/// One of a list.
pub(super) fn at(values: &[Value], place: usize) -> &Value {
    values.get(place).unwrap_or(&Value::Nil)
}

/// Name and value, name and value, …
pub(super) fn pairs(value: &Value) -> Vec<(&Value, &Value)> {
    match value {
        Value::Map(pairs) => pairs.iter().map(|(name, value)| (name, value)).collect(),
        _ => list(value).chunks_exact(2).map(|pair| (at(pair, 0), at(pair, 1))).collect(),
    }
}
