//! The double's own TTLV codec, so that client and double do not share errors.

/// A node of a message.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Struct(u32, Vec<Self>),
    Int(u32, i32),
    Enum(u32, u32),
    Bool(u32, bool),
    Text(u32, String),
    Bytes(u32, Vec<u8>),
    Time(u32, i64),
}

impl Node {
    pub(super) fn tag(&self) -> u32 {
        match self {
            Self::Struct(tag, _)
            | Self::Int(tag, _)
            | Self::Enum(tag, _)
            | Self::Bool(tag, _)
            | Self::Text(tag, _)
            | Self::Bytes(tag, _)
            | Self::Time(tag, _) => *tag,
        }
    }

    pub(super) fn nodes(&self) -> &[Self] {
        if let Self::Struct(_, nodes) = self { nodes } else { &[] }
    }

    pub(super) fn find(&self, tag: u32) -> Option<&Self> {
        self.nodes().iter().find(|node| node.tag() == tag)
    }

    pub(super) fn number(&self, tag: u32) -> Option<i64> {
        match self.find(tag)? {
            Self::Int(_, value) => Some(i64::from(*value)),
            Self::Enum(_, value) => Some(i64::from(*value)),
            _ => None,
        }
    }

    pub(super) fn words(&self, tag: u32) -> Option<&str> {
        self.find(tag)?.text()
    }

    pub(super) fn text(&self) -> Option<&str> {
        if let Self::Text(_, text) = self { Some(text) } else { None }
    }

    pub(super) fn write(&self) -> Vec<u8> {
        let (kind, value) = match self {
            Self::Struct(_, nodes) => (1_u8, nodes.iter().flat_map(Self::write).collect()),
            Self::Int(_, value) => (2, value.to_be_bytes().to_vec()),
            Self::Enum(_, value) => (5, value.to_be_bytes().to_vec()),
            Self::Bool(_, value) => (6, u64::from(*value).to_be_bytes().to_vec()),
            Self::Text(_, text) => (7, text.clone().into_bytes()),
            Self::Bytes(_, bytes) => (8, bytes.clone()),
            Self::Time(_, value) => (9, value.to_be_bytes().to_vec()),
        };
        let mut out = self.tag().to_be_bytes()[1..].to_vec();
        out.push(kind);
        out.extend(u32::try_from(value.len()).expect("a small message").to_be_bytes());
        out.extend(value);
        while !out.len().is_multiple_of(8) {
            out.push(0);
        }
        out
    }

    /// Decodes bytes; `None` if they are not TTLV.
    pub(super) fn read(mut bytes: &[u8]) -> Option<Vec<Self>> {
        let mut nodes = Vec::new();
        while !bytes.is_empty() {
            let tag = u32::from_be_bytes([0, *bytes.first()?, *bytes.get(1)?, *bytes.get(2)?]);
            let length = u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?) as usize;
            let value = bytes.get(8..8 + length)?;
            nodes.push(match bytes.get(3)? {
                1 => Self::Struct(tag, Self::read(value)?),
                2 => Self::Int(tag, i32::from_be_bytes(value.try_into().ok()?)),
                5 => Self::Enum(tag, u32::from_be_bytes(value.try_into().ok()?)),
                6 => Self::Bool(tag, value.last() == Some(&1)),
                7 => Self::Text(tag, String::from_utf8(value.to_vec()).ok()?),
                8 => Self::Bytes(tag, value.to_vec()),
                9 => Self::Time(tag, i64::from_be_bytes(value.try_into().ok()?)),
                _ => return None,
            });
            bytes = bytes.get(8 + length + (8 - length % 8) % 8..)?;
        }
        Some(nodes)
    }
}
