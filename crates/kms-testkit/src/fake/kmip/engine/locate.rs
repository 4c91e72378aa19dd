//! Locate.

use super::{DESTROYED, Engine, Object, Refused, register::given};
use crate::fake::kmip::{
    clock::random,
    codec::Node,
    quirks::{Filter, Order},
};

impl Engine {
    pub(super) fn locate(&mut self, payload: &Node, version: (i32, i32)) -> Result<Vec<Node>, Refused> {
        let mut wanted = given(payload, version)?;
        let quirks = &self.quirks;
        for (tag, habit) in [
            (0x42_0057, quirks.filter_type),
            (0x42_008d, quirks.filter_state),
            (0x42_0039, quirks.filter_date),
            (0x42_0056, quirks.filter_group),
        ] {
            match habit {
                Filter::Honoured => {}
                Filter::Ignored => wanted.retain(|(known, _)| *known != tag),
                Filter::Refused if wanted.iter().any(|(known, _)| *known == tag) => {
                    return Err((0x07, "Locate does not support this attribute"));
                }
                Filter::Refused => {}
            }
        }
        if quirks.no_group && wanted.iter().any(|(tag, _)| *tag == 0x42_0056) {
            return Err((0x07, "there are no object groups"));
        }
        let fits = |object: &&Object| {
            let seen = object.state != DESTROYED || quirks.destroyed_reason;
            seen && (quirks.locate_ignores_filter || matches(object, &wanted))
        };
        let mut found: Vec<_> = self.objects.iter().filter(fits).map(|object| object.uid.clone()).collect();
        match quirks.order {
            Order::Oldest => {}
            Order::Newest => found.reverse(),
            Order::Random => found.sort_by_cached_key(|_| random()),
        }
        if found.is_empty() && quirks.locate_not_found {
            return Err(self.missing());
        }
        let total = found.len();
        let number = |tag| payload.number(tag).and_then(|number| usize::try_from(number).ok());
        if let Some(offset) = number(0x42_00d4) {
            if version < (1, 3) {
                return Err((0x04, "there are no Offset Items before KMIP 1.3"));
            }
            if !quirks.ignores_offset {
                drop(found.drain(..offset.min(total)));
            }
        }
        if let Some(maximum) = number(0x42_004f).filter(|_| !quirks.ignores_maximum) {
            found.truncate(maximum);
        }
        found.truncate(quirks.locate_limit.unwrap_or(usize::MAX));
        // KMIP 1.4 §4.9: the ID placeholder is set if one object is returned, and empty after several.
        self.placeholder = if let [one] = found.as_slice() { Some(one.clone()) } else { None };
        let count = quirks.located_items && version >= (1, 3);
        let count = count.then(|| Node::Int(0x42_00d5, i32::try_from(total).unwrap_or(i32::MAX)));
        Ok(count.into_iter().chain(found.into_iter().map(|uid| Node::Text(0x42_0094, uid))).collect())
    }
}

/// Whether an object has all these attributes.
fn matches(object: &Object, wanted: &[(u32, Node)]) -> bool {
    let number = |value: &Node| if let Node::Enum(_, number) = value { Some(*number) } else { None };
    let dates = wanted.iter().filter_map(|(tag, value)| match value {
        Node::Time(_, date) if *tag == 0x42_0039 => Some(*date),
        _ => None,
    });
    let in_range = dates.clone().min().is_none_or(|first| object.date >= first)
        && dates.max().is_none_or(|last| object.date <= last);
    in_range
        && wanted.iter().all(|(tag, value)| match tag {
            0x42_0053 => object.names.iter().any(|name| Some(name.as_str()) == value.words(0x42_0055)),
            0x42_0004 => object.application.iter().any(|(namespace, data)| {
                Some(namespace.as_str()) == value.words(0x42_0003)
                    && Some(data.as_str()) == value.words(0x42_0002)
            }),
            0x42_0056 => object.groups.iter().any(|group| Some(group.as_str()) == value.text()),
            0x42_0057 => number(value) == Some(object.kind),
            0x42_008d => number(value) == Some(object.state),
            _ => true,
        })
}
