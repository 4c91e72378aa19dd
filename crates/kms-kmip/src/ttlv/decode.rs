//! Decodes bytes to items.
//!
//! The decoder checks the whole frame once and reads it in place, without allocating or copying.

use std::fmt;

use super::{HEADER, kind};

/// The maximum nesting depth of structures. Real responses have 7 levels.
const MAX_DEPTH: usize = 16;

/// Why a frame is not TTLV.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Malformed {
    /// The frame ends within an item.
    Short,
    /// A tag is outside both ranges (KMIP 1.4 §9.1.1.1).
    Tag,
    /// An item has an unknown type.
    Type,
    /// A value of a fixed-size type has another size.
    Length,
    /// Structures are nested too deeply.
    Depth,
    /// Bytes follow the outermost item.
    Trailing,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short => "it ends within an item",
            Self::Tag => "it has an invalid tag",
            Self::Type => "it has an item of an unknown type",
            Self::Length => "it has an item of a wrong length",
            Self::Depth => "its structures are nested too deeply",
            Self::Trailing => "something follows its end",
        })
    }
}

impl std::error::Error for Malformed {}

/// An item of a checked frame.
#[derive(Clone, Copy)]
pub(crate) struct Item<'a> {
    tag: u32,
    kind: u8,
    value: &'a [u8],
}

impl fmt::Debug for Item<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The value may be key material.
        let Self { tag, kind, value } = self;
        write!(f, "Item({tag:06x}, type {kind}, {} bytes)", value.len())
    }
}

impl<'a> Item<'a> {
    /// Checks a whole frame and returns its outermost item.
    pub(crate) fn parse(frame: &'a [u8]) -> Result<Self, Malformed> {
        let (item, rest) = Self::first(frame)?;
        if !rest.is_empty() {
            return Err(Malformed::Trailing);
        }
        item.check(1)?;
        Ok(item)
    }

    /// Splits bytes into the first item and the bytes after it.
    fn first(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Malformed> {
        let (header, rest) = bytes.split_first_chunk::<HEADER>().ok_or(Malformed::Short)?;
        let [first, second, third, kind, length @ ..] = *header;
        if !matches!(first, 0x42 | 0x54) {
            return Err(Malformed::Tag);
        }
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_huge| Malformed::Short)?;
        let padded = length.checked_next_multiple_of(8).ok_or(Malformed::Short)?;
        let fixed = match kind {
            kind::STRUCTURE | kind::TEXT | kind::BYTES => None,
            // A big integer includes its own padding, so its length is a multiple of 8.
            kind::BIG_INTEGER if length.is_multiple_of(8) => None,
            kind::BIG_INTEGER => return Err(Malformed::Length),
            kind::INTEGER | kind::ENUMERATION | kind::INTERVAL => Some(4),
            kind::LONG_INTEGER | kind::BOOLEAN | kind::DATE_TIME | kind::DATE_TIME_EXTENDED => Some(8),
            _ => return Err(Malformed::Type),
        };
        if fixed.is_some_and(|fixed| fixed != length) {
            return Err(Malformed::Length);
        }
        let value = rest.get(..length).ok_or(Malformed::Short)?;
        let rest = rest.get(padded..).ok_or(Malformed::Short)?;
        Ok((Self { tag: u32::from_be_bytes([0, first, second, third]), kind, value }, rest))
    }

    fn check(&self, depth: usize) -> Result<(), Malformed> {
        if self.kind != kind::STRUCTURE {
            return Ok(());
        }
        if depth > MAX_DEPTH {
            return Err(Malformed::Depth);
        }
        let mut rest = self.value;
        while !rest.is_empty() {
            let (item, after) = Self::first(rest)?;
            item.check(depth + 1)?;
            rest = after;
        }
        Ok(())
    }

    pub(crate) fn tag(&self) -> u32 {
        self.tag
    }

    pub(crate) fn is_structure(&self) -> bool {
        self.kind == kind::STRUCTURE
    }

    /// The items of a structure; empty for an item of any other type.
    pub(crate) fn children(&self) -> impl Iterator<Item = Item<'a>> + use<'a> {
        let mut rest = if self.is_structure() { self.value } else { &[] };
        std::iter::from_fn(move || {
            // `parse` has checked the items, so an error means the end of the structure.
            let (item, after) = Self::first(rest).ok()?;
            rest = after;
            Some(item)
        })
    }

    /// The items of a structure with this tag.
    pub(crate) fn all(&self, tag: u32) -> impl Iterator<Item = Item<'a>> + use<'a> {
        self.children().filter(move |item| item.tag == tag)
    }

    /// The first item of a structure with this tag.
    pub(crate) fn child(&self, tag: u32) -> Option<Self> {
        self.all(tag).next()
    }

    pub(crate) fn integer(&self) -> Option<i32> {
        let bytes = (self.kind == kind::INTEGER).then_some(self.value)?;
        Some(i32::from_be_bytes(bytes.try_into().ok()?))
    }

    pub(crate) fn enumeration(&self) -> Option<u32> {
        let bytes = (self.kind == kind::ENUMERATION).then_some(self.value)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }

    pub(crate) fn date_time(&self) -> Option<i64> {
        let bytes = (self.kind == kind::DATE_TIME).then_some(self.value)?;
        Some(i64::from_be_bytes(bytes.try_into().ok()?))
    }

    pub(crate) fn text(&self) -> Option<&'a str> {
        let bytes = (self.kind == kind::TEXT).then_some(self.value)?;
        std::str::from_utf8(bytes).ok()
    }

    pub(crate) fn bytes(&self) -> Option<&'a [u8]> {
        (self.kind == kind::BYTES).then_some(self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Field, *};

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = Field::structure(
            0x42_007b,
            vec![
                Field::integer(0x42_000d, -1),
                Field::enumeration(0x42_005c, 0x8000_0001),
                Field::text(0x42_0094, "ä"),
                Field::structure(0x42_000f, vec![Field::bytes(0x42_0043, &[1, 2, 3])]),
                Field::integer(0x42_000d, 2),
            ],
        )
        .encode();
        let item = Item::parse(&bytes).unwrap();
        assert_eq!(item.tag(), 0x42_007b);
        assert_eq!(item.child(0x42_000d).unwrap().integer(), Some(-1));
        assert_eq!(item.child(0x42_005c).unwrap().enumeration(), Some(0x8000_0001));
        assert_eq!(item.child(0x42_0094).unwrap().text(), Some("ä"));
        assert_eq!(item.child(0x42_000f).unwrap().child(0x42_0043).unwrap().bytes(), Some(&[1, 2, 3][..]));
        assert_eq!(item.all(0x42_000d).count(), 2);
        assert_eq!(item.child(0x42_0094).unwrap().integer(), None);
        assert!(!format!("{item:?}").contains("[1"));
    }

    #[test]
    fn what_is_no_ttlv_is_refused() {
        let nested = |depth: usize| {
            (0..depth).fold(vec![], |inner: Vec<u8>, _| {
                let mut outer = vec![0x42, 0, 0x0f, 1];
                outer.extend_from_slice(&u32::try_from(inner.len()).unwrap().to_be_bytes());
                outer.extend(inner);
                outer
            })
        };
        assert!(Item::parse(&nested(16)).is_ok());
        let cases: [(&[u8], Malformed); 12] = [
            (b"", Malformed::Short),
            (b"\x42\0\x0d\x02\0\0\0", Malformed::Short),
            (b"\x42\0\x0d\x02\0\0\0\x04\0\0\0\x01", Malformed::Short),
            (b"\x41\0\x0d\x02\0\0\0\x04\0\0\0\x01\0\0\0\0", Malformed::Tag),
            (b"\x42\0\x0d\x0c\0\0\0\x04\0\0\0\x01\0\0\0\0", Malformed::Type),
            (b"\x42\0\x0d\x00\0\0\0\x00", Malformed::Type),
            (b"\x42\0\x0d\x02\0\0\0\x05\0\0\0\x01\0\0\0\0", Malformed::Length),
            (b"\x42\0\x0d\x04\0\0\0\x04\0\0\0\x01\0\0\0\0", Malformed::Length),
            (b"\x42\0\x7b\x01\xff\xff\xff\xff", Malformed::Short),
            (b"\x42\0\x94\x07\xff\xff\xff\xf9", Malformed::Short),
            (b"\x42\0\x94\x07\0\0\0\0\0", Malformed::Trailing),
            (&nested(17), Malformed::Depth),
        ];
        for (bytes, why) in cases {
            assert_eq!(Item::parse(bytes).unwrap_err(), why, "{bytes:02x?}");
        }
    }
}
