//! Encodes fields to bytes.

use std::borrow::Cow;

use zeroize::Zeroizing;

use super::{HEADER, kind};

/// A field of a message. Borrows key material.
pub(crate) struct Field<'a> {
    tag: u32,
    value: Value<'a>,
}

enum Value<'a> {
    Structure(Vec<Field<'a>>),
    Integer(i32),
    Enumeration(u32),
    Text(Cow<'a, str>),
    Bytes(&'a [u8]),
    DateTime(i64),
}

impl<'a> Field<'a> {
    pub(crate) fn structure(tag: u32, fields: Vec<Self>) -> Self {
        Self { tag, value: Value::Structure(fields) }
    }

    pub(crate) fn integer(tag: u32, value: i32) -> Self {
        Self { tag, value: Value::Integer(value) }
    }

    pub(crate) fn enumeration(tag: u32, value: u32) -> Self {
        Self { tag, value: Value::Enumeration(value) }
    }

    pub(crate) fn text(tag: u32, value: impl Into<Cow<'a, str>>) -> Self {
        Self { tag, value: Value::Text(value.into()) }
    }

    pub(crate) fn bytes(tag: u32, value: &'a [u8]) -> Self {
        Self { tag, value: Value::Bytes(value) }
    }

    /// A time in seconds since 1970.
    pub(crate) fn date_time(tag: u32, seconds: i64) -> Self {
        Self { tag, value: Value::DateTime(seconds) }
    }

    /// Encodes the field in a buffer of the exact size. A growing buffer would leave copies of key material behind.
    pub(crate) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(self.size()));
        self.write(&mut out);
        out
    }

    /// The length of the value, without its padding to a multiple of 8.
    fn length(&self) -> usize {
        match &self.value {
            Value::Structure(fields) => fields.iter().map(Self::size).sum(),
            Value::Integer(_) | Value::Enumeration(_) => 4,
            Value::Text(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
            Value::DateTime(_) => 8,
        }
    }

    fn size(&self) -> usize {
        HEADER + self.length().next_multiple_of(8)
    }

    fn write(&self, out: &mut Vec<u8>) {
        let kind = match &self.value {
            Value::Structure(_) => kind::STRUCTURE,
            Value::Integer(_) => kind::INTEGER,
            Value::Enumeration(_) => kind::ENUMERATION,
            Value::Text(_) => kind::TEXT,
            Value::Bytes(_) => kind::BYTES,
            Value::DateTime(_) => kind::DATE_TIME,
        };
        let length = self.length();
        out.extend_from_slice(&(self.tag << 8 | u32::from(kind)).to_be_bytes());
        // Our messages hold a few names and a KEK of 8 KiB at most.
        out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        match &self.value {
            Value::Structure(fields) => fields.iter().for_each(|field| field.write(out)),
            Value::Integer(value) => out.extend_from_slice(&value.to_be_bytes()),
            Value::Enumeration(value) => out.extend_from_slice(&value.to_be_bytes()),
            Value::Text(text) => out.extend_from_slice(text.as_bytes()),
            Value::Bytes(bytes) => out.extend_from_slice(bytes),
            Value::DateTime(seconds) => out.extend_from_slice(&seconds.to_be_bytes()),
        }
        let padding = length.next_multiple_of(8) - length;
        out.extend(std::iter::repeat_n(0, padding));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_has_the_exact_size_and_values_are_filled_up() {
        let field = Field::structure(
            0x42_0078,
            vec![
                Field::integer(0x42_006a, 1),
                Field::text(0x42_0094, "abc123"),
                Field::bytes(0x42_0093, b"12345678"),
                Field::bytes(0x42_0093, b""),
            ],
        );
        let bytes = field.encode();
        assert_eq!(bytes.len(), 8 + 16 + 16 + 16 + 8);
        assert_eq!(bytes.capacity(), bytes.len());
        assert_eq!(bytes[8..24], *b"\x42\0\x6a\x02\0\0\0\x04\0\0\0\x01\0\0\0\0");
        assert_eq!(bytes[24..40], *b"\x42\0\x94\x07\0\0\0\x06abc123\0\0");
    }
}
