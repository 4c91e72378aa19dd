//! The encoding of KMIP messages: tag, type, length, value (KMIP 1.4 §9.1).
//!
//! Encoder and decoder are our own (decision 0005). The encoder writes key material once, into a buffer of the exact
//! size. The decoder reads it in place, and no frame of a server can make the decoder panic or allocate.

pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod tag;

pub(crate) use self::{decode::Item, encode::Field};

/// The item types (KMIP 1.4 §9.1.1.2, and Date Time Extended of 2.0).
pub(crate) mod kind {
    pub(crate) const STRUCTURE: u8 = 0x01;
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const LONG_INTEGER: u8 = 0x03;
    pub(crate) const BIG_INTEGER: u8 = 0x04;
    pub(crate) const ENUMERATION: u8 = 0x05;
    pub(crate) const BOOLEAN: u8 = 0x06;
    pub(crate) const TEXT: u8 = 0x07;
    pub(crate) const BYTES: u8 = 0x08;
    pub(crate) const DATE_TIME: u8 = 0x09;
    pub(crate) const INTERVAL: u8 = 0x0a;
    pub(crate) const DATE_TIME_EXTENDED: u8 = 0x0b;
}

/// The size of an item's header: tag (3 bytes), type (1) and length (4).
pub(crate) const HEADER: usize = 8;
